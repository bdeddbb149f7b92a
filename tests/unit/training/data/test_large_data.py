"""Data of many files: checked and told apart without reading all of it."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import data
from training.data import Example, fingerprint, inspection, labeled_files, load_images
from training.data.limits import Limits


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 72, 3), np.uint8))


@pytest.mark.parametrize("damage", ["none", "cut off", "no picture"])
def test_a_whole_jpeg_to_measure_on_is_not_decoded(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What isn't whole is decoded, which says what is wrong."""
    decoded: list[Path] = []
    whole = inspection.inspect_picture
    monkeypatch.setattr(inspection, "inspect_picture", lambda path, _: decoded.append(path) or whole(path, _))
    file = tmp_path / "a.jpg"
    noise(1).save(file)
    if damage != "none":
        file.write_bytes(file.read_bytes()[:-200] if damage == "cut off" else b"text")
    found = inspection.inspect_ends(file, Limits())

    assert bool(found.fault) is (damage != "none")
    assert len(decoded) == (damage != "none")
    if damage == "none":
        assert (found.size, found.digest) == (noise(1).size, whole(file, Limits()).digest)
    assert inspection.inspect_ends(file, Limits(max_pixels=100)).fault


@pytest.mark.usefixtures("home")
def test_many_files_are_checked_when_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(labeled_files, "MOST_INSPECTED", 20)
    for split, count in {"train": 20, "val": 4, "test": 4}.items():
        for number in range(count):
            place = tmp_path / "many" / split / ("left", "right")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            noise(number).save(place / f"{number}.png")
        (tmp_path / "many" / split / "left" / "broken.png").write_bytes(b"none")
    found = load_images(str(tmp_path / "many"))

    assert [len(part) for part in (found.train, found.validation, found.test)] == [21, 4, 4]
    assert caplog.text.count("broken.png") == 2


def test_large_data_has_a_fingerprint_of_sizes_times_and_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "SAMPLED_BYTES", 1000)
    monkeypatch.setattr(data, "SAMPLED", 2)
    for number in range(4):
        noise(number).save(tmp_path / f"{number}.png")
    examples = [Example(tmp_path / f"{number}.png", label=number) for number in range(4)]
    first = fingerprint(examples)
    full = fingerprint(examples, full=True)
    file = examples[1].image
    assert isinstance(file, Path)
    stat = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    later = fingerprint(examples)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    assert first.startswith("sampled-")
    assert later != first
    assert fingerprint(examples) == first
    assert fingerprint(examples, full=True) != full
