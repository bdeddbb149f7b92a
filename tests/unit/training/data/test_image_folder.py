"""Image folders are split in three, whatever their layout and whatever other files they hold."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marina.core.errors import CallError
from training.data import Example, image_folder


def fill(folder: Path, count: int, suffix: str = "png", tone: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        values = np.random.default_rng(number + tone).integers(0, 255, (12, 16, 3), np.uint8)
        Image.fromarray(values).save(folder / f"{folder.name}{number:03}.{suffix}")


def names(examples: list[Example]) -> set[str]:
    return {example.image.name for example in examples if isinstance(example.image, Path)}


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """FOLDER/CLASS/*: 40 cats and 20 dogs."""
    fill(tmp_path / "cat", 40)
    fill(tmp_path / "dog", 20, tone=50)
    return tmp_path


def test_a_plain_folder_is_split_70_15_15_in_every_class(plain: Path) -> None:
    data = image_folder.load(plain, seed=0)

    assert data.classes == ("cat", "dog")
    for split, cats, dogs in ((data.train, 28, 14), (data.validation, 6, 3), (data.test, 6, 3)):
        assert [example.label for example in split] == [0] * cats + [1] * dogs
    assert len(names(data.train) | names(data.validation) | names(data.test)) == 60


def test_the_split_depends_on_names_and_seed_alone(plain: Path) -> None:
    first, again, other = (names(image_folder.load(plain, seed).test) for seed in (0, 0, 1))

    assert first == again != other


def test_train_validation_and_test_are_taken_as_given(tmp_path: Path) -> None:
    for split, count in (("train", 8), ("val", 3), ("test", 2)):
        fill(tmp_path / split / "a", count)
        fill(tmp_path / split / "b", count)
    data = image_folder.load(tmp_path, 0)

    assert [len(data.train), len(data.validation), len(data.test)] == [16, 6, 4]


@pytest.mark.parametrize("second", ["test", "val", "Validation"])
def test_the_second_folder_is_the_test_and_validation_comes_out_of_train(tmp_path: Path, second: str) -> None:
    for name in ("a", "b"):
        fill(tmp_path / "train" / name, 20)
        fill(tmp_path / second / name, 4)
    data = image_folder.load(tmp_path, 0)

    assert [len(data.train), len(data.validation), len(data.test)] == [34, 6, 8]
    assert all(second in example.image.parts for example in data.test if isinstance(example.image, Path))


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "webp", "BMP", "gif", "tif", "TIFF"])
def test_every_usual_format_is_read_in_any_case(tmp_path: Path, suffix: str) -> None:
    fill(tmp_path / "a", 5, suffix)
    fill(tmp_path / "b", 5, suffix)

    assert len(image_folder.load(tmp_path, 0).train) == 6


def test_damage_strangers_and_empty_classes_are_named_once_and_left_out(
    plain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (plain / "bird").mkdir()
    (plain / "cat" / "notes.txt").write_text("no picture")
    (plain / "cat" / "more.txt").write_text("no picture")
    (plain / "cat" / ".DS_Store").write_bytes(b"x")
    (plain / "dog" / "empty.jpg").write_bytes(b"")
    whole = (plain / "cat" / "cat000.png").read_bytes()
    (plain / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING, "marina"):
        data = image_folder.load(plain, 0)
    warned = sorted(record.getMessage() for record in caplog.records)

    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.validation) + len(data.test) == 60
    assert len(warned) == 4
    for part in ("bird", "more.txt", "empty.jpg", "cut.png"):
        assert sum(part in text for text in warned) == 1


def test_a_folder_without_pictures_is_refused_with_the_layout(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="├── train/"):
        image_folder.load(tmp_path, 0)


def test_a_class_of_damaged_pictures_alone_is_no_class(plain: Path) -> None:
    (plain / "bird").mkdir()
    (plain / "bird" / "a.jpg").write_bytes(b"no jpeg")

    assert image_folder.load(plain, 0).classes == ("cat", "dog")


def test_one_class_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 10)
    with pytest.raises(CallError, match="1 class"):
        image_folder.load(tmp_path, 0)


def test_a_class_that_only_the_test_has_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fill(tmp_path / "train" / name, 8)
    fill(tmp_path / "test" / "c", 3)
    with pytest.raises(CallError, match="c that train has no pictures of"):
        image_folder.load(tmp_path, 0)


def test_a_class_with_too_few_pictures_to_split_is_refused_by_name(plain: Path) -> None:
    fill(plain / "rare", 1)
    with pytest.raises(CallError, match="'rare'"):
        image_folder.load(plain, 0)


def test_train_alone_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "a", 4)
    fill(tmp_path / "train" / "b", 4)
    with pytest.raises(CallError, match="beside it test/"):
        image_folder.load(tmp_path, 0)
