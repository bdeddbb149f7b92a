"""torchvision's data sets by name, from the files that torchvision keeps of them."""

import json
import struct
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest

from marina.core.errors import CallError
from tests.support.data_folders import every, picture, voc_folder
from training.data import held_out_images, load_images, load_objects


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """cache/datasets/ of a project of its own, without a network."""
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("MARINA_HOME", str(tmp_path))
    return tmp_path / "cache" / "datasets"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the network, which isn't there."""
    asked: list[str] = []

    def refuse(request: urllib.request.Request, *_: object, **__: object) -> None:
        asked.append(request if isinstance(request, str) else request.full_url)
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return asked


def mnist(folder: Path) -> None:
    """Files of MNIST's format with 40 and 20 pictures."""
    folder.mkdir(parents=True)
    for name, count in (("train", 40), ("t10k", 20)):
        pixels = np.random.default_rng(count).integers(0, 255, (count, 28, 28), np.uint8)
        head = struct.pack(">iiii", 0x803, count, 28, 28)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        head = struct.pack(">ii", 0x801, count)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(head + labels)


def food(folder: Path) -> None:
    """Folders of Food-101's layout with two dishes."""
    for split, first, count in (("train", 0, 12), ("test", 20, 6)):
        listed: dict[str, list[str]] = {}
        for k in range(first, first + count):
            dish = ("pizza", "sushi")[k % 2]
            picture(folder / "images" / dish / f"{k}.jpg", k)
            listed.setdefault(dish, []).append(f"{dish}/{k}")
        (folder / "meta").mkdir(exist_ok=True)
        (folder / "meta" / f"{split}.json").write_text(json.dumps(listed))
    (folder / "meta" / "classes.txt").write_text("pizza\nsushi\n")
    (folder / "meta" / "labels.txt").write_text("Pizza\nSushi\n")


def test_pictures_in_one_array_are_read(sets: Path) -> None:
    mnist(sets / "MNIST" / "MNIST" / "raw")
    data, again = load_images("torchvision:mnist"), load_images("torchvision:MNIST", seed=1)

    assert data.classes[:2] == ("0 - zero", "1 - one")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [34, 6, 20]
    assert data.train[0].image.shape == (28, 28)
    assert [example.label for example in data.test] == [k % 10 for k in range(20)]
    assert [example.label for example in again.validation] != [example.label for example in data.validation]
    assert len(held_out_images("torchvision:MNIST").test) == 20


def test_pictures_in_files_are_read_from_them(sets: Path) -> None:
    food(sets / "Food101" / "food-101")
    data = load_images("torchvision:Food101")

    assert data.classes == ("pizza", "sushi")
    assert len(data.train) + len(data.validation) == 12
    assert {example.image.parent.name for example in data.test if example.label == 1} == {"sushi"}


def test_voc_by_name_is_its_folder(sets: Path, requests: list[str]) -> None:
    voc_folder(sets / "VOCDetection" / "VOCdevkit" / "VOC2012")

    assert len(every(load_objects("torchvision:VOCDetection"))) == 20
    assert requests == []


@pytest.mark.parametrize(("name", "address"), [("CIFAR10", "toronto.edu"), ("Flowers102", "robots.ox.ac.uk")])
def test_without_a_network_the_error_says_where_files_go(
    sets: Path, requests: list[str], name: str, address: str
) -> None:
    with pytest.raises(CallError, match=f"torchvision:{name} can't be had.*into {sets / name}; offline, put"):
        load_images(f"torchvision:{name}")
    assert address in requests[0]


def test_an_unknown_name_is_refused_with_near_ones(sets: Path) -> None:
    with pytest.raises(CallError, match="no 'CIFAR' of torchvision's for a classifier; did you mean CIFAR10"):
        load_images("torchvision:CIFAR")
    with pytest.raises(CallError, match="for a detector or segmenter; known: VOCDetection"):
        load_objects("torchvision:MNIST")
