"""WebDataset shards are learned from where they lie."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.inputs.images import ImageInput
from marina.core.errors import CallError
from tests.support.data_folders import every, read_with_findings
from training.data import held_out_images, labeled_files, load_images
from training.data.packed_files import PackedFile
from training.findings import Findings
from training.vision.classification import inputs
from training.vision.records import Storage


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    values = np.random.default_rng(number).integers(0, 255, (12, 16, 3), np.uint8)
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def samples(first: int, count: int, label: str = "{}.cls") -> dict[str, bytes]:
    members = {}
    for k in range(first, first + count):
        members[f"{k:04}.png"] = png(k)
        text = f'{{"label": {k % 2}}}' if label.endswith("json") else str(k % 2)
        members[label.format(f"{k:04}")] = text.encode()
    return members


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shard(tmp_path / "data" / "train-000000.tar", samples(0, 10))
    shard(tmp_path / "data" / "train-000001.tar", samples(10, 10, "{}.json"))
    shard(tmp_path / "data" / "val-000000.tar", samples(20, 6))
    shard(tmp_path / "data" / "test-000000.tar", samples(26, 6))
    (tmp_path / "data" / "classes.txt").write_text("cat\ndog\n")
    return tmp_path / "data"


def test_splits_labels_and_classes_are_those_of_the_shards(folder: Path) -> None:
    data = load_images(str(folder))

    assert data.classes == ("cat", "dog")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [20, 6, 6]
    for example in every(data):
        assert isinstance(example.image, PackedFile)
        number = int(Path(example.image.member).stem)
        assert example.label == number % 2
        assert example.image.read_bytes() == png(number)
    assert len(held_out_images(str(folder)).test) == 6


def test_what_is_learned_from_is_the_same_as_from_files(folder: Path, tmp_path: Path) -> None:
    """In memory, and read ahead from the archive; nothing is unpacked."""
    data = load_images(str(folder))
    config = ImageInput(12, 16)
    memory = inputs.pixels(data.train, config, Storage(cache_bytes=0))
    disk = inputs.pixels(data.train, config, Storage(0, 0))

    assert torch.equal(memory.tensors[0], disk.tensors[0][:])
    first = np.array(Image.open(io.BytesIO(png(int(Path(data.train[0].image.member).stem)))))
    assert torch.equal(memory.tensors[0][0], torch.from_numpy(first).permute(2, 0, 1))
    assert sorted(path.name for path in folder.iterdir()) == [
        *("classes.txt", "test-000000.tar", "train-000000.tar", "train-000001.tar", "val-000000.tar"),
    ]


def test_one_shard_is_split_here(tmp_path: Path) -> None:
    members = samples(0, 20)
    shard(tmp_path / "all.tar", {name.replace(".cls", ".txt"): content for name, content in members.items()})
    data = load_images(str(tmp_path / "all.tar"))

    assert data.classes == ("0", "1")
    assert len(every(data)) == 20
    assert "split here" in data.splits


def test_faults_of_members_are_findings(folder: Path) -> None:
    members = samples(40, 4)
    members |= {
        "cut.png": png(1)[:80],
        "cut.cls": b"0",
        "bare.png": png(50),
        "odd.png": png(51),
        "odd.cls": b"7",
    }
    shard(folder / "train-000002.tar", members)
    data, lines = read_with_findings(load_images, folder)

    assert len(data.train) == 24
    assert "data/train-000002.tar/cut.png" in lines
    assert "1 of 39 pictures left out: no .cls or .json or .txt says their class" in lines
    assert "1 of 39 pictures left out: classes.txt has no such class" in lines


def test_compressed_and_damaged_shards_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "a" / "train.tar.gz", samples(0, 4), "w:gz")
    with pytest.raises(CallError, match=r"train.tar.gz is compressed.*unpack it to a \.tar"):
        load_images(str(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "train.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(CallError, match="is no tar file that can be read"):
        load_images(str(tmp_path / "b"))


def test_shards_that_webdataset_wrote_are_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="its own writer, to compare with")
    with webdataset.TarWriter(str(tmp_path / "all.tar")) as writer:
        for k in range(20):
            writer.write({"__key__": f"part/{k:03}", "png": Image.open(io.BytesIO(png(k))), "cls": k % 2})
    data = load_images(str(tmp_path / "all.tar"))

    assert len(every(data)) == 20
    assert {example.label == int(Path(example.image.member).stem) % 2 for example in every(data)} == {True}


def test_many_pictures_of_shards_are_sampled_where_they_lie(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of each is enough to tell copies."""
    monkeypatch.setattr(labeled_files, "MOST_INSPECTED", 20)
    findings = Findings(quiet=True)
    copy = samples(3, 1)
    shard(folder / "train-000002.tar", {"copy.png": copy["0003.png"], "copy.cls": b"1"})
    data = load_images(str(folder), findings=findings)

    assert len(data.train) == 21
    assert [str(found) for found in findings if "byte-equal copies" in str(found)]
    assert not [str(found) for found in findings if "left out" in str(found)]
