"""Texts of many languages from the translations that a package brings: labels, splits, what is left out."""

import sys
from pathlib import Path

import pytest

from marina.core.errors import CallError
from training.data.texts import Reading, load_texts
from training.data.translations import read_translations
from training.findings import Findings

pytest.importorskip("babel", reason="pip install marina[languages]")

MESSAGES = {
    "en": [
        f"Please open window number {word} now" for word in ("one", "two", "three", "four", "five", "six")
    ],
    "de": [
        f"Bitte Fenster {word} jetzt öffnen" for word in ("eins", "zwei", "drei", "vier", "fünf", "sechs")
    ],
    "fr": [
        f"Veuillez ouvrir la fenêtre {word}" for word in ("une", "deux", "trois", "quatre", "cinq", "six")
    ],
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed package with catalogs in German and French, and its metadata."""
    from babel.messages.catalog import Catalog
    from babel.messages.mofile import write_mo

    (tmp_path / "speaks").mkdir()
    (tmp_path / "speaks" / "__init__.py").write_text("raise RuntimeError('it is not to be imported')\n")
    (tmp_path / "speaks-2.5.dist-info").mkdir()
    about = "Metadata-Version: 2.4\nName: speaks\nVersion: 2.5\nLicense-Expression: MIT\n"
    (tmp_path / "speaks-2.5.dist-info" / "METADATA").write_text(about)
    for language in ("de", "fr"):
        catalog = Catalog(language)
        for message, text in zip(MESSAGES["en"], MESSAGES[language], strict=True):
            catalog.add(message, text)
        catalog.add("OK", "OK!" if language == "de" else "Oui")
        catalog.add("A restaurant menu", "Restaurant, Menü" if language == "de" else "restaurant, menü")
        catalog.add("%(count)s files, <b>all</b> gone", f"%(count)s <b>{language * 5}</b> {{0}}")
        catalog.add(("one file here", "%d files here"), (language * 6, language * 7))
        folder = tmp_path / "speaks" / "locale" / language / "LC_MESSAGES"
        folder.mkdir(parents=True)
        with (folder / "speaks.mo").open("wb") as file:
            write_mo(file, catalog)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "speaks"


def test_texts_are_labeled_by_their_language(package: str) -> None:
    """English are the messages; markup and places for values are taken out; what tells nothing is left out,
    with a word.
    """
    findings = Findings(quiet=True)
    rows = read_translations(f"gettext:{package}:fr,de,en", findings)

    found = {name: {row.text for row in rows if row.labels == (name,)} for name in ("English", "French")}
    assert found["French"] == {*MESSAGES["fr"], "frfrfrfrfr", "frfrfrfrfrfr"}
    assert found["English"] == {
        *MESSAGES["en"],
        "files, all gone",
        "one file here",
        "A restaurant menu",
    }
    assert {row.labels for row in rows} == {("English",), ("French",), ("German",)}
    of_one = {
        row.labels[0]: row.group for row in rows if row.text in {texts[3] for texts in MESSAGES.values()}
    }
    assert of_one == dict.fromkeys(("English", "French", "German"), MESSAGES["en"][3])
    assert [str(one) for one in findings] == [
        "3 of 30 texts left out: fewer than 8 letters: speaks in German, text 3 ('OK!'), "
        "speaks in English, text 3 ('OK'), speaks in French, text 3 ('Oui')",
        "2 of 30 texts left out: the same in several languages: speaks in German, text 2 "
        "('Restaurant, Menü'), speaks in French, text 2 ('restaurant, menü')",
    ]
    assert package not in sys.modules


def test_all_translations_of_a_message_are_in_one_split(package: str) -> None:
    """And the metadata says whose they are."""
    data = load_texts(f"gettext:{package}:de,en,fr", 0, Findings(quiet=True), Reading())

    splits = [{one.text for one in split} for split in (data.train, data.validation, data.test)]
    for number in range(len(MESSAGES["en"])):
        of_message = {MESSAGES[language][number] for language in MESSAGES}
        assert sum(not of_message.isdisjoint(split) for split in splits) == 1
    assert data.classes == ("English", "French", "German")
    about = data.about()
    assert (about["name"], about["source"], about["licence"]) == (
        "translations of speaks into 3 languages",
        "the package speaks 2.5",
        "MIT",
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("gettext:speaks", "names no package with two languages at least; write it as gettext:PACKAGE:"),
        ("gettext:speaks:de", "two languages at least"),
        ("gettext:nowhere:de,fr", "the package nowhere is not installed: pip install nowhere"),
        ("gettext:a/b:de,fr", "the package a/b is not installed"),
        ("gettext:speaks:de,xx,fr,ja", "speaks has no translations into ja, xx; of these it has de, fr"),
    ],
)
def test_what_names_no_translations_is_refused(package: str, data: str, words: str) -> None:
    """With what is there."""
    with pytest.raises(CallError, match=words):
        load_texts(data, 0, Findings(quiet=True), Reading())


def test_without_the_library_it_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extra."""
    monkeypatch.setitem(sys.modules, "babel.messages.mofile", None)
    with pytest.raises(CallError, match=r"pip install 'marina\[languages\]'"):
        read_translations(f"gettext:{package}:de,fr", Findings(quiet=True))
