"""The translations that an installed Python package brings (gettext), as texts labeled by their language.

    gettext:django:de,en,fr      the catalogs LC_MESSAGES/*.mo of django in these languages

English are the messages themselves, as gettext's programs write them. All translations of a message are in
one split. The package is not imported.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from marina.core.errors import CallError
from training.data.text_rows import TextRow
from training.findings import Findings

PREFIX = "gettext:"
SOURCE = "en"  # the language that programs are written in
FORM = f"write it as {PREFIX}PACKAGE:LANGUAGE,LANGUAGE, like {PREFIX}django:de,en,fr"
LEAST_LETTERS = 8  # fewer are names and abbreviations
NO_LANGUAGE = re.compile(r"%\(\w+\)\w?|%\w|\{\w*\}|<[^>]*>|&\w+;|\\\w")  # places for values, and markup


def read_translations(data: str, findings: Findings) -> list[TextRow]:
    """The texts of all languages, labeled by their English names, in alphabetical order of the codes.

    Left out with a word: what has fewer than LEAST_LETTERS letters, and what is the same in several
    languages. Raises CallError for a package that is not installed or has no such language.
    """
    package, languages = _parts(data)
    catalogs = _catalogs(package, languages)
    if missing := sorted(set(languages) - set(catalogs)):
        have = ", ".join(sorted(catalogs)) or "none of them"
        raise CallError(f"{package} has no translations into {', '.join(missing)}; of these it has {have}")
    found = {language: list(_texts(catalogs[language], language)) for language in sorted(catalogs)}
    total = sum(map(len, found.values()))
    shared: dict[str, set[str]] = defaultdict(set)
    for language, pairs in found.items():
        for _, text in pairs:
            shared[text.lower()].add(language)
    rows: list[TextRow] = []
    short, several = [], []
    for language, pairs in found.items():
        name, seen = _name(language), set()
        for number, (message, text) in enumerate(pairs, 1):
            place = f"{package} in {name}, text {number}"
            if sum(map(str.isalpha, text)) < LEAST_LETTERS:
                short.append(f"{place} ({text!r})")
            elif len(shared[text.lower()]) > 1:
                several.append(f"{place} ({text!r})")
            elif text.lower() not in seen:
                seen.add(text.lower())
                rows.append(TextRow(text, (name,), "", message, place))
    findings.add("texts", f"left out: fewer than {LEAST_LETTERS} letters", short, total)
    findings.add("texts", "left out: the same in several languages", several, total)
    return rows


def about_translations(data: str) -> dict[str, str]:
    """Name, source and licence, for the export's metadata."""
    package, languages = _parts(data)
    said = metadata(package)
    licences = (said[key] for key in ("License-Expression", "License") if key in said)
    name = f"translations of {package} into {len(languages)} languages"
    return {
        "name": name,
        "source": f"the package {package} {said['Version']}",
        "licence": next(licences, "the package's"),
    }


def _parts(data: str) -> tuple[str, list[str]]:
    """Package and codes of languages. Raises CallError."""
    package, _, listed = data.removeprefix(PREFIX).partition(":")
    languages = [language.strip() for language in listed.split(",") if language.strip()]
    if not package or len(languages) < 2:
        raise CallError(f"training.data {data!r} names no package with two languages at least; {FORM}")
    return package, languages


def _catalogs(package: str, languages: list[str]) -> dict[str, list[Path]]:
    """Code -> the catalogs of that language."""
    try:
        found, _ = find_spec(package), metadata(package)
    except (ValueError, PackageNotFoundError):
        found = None
    if found is None or not found.submodule_search_locations:
        raise CallError(f"the package {package} is not installed: pip install {package}; {FORM}")
    catalogs: dict[str, list[Path]] = defaultdict(list)
    for folder in found.submodule_search_locations:
        for path in sorted(Path(folder).rglob("LC_MESSAGES/*.mo")):
            catalogs[path.parent.parent.name].append(path)
    if SOURCE in languages:
        catalogs[SOURCE] = [path for paths in catalogs.values() for path in paths]
    return {language: catalogs[language] for language in languages if catalogs[language]}


def _texts(catalogs: list[Path], language: str) -> Iterator[tuple[str, str]]:
    """(message, its text in the language), each message once."""
    read_mo = _babel("messages.mofile").read_mo
    seen: set[str] = set()
    for path in catalogs:
        with path.open("rb") as file:
            for entry in read_mo(file):
                message, text = (one if isinstance(one, str) else one[0] for one in (entry.id, entry.string))
                if not message or message in seen or not text:
                    continue
                if language == SOURCE:
                    text = message
                elif text == message:
                    continue
                seen.add(message)
                yield message, " ".join(NO_LANGUAGE.sub(" ", text).split())


def _name(language: str) -> str:
    """The English name of a language, as a class is called."""
    core = _babel("core")
    try:
        return str(core.Locale.parse(language).english_name)
    except (core.UnknownLocaleError, ValueError):
        return language


def _babel(module: str) -> Any:
    try:
        return import_module(f"babel.{module}")
    except ImportError as error:
        raise CallError("translations are read by babel: pip install 'marina[languages]'") from error
