"""Small data folders of every layout, and what is said of them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from marina.core.errors import CallError
from training.data import ImageData
from training.findings import Findings


def picture(path: Path, number: int, size: tuple[int, int] = (16, 12), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(values).save(path, **options)
    return path


def classes_folder(folder: Path, names: list[str], count: int = 6) -> Path:
    for place, name in enumerate(names):
        for number in range(count):
            picture(folder / name / f"{number}.png", 100 * place + number)
    return folder


def coco_content(files: list[str], size: tuple[int, int] = (16, 12)) -> dict[str, Any]:
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    for k, name in enumerate(files):
        content["images"].append({"id": k, "file_name": name, "width": size[0], "height": size[1]})
        outline = [[2, 3, 8, 3, 8, 10, 2, 10]]
        row = {"id": k, "image_id": k, "category_id": 1, "bbox": [2, 3, 6, 7], "segmentation": outline}
        content["annotations"].append(row)
    return content


def coco_folder(folder: Path, count: int = 20, name: str = "instances.json") -> dict[str, Any]:
    for k in range(count):
        picture(folder / "images" / f"{k}.png", k)
    content = coco_content([f"{k}.png" for k in range(count)])
    write(folder / name, content)
    return content


def voc_folder(folder: Path, count: int = 20) -> None:
    (folder / "Annotations").mkdir(parents=True)
    for k in range(count):
        picture(folder / "JPEGImages" / f"p{k}.png", k)
        box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>8</xmax><ymax>10</ymax></bndbox>"
        size = "<size><width>16</width><height>12</height></size>"
        text = f"<annotation>{size}<object><name>thing</name>{box}</object></annotation>"
        (folder / "Annotations" / f"p{k}.xml").write_text(text)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def every(data: ImageData) -> list[Any]:
    return [*data.train, *data.validation, *data.test]


def read_with_findings(load: Callable[..., ImageData], folder: Path) -> tuple[ImageData, str]:
    """The data, and what is said of it; strictly read, it is refused."""
    findings = Findings()
    data = load(str(folder), findings=findings)
    with pytest.raises(CallError, match="strict: "):
        load(str(folder), findings=Findings(strict=True))
    return data, said(findings)


def read_apart(load: Callable[..., ImageData], folder: Path) -> Iterator[tuple[ImageData, str]]:
    """The data by several seeds, and what is said of it; no picture is in two splits, whatever the seed."""
    for seed in range(5):
        findings = Findings()
        data = load(str(folder), seed, findings)
        contents = [
            {example.content() for example in part} for part in (data.train, data.validation, data.test)
        ]
        assert not contents[0] & contents[1] | contents[0] & contents[2] | contents[1] & contents[2]
        assert all(contents)
        yield data, said(findings)


def said(findings: Findings) -> str:
    return "\n".join(map(str, findings))
