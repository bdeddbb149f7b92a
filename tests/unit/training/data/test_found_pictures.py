"""Which files of a folder are data: limits, names in annotation files, splits, leftovers of systems."""

import shutil
from pathlib import Path

import pytest

from tests.support.data_folders import (
    classes_folder,
    coco_content,
    coco_folder,
    every,
    picture,
    said,
    voc_folder,
    write,
)
from training.data import (
    held_out_images,
    image_folder,
    labeled_files,
    load_clips,
    load_images,
    load_objects,
    load_outlines,
)
from training.data.coco import annotation_files
from training.data.limits import Limits
from training.data.picture_files import PictureFinder, split_of
from training.findings import Findings


@pytest.mark.parametrize(
    ("limits", "setting"),
    [
        (Limits(max_bytes=2_000), "2,000 bytes, training.max_bytes"),
        (Limits(max_pixels=400), "training.max_pixels"),
    ],
)
@pytest.mark.parametrize("reader", ["folders", "labels.json", "coco", "outlines", "voc"])
def test_what_the_endpoint_would_refuse_is_left_out_by_every_reader(
    tmp_path: Path, reader: str, limits: Limits, setting: str
) -> None:
    findings = Findings()
    if reader == "folders":
        large = picture(classes_folder(tmp_path, ["a", "b"]) / "a" / "big.png", 999, (64, 64))
        data = load_images(str(tmp_path), 0, findings, limits)
    elif reader == "labels.json":
        large = picture(tmp_path / "big.png", 999, (64, 64))
        write(tmp_path / "labels.json", {"big.png": 0, picture(tmp_path / "small.png", 1).name: 1})
        data = held_out_images(str(tmp_path), findings, limits)
    elif reader == "voc":
        voc_folder(tmp_path)
        large = picture(tmp_path / "JPEGImages" / "p3.png", 999, (64, 64))
        data = load_objects(str(tmp_path), 0, findings, limits)
    else:
        coco_folder(tmp_path)
        large = picture(tmp_path / "images" / "3.png", 999, (64, 64))
        load = load_objects if reader == "coco" else load_outlines
        data = load(str(tmp_path), 0, findings, limits)

    assert setting in said(findings)
    assert large.name in said(findings)
    assert large not in [example.image for example in every(data)]


@pytest.mark.parametrize(
    "written",
    [
        "images\\{}.png",
        "..\\..\\media\\{}.png",
        "../../media/{}.png",
        "C:\\data\\{}.png",
        "/mnt/elsewhere/{}.png",
        "{}.PNG",
        "file%20{}.png",
    ],
)
@pytest.mark.parametrize("reader", ["coco", "labels.json"])
def test_pictures_are_found_however_their_path_is_written(tmp_path: Path, written: str, reader: str) -> None:
    """Other slashes, parents, drives, %20 and case are no obstacle, and cost one summed warning."""
    on_disk = "file {}.png" if "%20" in written else "{}.png"
    for k in range(20):
        picture(tmp_path / "images" / on_disk.format(k), k)
    names = [written.format(k) for k in range(20)]
    findings = Findings()
    if reader == "coco":
        write(tmp_path / "instances.json", coco_content(names))
        data = load_objects(str(tmp_path), findings=findings)
    else:
        write(tmp_path / "labels.json", {name: k % 2 for k, name in enumerate(names)})
        data = held_out_images(str(tmp_path), findings)

    assert len(every(data)) == 20
    exact = reader == "coco" and written == "{}.png"
    assert said(findings).count("20 of 20 pictures found under another name") == (0 if exact else 1)
    assert len(said(findings).splitlines()) == 1


@pytest.mark.parametrize("picture_name", ["P{}.PNG", "other {}.png"])
def test_voc_pictures_are_found_by_file_name_and_in_any_case(tmp_path: Path, picture_name: str) -> None:
    voc_folder(tmp_path)
    for k in range(20):
        target = tmp_path / "JPEGImages" / picture_name.format(k)
        (tmp_path / "JPEGImages" / f"p{k}.png").rename(target)
        annotation = tmp_path / "Annotations" / f"p{k}.xml"
        named = f"<annotation><filename>D:\\photos\\{target.name}</filename>"
        annotation.write_text(annotation.read_text().replace("<annotation>", named))
    findings = Findings()

    assert len(every(load_objects(str(tmp_path), findings=findings))) == 20
    assert said(findings).startswith("20 of 20 pictures found under another name than their annotation")
    assert len(said(findings).splitlines()) == 1


def test_a_name_never_leads_out_of_the_folder_nor_into_another_split(tmp_path: Path) -> None:
    outside = picture(tmp_path / "secret.png", 0)
    folder = tmp_path / "data"
    picture(folder / "test" / "a.png", 1)
    picture(folder / "one" / "b.png", 2)
    picture(folder / "two" / "b.png", 3)
    finder = PictureFinder(folder, (folder,))

    assert finder.find("../secret.png") is None
    assert finder.find(str(outside)) is None
    assert finder.find("train/a.png") is None
    assert finder.find("a.png", "train") is None
    assert finder.find("b.png") is None
    assert finder.find("elsewhere/two/b.png") == folder / "two" / "b.png"
    assert [finder.find(name) for name in ("", "..", "\0", "a" * 5000, "/")] == [None] * 5


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("valves", None),
        ("trainers", None),
        ("latest", None),
        ("instances_val2017", "validation"),
        ("train-v2", "train"),
        ("Test", "test"),
    ],
)
def test_only_whole_words_name_a_split(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_a_json_of_valves_is_no_validation(tmp_path: Path) -> None:
    coco_folder(tmp_path, name="valves.json")
    assert annotation_files(tmp_path) == {"all": tmp_path / "valves.json"}

    shutil.copy(tmp_path / "valves.json", tmp_path / "instances_train.json")
    findings = Findings()
    data = load_objects(str(tmp_path), findings=findings)

    assert (len(data.train), len(data.validation), len(data.test)) == (14, 3, 3)
    assert "1 of 2 JSON files are not read" in said(findings)


def test_other_json_files_are_no_annotations_beside_them(tmp_path: Path) -> None:
    coco_folder(tmp_path)
    write(tmp_path / "dataset_info.json", {"author": "me"})
    findings = Findings()

    assert len(every(load_objects(str(tmp_path), findings=findings))) == 20
    assert said(findings) == f"1 of 2 JSON files are not read: {tmp_path.name}/dataset_info.json"


def test_trainval_gives_what_the_other_lists_do_not_have(tmp_path: Path) -> None:
    """`trainval.txt` is all that there is to learn from, and holds the validation too."""
    voc_folder(tmp_path)
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, stems in {"trainval": range(16), "val": range(12, 16), "test": range(16, 20)}.items():
        (lists / f"{name}.txt").write_text("".join(f"p{k} 1\n" for k in stems))
    data = load_objects(str(tmp_path))

    assert [len(part) for part in (data.train, data.validation, data.test)] == [12, 4, 4]


LEFTOVERS = [".ipynb_checkpoints", "@eaDir", "__MACOSX", ".hidden", "$RECYCLE.BIN"]
LEFTOVER_FILES = [".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"]


def littered(folder: Path, sample: Path) -> None:
    """Leftovers in `folder` and in every folder below it; the folders hold copies of `sample`."""
    for place in [folder, *[path for path in folder.rglob("*") if path.is_dir()]]:
        for name in LEFTOVERS:
            (place / name / "cat").mkdir(parents=True)
            for target in (place / name, place / name / "cat"):
                shutil.copy(sample, target / f"left{sample.suffix}")
        for name in LEFTOVER_FILES:
            (place / name).write_bytes(b"not data")


@pytest.mark.parametrize("reader", ["folders", "split folders", "unlabelled", "coco", "voc", "clips"])
def test_leftovers_of_systems_are_skipped_without_a_word(tmp_path: Path, reader: str) -> None:
    findings = Findings()
    sample = picture(tmp_path / "sample.png", 999)
    folder = tmp_path / "data"
    if reader == "split folders":
        for split in ("train", "test"):
            classes_folder(folder / split, ["cat", "dog"], 6 if split == "train" else 2)
            for number, path in enumerate(sorted((folder / "test").rglob("*.png")), start=500):
                picture(path, number)
        littered(folder, sample)
        assert image_folder.load(folder, 0, findings).classes == ("cat", "dog")
    elif reader in ("folders", "unlabelled"):
        littered(classes_folder(folder, ["cat", "dog"]), sample)
        read = load_images(str(folder), 0, findings) if reader == "folders" else None
        pictures = every(read) if read else labeled_files.unlabelled(folder, findings)
        assert len(pictures) == 12
        assert not read or read.classes == ("cat", "dog")
    elif reader == "clips":
        for k in range(12):
            clip = folder / "ab"[k % 2] / f"clip {k}"
            for frame in range(3):
                picture(clip / f"{frame}.png", 10 * k + frame)
        littered(folder, sample)
        assert len(every(load_clips(str(folder), 0, findings))) == 12
    else:
        coco_folder(folder) if reader == "coco" else voc_folder(folder)
        littered(folder, sample)
        for name in ("._instances.json", "__MACOSX/_annotations.coco.json", "Annotations/._p1.xml"):
            if (folder / name).parent.is_dir():
                (folder / name).write_bytes(b"not data")
        assert len(every(load_objects(str(folder), 0, findings))) == 20

    assert not said(findings)
