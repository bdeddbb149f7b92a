"""A .npz file of MedMNIST's layout becomes three splits; other files are refused in words."""

from pathlib import Path

import numpy as np
import pytest

from marina.core.errors import CallError
from training.data import held_out_images, load_images, medmnist


def arrays(shape: tuple[int, ...] = (28, 28)) -> dict[str, np.ndarray]:
    made: dict[str, np.ndarray] = {}
    for split, count in (("train", 8), ("val", 4), ("test", 6)):
        made[f"{split}_images"] = np.random.default_rng(count).integers(0, 255, (count, *shape), np.uint8)
        made[f"{split}_labels"] = (np.arange(count, dtype=np.uint8) % 2)[:, None]
    return made


def saved(tmp_path: Path, changes: dict[str, np.ndarray] | None = None, name: str = "own") -> Path:
    np.savez(tmp_path / f"{name}.npz", **(arrays() | (changes or {})))
    return tmp_path / f"{name}.npz"


def test_the_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    data = load_images(str(saved(tmp_path)))

    assert [len(part) for part in (data.train, data.validation, data.test)] == [8, 4, 6]
    assert [example.label for example in data.validation] == [0, 1, 0, 1]
    assert data.classes == ("0", "1")
    assert np.array_equal(np.asarray(data.train[3].image), arrays()["train_images"][3])


def test_known_sets_have_their_names_in_every_size(tmp_path: Path) -> None:
    for name in ("pneumoniamnist", "pneumoniamnist_64"):
        assert medmnist.load(saved(tmp_path, name=name)).classes == ("normal", "pneumonia")


def test_an_import_is_measured_on_its_test_alone(tmp_path: Path) -> None:
    data = held_out_images(str(saved(tmp_path)))

    assert (len(data.train), len(data.validation), len(data.test)) == (0, 0, 6)


def test_colour_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "colour.npz", **arrays((28, 28, 3)))

    assert np.asarray(medmnist.load(tmp_path / "colour.npz").test[0].image).shape == (28, 28, 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"val_images": np.zeros((4, 28, 28, 28), np.uint8)}, "val_images is uint8 of shape"),
        ({"train_images": np.zeros((8, 28, 28), np.float32)}, "train_images is float32"),
        ({"test_labels": np.zeros((6, 14), np.uint8)}, "14 labels to each picture"),
        ({"test_labels": np.zeros((5, 1), np.uint8)}, "for 6 pictures"),
        (
            {
                f"{split}_labels": np.zeros((n, 1), np.uint8)
                for split, n in (("train", 8), ("val", 4), ("test", 6))
            },
            "one class alone",
        ),
        ({"val_labels": np.array([{}] * 4)}, "plain arrays"),
    ],
)
def test_another_content_is_refused_with_the_layout(
    tmp_path: Path, changes: dict[str, np.ndarray], said: str
) -> None:
    with pytest.raises(CallError, match=said):
        medmnist.load(saved(tmp_path, changes))


def test_a_file_without_a_split_or_without_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "half.npz", train_images=arrays()["train_images"])
    (tmp_path / "text.npz").write_text("no arrays")
    for name, said in (("half", "train_labels"), ("text", "no .npz file"), ("gone", "no file")):
        with pytest.raises(CallError, match=said):
            medmnist.load(tmp_path / f"{name}.npz")
