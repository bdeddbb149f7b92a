"""Annotation files of any content, and what must come of them: a sound data set, or a CallError that names
them.
"""

import atexit
import json
import math
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from marina.core.errors import CallError
from tests.support.data_folders import coco_content, picture
from training.data import (
    ImageData,
    held_out_images,
    held_out_objects,
    load_images,
    load_objects,
    load_outlines,
)
from training.findings import Findings

PICTURES = 12
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, PICTURES),
    st.sampled_from(
        [10**400, -(2**63), 1e300, math.nan, math.inf, -0.0, "", "0", "\0", "../0.png", "x" * 5000]
    ),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(), st.floats(), st.none()), max_size=6),
    st.dictionaries(st.sampled_from(["id", "size", "counts", "name"]), st.integers(-1, 99), max_size=3),
)
JSON = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


@st.composite
def changed(draw: st.DrawFn, content: Any, many: int = 3) -> Any:
    """A JSON document with up to `many` of its values replaced or removed, anywhere in it."""
    whole = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, many))):
        place, key = None, None
        inner = whole
        while isinstance(inner, dict | list) and inner and (place is None or draw(st.integers(0, 4))):
            place = inner
            key = draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
            inner = inner[key]
        if place is None:
            return draw(JSON)
        if draw(st.booleans()):
            place[key] = draw(JSON)
        else:
            del place[key]
    return whole


FIELDS = {
    "images": ["width", "height", "file_name", "id"],
    "annotations": ["bbox", "segmentation", "iscrowd", "category_id", "image_id", "id"],
    "categories": ["name", "supercategory", "id"],
}


@st.composite
def coco_with_odd_fields(draw: st.DrawFn) -> Any:
    """A COCO file with some odd fields in their places, most of which cost one annotation or picture."""
    content = coco_content([f"{k}.png" for k in range(PICTURES)])
    for _ in range(draw(st.integers(1, 4))):
        part = draw(st.sampled_from(["annotations", "annotations", "images", "categories"]))
        row = draw(st.sampled_from(content[part]))
        row[draw(st.sampled_from(FIELDS[part]))] = draw(ODD | st.lists(ODD, max_size=4))
    return content


def written(content: Any) -> bytes:
    return json.dumps(content).encode()


XML = """<?xml version="1.0" encoding="utf-8"?><annotation><filename>0.png</filename><size><width>16</width>
<height>12</height></size><object><name>a</name>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax>
</bndbox></object></annotation>"""


@st.composite
def cut_and_pasted(draw: st.DrawFn) -> bytes:
    """XML with pieces removed, doubled or replaced."""
    content = XML.encode()
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        stop = draw(st.integers(start, min(len(content), start + 30)))
        odd = draw(
            st.sampled_from(
                [b"", b"nan", b"1e999", b"-5", b"<object>", b"&lol;", b"<!DOCTYPE a>", b"\xff\xfe", b"\0"]
            )
        )
        content = content[:start] + odd + content[draw(st.sampled_from([start, stop])) :]
    return content


def texts() -> st.SearchStrategy[bytes]:
    return st.binary(max_size=40) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))


NAMES = [f"{k}.png" for k in range(PICTURES)]
LABELS = {f"images/{name}": k % 3 for k, name in enumerate(NAMES)}
ARRAYS = [f"{split}_{what}" for split in ("train", "val", "test") for what in ("images", "labels")]
coco_files = st.one_of(
    changed(coco_content(NAMES)).map(written), coco_with_odd_fields().map(written), texts()
)
labels_files = st.one_of(changed(LABELS).map(written), texts())
voc_files = st.tuples(cut_and_pasted(), st.none() | st.text(max_size=40))
npz_files = st.tuples(
    st.sampled_from(["u1", "i8", "f4", "b", "U3", "M8[s]", "c8"]),
    st.lists(st.integers(0, 5), max_size=4),
    st.sampled_from(ARRAYS),
    st.none() | st.integers(0, 2000),
)


@cache
def pictures() -> Path:
    """A folder with the pictures 0.png, 1.png, …, until the process ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for k, name in enumerate(NAMES):
        picture(folder / name, k)
    return folder


def check(read: Callable[..., ImageData], folder: Path, named: str) -> None:
    """Raises AssertionError unless `read` gives a sound data set, or refuses `folder` by name."""
    data, refusal = None, ""
    try:
        data = read(str(folder), findings=Findings(quiet=True))
    except CallError as error:
        refusal = str(error)
    if data is None:
        assert named in refusal
        return
    for example in [*data.train, *data.validation, *data.test]:
        assert np.isfinite(example.boxes).all()
        assert ((example.labels >= 0) & (example.labels < len(data.classes))).all()
        assert -1 <= example.label < len(data.classes)


def check_coco(content: bytes) -> None:
    """An instances.json of this content is read by everything that reads one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        folder.mkdir()
        (folder / "images").symlink_to(pictures())
        (folder / "instances.json").write_bytes(content)
        for read in (load_objects, load_outlines, held_out_objects):
            check(read, folder, str(folder))


def check_labels(content: bytes) -> None:
    """A labels.json of this content is read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").symlink_to(pictures())
        (folder / "labels.json").write_bytes(content)
        check(held_out_images, folder, "labels.json")


def check_voc(first_and_list: tuple[bytes, str | None]) -> None:
    """Two odd annotations among sound ones are read, with this list of the training's pictures."""
    first, train = first_and_list
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        (folder / "Annotations").mkdir(parents=True)
        (folder / "JPEGImages").symlink_to(pictures())
        for k in range(PICTURES):
            (folder / "Annotations" / f"{k}.xml").write_bytes(first if k < 2 else XML.encode())
        if train is not None:
            lists = folder / "ImageSets" / "Main"
            lists.mkdir(parents=True)
            (lists / "train.txt").write_text(train, encoding="utf-8", errors="replace")
        for read in (load_objects, held_out_objects):
            check(read, folder, str(folder))


def check_npz(odd: tuple[str, list[int], str, int | None]) -> None:
    """A file of MedMNIST's layout with one array of another type and shape, or cut off, is read."""
    dtype, shape, name, cut = odd
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = np.random.default_rng(0).integers(0, 255, (4, 8, 8), np.uint8)
        arrays[f"{split}_labels"] = np.arange(4) % 2
    arrays[name] = np.zeros(shape, dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "own.npz"
        np.savez(path, **arrays)
        path.write_bytes(path.read_bytes()[:cut])
        check(load_images, path, "own.npz")
