"""`marina data` shows data before anything is learned from it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from marina.cli import app
from tests.support.data_folders import classes_folder, coco_folder, picture
from tests.support.outlined_scenes import folder_of_scenes

SPEC = """# Something.
kind: {recipe}
training: {{recipe: {recipe}, data: {data}, {size}}}
floor: {{{metric}: 0}}
"""
SIDES = "height: 64, width: 64"
RECIPES = {
    "pets": ("classifier", "image_size: 32", "accuracy"),
    "things": ("detector", SIDES, "ap50"),
    "areas": ("segmenter", SIDES, "mean_iou"),
}


def fill(home: Path, name: str) -> None:
    """A spec, and data for it."""
    recipe, size, metric = RECIPES[name]
    folder = home / name
    text = SPEC.format(recipe=recipe, data=folder, size=size, metric=metric)
    (home / "models" / f"{name}.yaml").write_text(text)
    folder.mkdir()
    if name == "pets":
        classes_folder(folder, ["cat", "dog"])
    elif name == "things":
        coco_folder(folder)
    else:
        folder_of_scenes(folder)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("MARINA_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run() -> Callable[..., tuple[int, dict]]:
    def call(*arguments: str) -> tuple[int, dict]:
        result = CliRunner().invoke(app, [*arguments, "--json"])
        return result.exit_code, json.loads(result.stdout.splitlines()[-1])

    return call


def test_a_folder_of_classes_is_counted_and_its_faults_are_named(
    home: Path, run: Callable[..., tuple[int, dict]]
) -> None:
    """Counts, damage, and a copy in another split that was compressed again."""
    for split, first, count in (("train", 0, 8), ("val", 20, 3), ("test", 30, 3)):
        for name, shift in (("cat", 0), ("dog", 100)):
            for k in range(first, first + count):
                picture(home / "pets" / split / name / f"{k}.png", k + shift, (40, 30))
    Image.open(home / "pets/train/cat/3.png").save(home / "pets/test/cat/again.jpg", quality=90)
    (home / "pets/train/dog/cut.png").write_bytes(b"none")
    code, said = run("data", "pets")

    assert code == 0
    assert said["classes"] == {
        "cat": {"train": 8, "validation": 3, "test": 4},
        "dog": {"train": 8, "validation": 3, "test": 3},
    }
    assert said["near_copies"] == [["3.png", "again.jpg"]]
    lines = " ".join(found["finding"] for found in said["findings"])
    assert "pets/train/dog/cut.png" in lines
    assert "3.png (train) ~ again.jpg (test)" in lines
    assert said["sizes"]["largest"] == [40, 30]
    page = Path(said["page"]).read_text()
    assert page.count("data:image/jpeg;base64,") >= 16 + 2
    for text in ("again.jpg", "cut.png", "cat", "prefers-color-scheme: dark"):
        assert text in page
    assert "http://" not in page
    assert "<script" not in page


def test_a_strict_look_refuses_findings(home: Path, run: Callable[..., tuple[int, dict]]) -> None:
    (classes_folder(home / "pets", ["cat", "dog"]) / "cat" / "cut.png").write_bytes(b"none")
    code, said = run("data", "pets", "--strict")

    assert (code, said["ok"]) == (2, False)
    assert "strict: 1 of 13 pictures left out" in said["error"]


@pytest.mark.parametrize(("name", "counted"), [("things", "boxes"), ("areas", "pictures that show it")])
def test_boxes_and_areas_are_counted_and_drawn(
    home: Path, run: Callable[..., tuple[int, dict]], name: str, counted: str
) -> None:
    fill(home, name)
    code, said = run("data", name)

    assert (code, said["counted"]) == (0, counted)
    assert sum(sum(splits.values()) for splits in said["classes"].values()) >= 20
    assert Path(said["page"]).name == f"{name}-data.html"


@pytest.mark.parametrize("name", RECIPES)
def test_augmentation_is_shown_picture_by_picture(
    home: Path, run: Callable[..., tuple[int, dict]], name: str
) -> None:
    fill(home, name)
    code, said = run("data", name, "--augmented")

    assert (code, said["augmentation"]["augmentation"]) == (0, "light")
    assert Path(said["page"]).read_text().count("data:image/jpeg;base64,") == 6 * 8


def test_what_is_no_data_is_refused(home: Path, run: Callable[..., tuple[int, dict]]) -> None:
    (home / "empty").mkdir()
    (home / "models" / "pole.yaml").write_text(
        "# A pole.\nkind: policy\nfloor: {mean_return: 1}\n"
        "training: {recipe: ppo, environment: CartPole-v1}\n"
    )

    for arguments, words in (
        (["empty"], "no pictures in"),
        (["gone"], "is neither the built-in set"),
        (["pole"], "learns from no pictures or clips"),
        (["empty", "--augmented"], "is none of models/"),
    ):
        code, said = run("data", *arguments)
        assert (code, said["ok"]) == (2, False)
        assert words in said["error"]
