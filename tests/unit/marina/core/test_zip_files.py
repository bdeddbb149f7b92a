"""Zips of others are looked at before they are unpacked."""

import warnings
import zipfile
from pathlib import Path

import pytest

from marina.core import zip_files
from marina.core.errors import CallError


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two files of one name
        for name in names:
            archive.writestr(name, bytes(1_000_000))
    return path


def test_a_bomb_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_files, "UNPACKED_BYTES", 1_500_000)
    zip_files.check_unpacked_size(zipped(tmp_path / "a.zip", "x"), "a.zip")

    with pytest.raises(CallError, match=r"b.zip unpacks to 2 MB from 0.0 MB; .* 20 times"):
        zip_files.check_unpacked_size(zipped(tmp_path / "b.zip", "x", "y"), "b.zip")


def test_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_files, "MAX_MEMBERS", 2)

    with pytest.raises(CallError, match=r"a.zip has 3 files; at most 2 are taken"):
        zip_files.check_unpacked_size(zipped(tmp_path / "a.zip", "x", "y", "z"), "a.zip")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("../x",), "outside of its folder: '../x'"),
        (("/x",), "outside of its folder: '/x'"),
        (("a/../../x",), "outside of its folder"),
        (("a\\x",), "outside of its folder"),
        (("x", "x"), "two files 'x'"),
    ],
)
def test_a_file_outside_or_twice_is_refused(names: tuple[str, ...], words: str, tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", *names)

    with zipfile.ZipFile(path) as archive, pytest.raises(CallError) as caught:
        zip_files.check_members(archive, "a.zip")

    assert words in str(caught.value)
