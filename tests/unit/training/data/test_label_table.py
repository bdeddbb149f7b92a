"""Tables of files and classes: CSV, TSV, Parquet and labels.json, as people write them."""

from pathlib import Path

import pytest
from PIL import Image

from marina.core.errors import CallError
from tests.support.data_folders import classes_folder, every, picture, read_with_findings, said, write
from training.data import ImageData, held_out_images, load_clips, load_images
from training.findings import Findings


def pictures(folder: Path, count: int = 20) -> list[tuple[str, str]]:
    """(file, class) of pictures in images/."""
    for k in range(count):
        picture(folder / "images" / f"{k}.png", k)
    return [(f"images/{k}.png", ("cat", "dog")[k % 2]) for k in range(count)]


def csv(folder: Path, text: str, name: str = "labels.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def by_name(data: ImageData) -> dict[str, str]:
    return {example.image.name: data.classes[example.label] for example in every(data)}


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ("path,label", "{},{}"),
        ("filename;class", "{};{}"),
        ("\ufeffimage_id,breed", "{},{}"),
        ("label\tfile", "{1}\t{0}"),
        ("", "{},{}"),
    ],
)
def test_columns_are_found_by_their_usual_names(tmp_path: Path, head: str, line: str) -> None:
    """Also with other separators, a byte-order mark, another order, and without a head."""
    rows = pictures(tmp_path)
    lines = [line.format(*row) for row in rows]
    csv(tmp_path, "\n".join([head, *lines] if head else lines))
    data = load_images(str(tmp_path))

    assert data.classes == ("cat", "dog")
    assert by_name(data) == {Path(name).name: label for name, label in rows}
    assert "split here" in data.splits


def test_a_table_may_be_named_itself(tmp_path: Path) -> None:
    rows = pictures(tmp_path)
    csv(tmp_path, "path,label\n" + "\n".join(map(",".join, rows)), "other.csv")
    csv(tmp_path, "nothing", "notes.csv")

    assert len(every(load_images(str(tmp_path / "other.csv")))) == 20
    with pytest.raises(CallError, match=r"several tables: notes\.csv, other\.csv; name the one to read"):
        load_images(str(tmp_path))


def test_a_column_of_splits_is_kept(tmp_path: Path) -> None:
    rows = pictures(tmp_path)
    splits = ["train"] * 12 + ["valid"] * 4 + ["Testing"] * 4
    lines = [f"{name},{label},{split}" for (name, label), split in zip(rows, splits, strict=True)]
    csv(tmp_path, "\n".join(["path,label,split", *lines]))
    data = load_images(str(tmp_path))

    assert [len(part) for part in (data.train, data.validation, data.test)] == [12, 4, 4]
    assert len(held_out_images(str(tmp_path)).test) == 4


def test_a_table_per_split_is_kept(tmp_path: Path) -> None:
    rows = [",".join(row) for row in pictures(tmp_path)]
    for name, part in {"train": rows[:12], "val": rows[12:16], "test": rows[16:]}.items():
        csv(tmp_path, "\n".join(["path,label", *part]), f"{name}.csv")
    data = load_images(str(tmp_path))

    assert [len(part) for part in (data.train, data.validation, data.test)] == [12, 4, 4]


def test_files_in_folders_of_splits_stay_in_them(tmp_path: Path) -> None:
    """As Kaggle has it: names without a suffix, and labels.csv beside train/ and test/."""
    lines = ["id,breed"]
    for k in range(24):
        place = "train" if k < 16 else "test"
        picture(tmp_path / place / f"{k:04}.png", k)
        lines.append(f"{k:04},{('pug', 'boxer')[k % 2]}")
    csv(tmp_path, "\n".join(lines))
    data = load_images(str(tmp_path))

    assert data.classes == ("boxer", "pug")
    assert {example.image.parent.name for example in data.test} == {"test"}
    assert len(data.test) == 8


def test_bad_rows_are_findings_that_name_the_file(tmp_path: Path) -> None:
    rows = [",".join((*row, "train" if k < 14 else "test")) for k, row in enumerate(pictures(tmp_path))]
    (tmp_path / "images" / "cut.png").write_bytes((tmp_path / "images" / "1.png").read_bytes()[:90])
    rows += ["images/cut.png,cat,train", "images/gone.png,cat,train", "images/3.png,cat,train"]
    rows += ["images/4.png,,train", "images/5.png,dog,later", "../../etc/passwd.png,cat,train"]
    csv(tmp_path, "\n".join(["path,label,split", *rows]))
    data, lines = read_with_findings(load_images, tmp_path)

    assert len(every(data)) == 19  # 3.png is a cat and a dog
    assert "2 of 26 pictures left out: there is no such file: images/gone.png, ../../etc/passwd.png" in lines
    assert "1 of 26 pictures left out: named twice, with other classes: 3.png" in lines
    assert "1 of 26 pictures left out: no file or no class is given: images/4.png" in lines
    assert "1 of 26 pictures left out: no split, or an unknown one: images/5.png" in lines
    assert "damaged or cut off" in lines


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("a,b,c\n1,2,3", "has the columns 'a', 'b', 'c'; call those of the files 'path'"),
        ("", "is empty"),
        ("path,label\nx.png,cat", r"no pictures in .*; a table of files and classes looks like this"),
    ],
)
def test_what_is_no_table_of_files_and_classes_is_refused(tmp_path: Path, text: str, wrong: str) -> None:
    with pytest.raises(CallError, match=wrong):
        load_images(str(csv(tmp_path, text)))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"path,label\n\xff\xfe\x00")
    with pytest.raises(CallError, match=r"labels\.csv can't be read"):
        load_images(str(tmp_path))


def test_labels_json_is_learned_from(tmp_path: Path) -> None:
    rows = pictures(tmp_path)
    write(tmp_path / "labels.json", dict(rows))

    assert by_name(load_images(str(tmp_path))) == {Path(name).name: label for name, label in rows}


def test_a_table_beside_folders_of_classes_is_named(tmp_path: Path) -> None:
    csv(classes_folder(tmp_path, ["cat", "dog"], 8), "photographer,year", "credits.csv")
    findings = Findings()

    assert load_images(str(tmp_path), findings=findings).classes == ("cat", "dog")
    assert "1 of 1 tables are not read, beside the folders of classes" in said(findings)


def test_parquet_is_read_and_damage_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    from pyarrow import parquet

    rows = pictures(tmp_path)
    table = pyarrow.table(
        {"label": [row[1] for row in rows], "path": [row[0] for row in rows], "width": [16] * 20}
    )
    parquet.write_table(table, tmp_path / "labels.parquet")

    assert by_name(load_images(str(tmp_path))) == {Path(name).name: label for name, label in rows}
    cut = (tmp_path / "labels.parquet").read_bytes()[:-20]
    (tmp_path / "labels.parquet").write_bytes(cut)
    with pytest.raises(CallError, match="is no Parquet file, or a damaged one"):
        load_images(str(tmp_path))


def test_clips_are_read_from_a_table_too(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    lines = ["file,label,split"]
    for k in range(12):
        frames = [Image.new("L", (16, 16), 20 * k + 3 * step) for step in range(4)]
        frames[0].save(tmp_path / "clips" / f"{k}.gif", save_all=True, append_images=frames[1:])
        lines.append(f"clips/{k}.gif,{('left', 'right')[k % 2]},{('train', 'val', 'test')[k // 4]}")
    csv(tmp_path, "\n".join(lines))
    data = load_clips(str(tmp_path))

    assert [len(part) for part in (data.train, data.validation, data.test)] == [4, 4, 4]
    assert data.classes == ("left", "right")
