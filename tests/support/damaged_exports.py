"""Exports and archives that are damaged, each under a name that says how."""

import json
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from handlers.runtime.checksums import NAME as CHECKSUMS
from handlers.runtime.checksums import write_checksums
from tests.support import hostile_files

PROGRAM, METADATA, SAMPLES = "model.pt2", "model_metadata.json", "samples/samples.json"
CONFIGS = ("preprocess_config.json", "postprocess_config.json", "runtime.json")
Damage = Callable[[Path], object]


def _half(name: str) -> Damage:
    def cut(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return cut


def _removed(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def _with(name: str, file: str, is_listed: bool = False) -> Damage:
    """The hostile `file` in the place of `name`; `is_listed`: with a SHA256SUMS that says so."""

    def put(folder: Path) -> None:
        (folder / name).unlink()
        hostile_files.write(file, folder / name)
        if is_listed:
            write_checksums(folder)

    return put


def _changed(name: str, change: Callable[[Any], Any]) -> Damage:
    """JSON with other content, and a SHA256SUMS that says so."""

    def put(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(change(content)), encoding="utf-8")
        write_checksums(folder)

    return put


def _exports() -> Iterator[tuple[str, Damage]]:
    for name in (PROGRAM, CHECKSUMS, METADATA, SAMPLES):
        yield f"half a {name}", _half(name)
        yield f"no {name}", _removed(name)
        yield f"a folder as {name}", _with(name, "a folder")
    for name in (CHECKSUMS, METADATA, CONFIGS[0]):
        for file in ("every byte", "a pipe", "a link to itself", "a device"):
            yield f"{file} as {name}", _with(name, file)
    for name in (METADATA, SAMPLES, *CONFIGS[:2]):
        for file in ("half a JSON", "JSON of nothing", "a list", "large numbers", "deep JSON"):
            yield f"{file} as {name}, listed", _with(name, file, is_listed=True)
    yield "numbers as texts", _changed(METADATA, lambda content: dict.fromkeys(content, 3))
    yield "NaN as figures", _changed(METADATA, lambda content: {**content, "metrics": {"a": float("nan")}})
    yield "texts as figures", _changed(METADATA, lambda content: {**content, "metrics": {"a": "b"}})
    yield (
        "samples elsewhere",
        _changed(SAMPLES, lambda content: [{**sample, "file": "../../../x"} for sample in content]),
    )
    yield "an empty folder", lambda folder: (shutil.rmtree(folder), folder.mkdir())


def _rewritten(change: Callable[[zipfile.ZipFile], object], drop: str = "") -> Damage:
    """An archive with further members, or without `drop`."""

    def put(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist() if name != drop}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of two files of one name
            for name, content in members.items():
                archive.writestr(name, content)
            change(archive)

    return put


def _archives() -> Iterator[tuple[str, Damage]]:
    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-500])

    def turn_a_byte(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)

    def put(file: str) -> Damage:
        return lambda path: (path.unlink(), hostile_files.write(file, path))

    yield "cut off", cut
    yield "another byte", turn_a_byte
    yield "a path that leads out", _rewritten(lambda archive: archive.writestr("../../out", b"x"))
    yield "an absolute path", _rewritten(lambda archive: archive.writestr("/tmp/out", b"x"))
    yield "two of one name", _rewritten(lambda archive: archive.writestr("spec.yaml", b"x"))
    yield "a bomb", _rewritten(lambda archive: archive.writestr("zeros", bytes(400_000_000)))
    yield "a file that is not listed", _rewritten(lambda archive: archive.writestr("more.py", b"x"))
    for name in (METADATA, CHECKSUMS, "spec.yaml", "model-config.yaml", "MAR-INF/MANIFEST.json"):
        yield f"no {name}", _rewritten(lambda _archive: None, drop=name)
    for file in ("empty", "every byte", "a folder", "a pipe", "an empty zip", "a zip of rubbish", "a device"):
        yield file, put(file)


EXPORTS: dict[str, Damage] = dict(_exports())
ARCHIVES: dict[str, Damage] = dict(_archives())
