"""Small data folders of every layout, and what is said of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.data import (
    ImageData,
)
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


def said(findings: Findings) -> str:
    return "\n".join(map(str, findings))
