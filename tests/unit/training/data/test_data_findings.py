"""What annotations and pictures lack is counted, recorded and refused by a strict run."""

import json
from pathlib import Path

import pytest
from PIL import Image

from marina.core.errors import CallError
from marina.core.spec import parse
from marina.evaluation import report
from tests.support.data_folders import (
    classes_folder,
    coco_folder,
    picture,
    said,
    voc_folder,
    write,
)
from training.data import (
    held_out_images,
    held_out_objects,
    load_objects,
)
from training.findings import Findings
from training.train import train


def test_annotations_and_pictures_that_do_not_meet_are_counted(tmp_path: Path) -> None:
    content = coco_folder(tmp_path)
    content["annotations"].append({"id": 77, "image_id": 99, "category_id": 1, "bbox": [1, 1, 2, 2]})
    content["annotations"].append({"id": 78, "image_id": 1, "category_id": 5, "bbox": [1, 1, 2, 2]})
    content["annotations"].append({"id": 79, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2]})
    write(tmp_path / "instances.json", content)
    findings = Findings()
    load_objects(str(tmp_path), findings=findings)

    assert "1 of 23 annotations of instances.json left out: their image is not in the file" in said(findings)
    assert "2 of 23 annotations of instances.json left out: no box, or no known category" in said(findings)


def test_pictures_without_an_annotation_are_counted(tmp_path: Path) -> None:
    voc_folder(tmp_path)
    picture(tmp_path / "JPEGImages" / "alone.png", 999)
    findings = Findings()
    load_objects(str(tmp_path), findings=findings)

    assert "1 of 21 pictures left out: they have no annotation" in said(findings)


def test_a_damaged_picture_of_labels_json_is_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    (tmp_path / "b.png").write_bytes(b"no picture")
    write(tmp_path / "labels.json", {"a.png": "cat", "b.png": "dog"})
    findings = Findings()
    data = held_out_images(str(tmp_path), findings)

    assert len(data.test) == 1
    assert "1 of 2 pictures left out: the file is no image that can be read" in said(findings)


def test_pictures_that_are_nearly_black_are_named(tmp_path: Path) -> None:
    """Label masks that lie among the pictures, say."""
    coco_folder(tmp_path)
    Image.new("L", (16, 12), 3).save(tmp_path / "images" / "7.png")
    findings = Findings()
    load_objects(str(tmp_path), findings=findings)

    assert "1 of 20 pictures are nearly black: no value above 15 of 255" in said(findings)


def test_a_strict_reading_refuses_what_it_finds(tmp_path: Path) -> None:
    voc_folder(tmp_path)
    picture(tmp_path / "JPEGImages" / "alone.png", 999)
    with pytest.raises(CallError, match="strict: 1 of 21 pictures left out"):
        load_objects(str(tmp_path), findings=Findings(strict=True))
    with pytest.raises(CallError, match="strict: 1 of 21 pictures left out"):
        held_out_objects(str(tmp_path), Findings(strict=True))


def test_findings_are_in_the_metadata_and_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A training says what it left out, in its log once, in the export and on its page."""
    monkeypatch.setenv("MARINA_HOME", str(tmp_path))
    (classes_folder(tmp_path / "pets", ["cat", "dog"]) / "cat" / "cut.png").write_bytes(b"no picture")
    settings = f"{{recipe: classifier, data: {tmp_path}/pets, epochs: 1, image_size: 16}}"
    text = (
        f"# Pets.\nkind: classifier\ntraining: {settings}\nfloor: {{accuracy: 0}}\nexport: {{runtimes: []}}\n"
    )
    spec = parse(text, "pets", "models/pets.yaml")
    line = "1 of 13 pictures left out: the file is no image that can be read: pets/cat/cut.png"
    with pytest.raises(CallError, match=f"strict: {line}"):
        train(spec, strict=True)
    folder = train(spec)

    assert caplog.messages.count(line) == 1
    metadata = json.loads((folder / "model_metadata.json").read_text())
    assert metadata["data"]["pixels"].keys() == {"lowest", "highest", "mean", "std"}
    assert metadata["training"]["normalization"].keys() == {"mean", "std"}
    (found,) = metadata["findings"]
    assert found == {"finding": line, "count": 1, "of": 13, "examples": ["pets/cat/cut.png"]}
    assert line in report.page(spec)


@pytest.mark.parametrize("depth", [100, 100_000])
@pytest.mark.parametrize("name", ["instances.json", "labels.json"])
def test_deeply_nested_json_is_refused(tmp_path: Path, name: str, depth: int) -> None:
    (tmp_path / name).write_text("[" * depth + "]" * depth)
    with pytest.raises(CallError, match=name):
        (held_out_images if name == "labels.json" else load_objects)(str(tmp_path))
