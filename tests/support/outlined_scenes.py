"""Scenes with the outlines of their objects, as a COCO folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from handlers.inputs.masks import run_lengths


def scene(seed: int, size: tuple[int, int] = (120, 90)) -> tuple[Image.Image, list[dict[str, Any]]]:
    """A red disc and a blue board on dark noise, with their outlines in COCO's two ways."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 90, (size[1], size[0], 3), np.uint8))
    pen = ImageDraw.Draw(image)
    x, y, radius = *rng.integers(30, (90, 60)).tolist(), int(rng.integers(12, 24))
    disc = Image.new("1", size)
    ImageDraw.Draw(disc).ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    left, top = rng.integers(4, (40, 30)).tolist()
    board = [left, top, left + 34, top, left + 34, top + 26, left, top + 26]
    pen.polygon(board, fill=(40, 70, 230))
    image.paste((230, 60, 40), mask=disc)
    counts = run_lengths(np.array(disc))
    return image, [
        {"category_id": 1, "bbox": [left, top, 34, 26], "segmentation": [board]},
        {
            "category_id": 2,
            "bbox": [x - radius, y - radius, 2 * radius, 2 * radius],
            "segmentation": {"size": [90, 120], "counts": counts},
        },
    ]


def folder_of_scenes(root: Path) -> Path:
    """Scenes as somebody's own COCO folder."""
    (root / "images").mkdir(parents=True)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "board"}, {"id": 2, "name": "disc"}],
    }
    for k in range(24):
        image, rows = scene(k)
        image.save(root / "images" / f"{k}.png")
        content["images"].append({"id": k, "file_name": f"{k}.png"})
        content["annotations"] += [{"id": 2 * k + j, "image_id": k, **row} for j, row in enumerate(rows)]
    (root / "instances.json").write_text(json.dumps(content))
    return root
