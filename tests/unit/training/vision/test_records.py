"""Data that doesn't fit into memory: read from disk, kept prepared, with the results of data in memory."""

import errno
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.inputs.images import ImageInput
from marina.core.errors import CallError
from training.data import Example, load_objects
from training.findings import Findings
from training.runs.run import Run
from training.vision import record_cache, records
from training.vision.classification import inputs
from training.vision.classification.learner import Shuffled, batches
from training.vision.detection.pixels import Batches, Prepared
from training.vision.record_cache import RecordCache
from training.vision.records import Records, Storage, part_of

pytestmark = pytest.mark.usefixtures("home")  # nothing that other tests have prepared

SIDE = 64
ON_DISK = Storage(memory_bytes=0)
NOT_KEPT = Storage(memory_bytes=0, cache_bytes=0)
CONFIG = ImageInput(32, 32)


def picture(seed: int, place: int = 0) -> Image.Image:
    """Noise with a bright stripe."""
    values = np.random.default_rng(seed).integers(0, 120, (SIDE, SIDE + 8, 3), np.uint8)
    values[:, 20 * place : 20 * place + 18] += 120
    return Image.fromarray(values)


def places(folder: Path, classes: tuple[str, ...], count: int) -> Iterator[tuple[int, Path]]:
    """Numbers, with the folders of the classes in turn."""
    for number in range(count):
        place = folder / classes[number % len(classes)]
        place.mkdir(exist_ok=True)
        yield number, place


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 14 pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, place in places(folder, ("left", "right"), 28):
        picture(number, number % 2).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures of a stripe each, as COCO, with a box and an outline."""
    folder = tmp_path_factory.mktemp("objects")
    (folder / "images").mkdir()
    images, annotations = [], []
    for number in range(20):
        left = 20 * (number % 3)
        picture(number, number % 3).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        outline = [left, 0, left + 18, 0, left + 18, SIDE, left, SIDE]
        annotations.append(
            {"id": number, "image_id": number, "category_id": 1, "bbox": [left, 0, 18, SIDE]}
            | {"segmentation": [outline]}
        )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "stripe"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of eight animations of four frames."""
    folder = tmp_path_factory.mktemp("clips")
    for number, place in places(folder, ("up", "down"), 16):
        first, *others = [picture(10 * number + frame, number % 2) for frame in range(4)]
        first.save(place / f"{number}.gif", save_all=True, append_images=others)
    return folder


FIT: dict[str, Any] = {"epochs": 2, "batch_size": 4}
DETECTOR = {**FIT, "architecture": "fcos_small", "height": SIDE, "width": SIDE, "horizontal_flip": True}
RECIPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "classifier": ("classifier", "pictures", {**FIT, "image_size": 32}),
    "head alone": (
        "classifier",
        "pictures",
        {**FIT, "image_size": 32, "freeze": True, "pretraining": {"epochs": 1, "batch_size": 8}},
    ),
    "video classifier": ("video_classifier", "clips", {**FIT, "image_size": 32, "frames": 4}),
    "detector": ("detector", "objects", {**DETECTOR, "augmentation": "ssd"}),
    "detector, light": ("detector", "objects", DETECTOR),
    "segmenter": ("segmenter", "objects", {**FIT, "height": SIDE, "width": SIDE}),
}


@pytest.mark.parametrize("name", RECIPES)
def test_learning_from_disk_ends_with_the_weights_of_memory(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    recipe, source, said = RECIPES[name]
    module = import_module(f"training.recipes.{recipe}")
    folder = str(request.getfixturevalue(source))

    def learnt(**changes: Any) -> dict[str, torch.Tensor]:
        report = tmp_path / "report"
        report.mkdir(exist_ok=True)
        run = Run(report, seed=1)
        return module.train(module.Settings(data=folder, **said, **changes), run).module.state_dict()

    from_disk = learnt(memory_gb=0)  # prepared in the first epoch, then read
    in_memory = learnt(cache_gb=0)

    assert all(torch.equal(value, in_memory[key]) for key, value in from_disk.items())


def test_masks_are_read_from_disk_with_their_pictures(objects: Path) -> None:
    examples = load_objects(str(objects)).train
    memory, disk = (
        Prepared.of(examples, ImageInput(SIDE, SIDE), "pictures", masks=True, storage=storage)
        for storage in (Storage(), ON_DISK)
    )
    pairs = zip(*(Batches(one, 4, True, ["horizontal"], 3) for one in (memory, disk)), strict=True)

    for (pixels, targets), (other_pixels, other_targets) in pairs:
        assert torch.equal(pixels, other_pixels)
        for target, other in zip(targets, other_targets, strict=True):
            assert target.keys() == other.keys()
            assert all(torch.equal(target[key], other[key]) for key in target)


def saved(folder: Path, count: int = 8) -> list[Example]:
    for number in range(count):
        picture(number).save(folder / f"{number}.png")
    return [Example(folder / f"{number}.png", label=number) for number in range(count)]


@pytest.fixture
def examples(home: Path) -> list[Example]:
    return saved(home)


def file_of(home: Path) -> Path:
    (file,) = (home / "cache" / "pictures").iterdir()
    return file


def spoil_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3000] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        spoil_byte,
        lambda file: file.write_bytes(file.read_bytes()[:5000]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"\xff" * 20_000),
    ],
    ids=["a byte", "the end", "all", "the entries"],
)
def test_what_is_damaged_on_disk_is_prepared_again(
    damage: Callable[[Path], Any], examples: list[Example], home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right = inputs.pixels(examples, CONFIG, Storage()).tensors[0]
    damage(file_of(home))

    with caplog.at_level(logging.WARNING):
        again = inputs.pixels(examples, CONFIG, ON_DISK).tensors[0][:]
    caplog.clear()
    third = inputs.pixels(examples, CONFIG, ON_DISK).tensors[0][:]

    assert torch.equal(again, right)
    assert torch.equal(third, right)
    assert not caplog.text


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The examples that were prepared, in their order."""
    found: list[Any] = []
    whole = inputs.picture
    monkeypatch.setattr(inputs, "picture", lambda example, _: found.append(example) or whole(example, _))
    return found


def test_a_preparation_that_was_stopped_is_resumed(examples: list[Example], prepared: list[Any]) -> None:
    steps = inputs.pixels(examples, CONFIG, ON_DISK).tensors[0].ahead([[0, 1], [2, 3]])
    next(steps)
    steps.close()
    some = len(prepared)
    inputs.pixels(examples, CONFIG, ON_DISK).tensors[0][:]

    assert 2 <= some <= 4
    assert len(prepared) == len(examples)


def test_what_is_measured_on_is_prepared_when_it_is_needed(
    examples: list[Example], prepared: list[Any]
) -> None:
    now = inputs.pixels(examples, CONFIG, NOT_KEPT)
    held = inputs.pixels(examples, CONFIG, Storage(cache_bytes=0), later=True)
    before = len(prepared)
    batches_ = list(batches(part_of(held, 0, 1), 3))

    assert before == 0
    assert len(prepared) == len(examples)
    assert torch.equal(torch.cat([pixels for pixels, _ in batches_]), now.tensors[0][:])
    assert torch.cat([labels for _, labels in batches_]).tolist() == list(range(8))


def test_a_full_disk_costs_one_warning(
    examples: list[Example], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    right = inputs.pixels(examples, CONFIG, NOT_KEPT).tensors[0][:]
    monkeypatch.setattr(os, "pwrite", full)
    found = [inputs.pixels(examples, CONFIG, storage).tensors[0][:] for storage in (ON_DISK, Storage())]

    assert all(torch.equal(each, right) for each in found)
    assert [record.getMessage().count("No space left") for record in caplog.records] == [1, 1]


def test_what_has_no_room_is_prepared_each_time(
    examples: list[Example], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "marina")
    column = inputs.pixels(examples, CONFIG, Storage(0, 20_000)).tensors[0]
    first, second = column[:], column[:]

    assert torch.equal(first, second)
    assert caplog.text.count("cache_gb") == 1
    assert "6 of 8 are kept" in caplog.text


def cache(key: str, size: int = 8192, limit: int = 40_000) -> RecordCache:
    return RecordCache("pictures", [key], 1, size, limit)


def test_threads_do_not_share_the_room_of_one_record(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two that both found room for one left less than none, which looked like a disk that had failed."""
    kept, write = RecordCache("pictures", ["threads"], 4, 8192, 12_000), RecordCache._write
    both_are_writing = threading.Barrier(2)

    def slow(self: RecordCache, content: bytes, place: int) -> None:
        with suppress(threading.BrokenBarrierError):
            both_are_writing.wait(0.5)
        write(self, content, place)

    monkeypatch.setattr(RecordCache, "_write", slow)
    record = {"pixels": torch.zeros(8192, dtype=torch.uint8)}
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda row: kept.put(row, record), range(4)))

    assert caplog.text.count("cache_gb") == 1
    assert "1 of 4 are kept" in caplog.text
    assert [kept.get(row) is not None for row in range(4)].count(True) == 1


def test_what_was_not_used_for_longest_goes_but_not_what_is_in_use(home: Path) -> None:
    used = cache("used")
    for key in ("used", "a", "b", "a", "c", "d"):
        one = used if key == "used" else cache(key)
        one.put(0, {"pixels": torch.zeros(8192, dtype=torch.uint8)})
        del one
        time.sleep(0.02)  # a file system's clock is coarse
    left = set((home / "cache" / "pictures").iterdir())

    assert used.path in left
    assert len(left) == 3
    assert {cache(key).path for key in ("c", "d")} < left


def test_two_trainings_share_what_is_prepared(examples: list[Example]) -> None:
    """Both began when nothing was prepared."""
    two = [inputs.pixels(examples, CONFIG, ON_DISK).tensors[0] for _ in range(2)]
    found: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda column=column: found.append(column[:])) for column in two]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert torch.equal(found[0], found[1])
    assert torch.equal(inputs.pixels(examples, CONFIG, ON_DISK).tensors[0][:], found[0])


@pytest.mark.parametrize("storage", [Storage(), ON_DISK, NOT_KEPT])
def test_a_picture_that_is_damaged_is_replaced_by_one_of_its_step(
    storage: Storage, examples: list[Example], caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(examples[3].image, Path)
    examples[3].image.write_bytes(examples[3].image.read_bytes()[:500])
    dataset = inputs.pixels(examples, CONFIG, replace(storage, findings=Findings()))
    for _ in range(2):
        labels = torch.cat([labels for _, labels in Shuffled(dataset, 4)])

        assert len(labels) == 8
        assert set(labels.tolist()) == {0, 1, 2, 4, 5, 6, 7}
    with pytest.raises(CallError, match=r"3\.png can't be read"):
        inputs.pixels(examples, CONFIG, storage)[[2, 3]]

    assert caplog.text.count("pictures left out: the PNG image is damaged or cut off") == 1
    assert "3.png" in caplog.text


def test_no_more_is_read_ahead_than_memory_is_meant_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "AHEAD_BYTES", 1000)
    made: list[int] = []

    def make(row: int) -> records.Record:
        made.append(row)
        return {"pixels": torch.zeros(100, dtype=torch.uint8)}

    steps = Records(1000, 100, make, str).ahead([range(start, start + 4) for start in range(0, 1000, 4)])
    next(steps)
    time.sleep(0.1)
    steps.close()

    assert len(made) <= 12


def test_the_disk_is_not_filled(examples: list[Example], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_cache, "FREE_BYTES", 1 << 60)
    assert len(inputs.pixels(examples, CONFIG, ON_DISK).tensors[0][:]) == 8

    assert file_of(home).stat().st_size == 0
