"""Labeled texts: every layout, encodings and packings, findings that name rows, copies kept together."""

import gzip
import json
import lzma
import random
from pathlib import Path
from typing import Any

import pytest

from handlers.inputs.texts import TextLimits
from marina.core.errors import CallError
from tests.support.refused_files import check_refusal
from tests.support.text_data import made_texts, write_csv
from training.data.near_texts import near_groups
from training.data.texts import Reading, TextData, held_out_texts, load_texts
from training.findings import Findings

ROWS = made_texts(80, 1)


def load(path: Path, findings: Findings | None = None, **reading: Any) -> TextData:
    return load_texts(str(path), 0, findings or Findings(quiet=True), Reading(**reading))


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def all_texts(data: TextData) -> set[tuple[str, str]]:
    splits = [*data.train, *data.validation, *data.test]
    return {(one.text, data.classes[one.labels[0]]) for one in splits}


def test_every_layout_gives_the_same_texts(tmp_path: Path) -> None:
    """Tables, JSON lines, packed or not, folders of tables and of files."""
    table = write_csv(tmp_path / "texts.csv", 80, 1)
    content = table.read_text(encoding="utf-8")
    lines = json_lines([{"text": text, "label": label} for text, label in ROWS])
    (tmp_path / "texts.tsv").write_text("label\tSentence\n" + "".join(f"{y}\t{x}\n" for x, y in ROWS))
    (tmp_path / "texts.jsonl").write_text(lines)
    (tmp_path / "bom.csv").write_text(content, encoding="utf-8-sig")
    (tmp_path / "texts.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    (tmp_path / "texts.csv.gz").write_bytes(gzip.compress(content.encode()))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "texts.csv").write_text(content)
    for number, (text, label) in enumerate(ROWS):
        file = tmp_path / "files" / label / "deeper" / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    names = (
        "texts.csv",
        "texts.tsv",
        "texts.jsonl",
        "bom.csv",
        "texts.jsonl.xz",
        "texts.csv.gz",
        "one",
        "files",
    )
    for name in names:
        data = load(tmp_path / name)
        assert all_texts(data) == set(ROWS), name
        assert data.classes == ("bad", "good")
        assert (len(data.validation), len(data.test)) == (12, 12), name
        assert len(data.about()["fingerprint"]) == 64


def test_parquet_is_a_table_too(tmp_path: Path) -> None:
    """With lists of labels for several."""
    pyarrow = pytest.importorskip("pyarrow", reason="pip install marina[parquet]")
    from pyarrow import parquet

    table = pyarrow.table({"text": [x for x, _ in ROWS], "label": [[y, "seen"] for _, y in ROWS]})
    parquet.write_table(table, tmp_path / "texts.parquet")
    data = load(tmp_path / "texts.parquet")
    assert (data.classes, data.has_several) == (("bad", "good", "seen"), True)
    assert all(len(one.labels) == 2 for one in data.train)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(CallError, match="no Parquet file, or a damaged one"):
        load(tmp_path / "broken.parquet")


def test_splits_that_are_given_stay(tmp_path: Path) -> None:
    """By a column, or one table or folder each; validation is drawn from train where there is none."""
    column = [
        {"text": x, "label": y, "split": "dev"[:0] or ("test", "train", "train")[n % 3]}
        for n, (x, y) in enumerate(ROWS)
    ]
    (tmp_path / "column.jsonl").write_text(json_lines(column))
    for part, name in (("train", "train"), ("test", "my_test_set")):
        rows = [{"text": row["text"], "label": row["label"]} for row in column if row["split"] == part]
        (tmp_path / "tables").mkdir(exist_ok=True)
        (tmp_path / "tables" / f"{name}.jsonl").write_text(json_lines(rows))
        for number, row in enumerate(rows):
            file = tmp_path / "files" / part / row["label"] / f"{number}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(row["text"])
    expected = {row["text"] for row in column if row["split"] == "test"}
    for name in ("column.jsonl", "tables", "files"):
        data = load(tmp_path / name)
        assert {one.text for one in data.test} == expected, name
        assert data.validation
        assert "validation drawn from train" in data.splits


def test_several_labels_come_as_lists_or_with_a_separator(tmp_path: Path) -> None:
    """Then a text may have none."""
    labels = [["a"], ["b", "a"], [], ["c"]]
    rows = [{"text": f"{text} {n}", "label": labels[n % 4]} for n, (text, _) in enumerate(ROWS)]
    (tmp_path / "lists.jsonl").write_text(json_lines(rows))
    table = "text,labels\n" + "".join(f"{row['text']},{'; '.join(row['label'])}\n" for row in rows)
    (tmp_path / "table.csv").write_text(table)
    one, other = load(tmp_path / "lists.jsonl"), load(tmp_path / "table.csv", separator=";")
    for data in (one, other):
        assert (data.classes, data.has_several) == (("a", "b", "c"), True)
        assert {one.labels for one in data.train} == {(0,), (1, 0), (), (2,)}


def test_rows_that_can_not_be_learned_from_are_findings_that_name_them(tmp_path: Path) -> None:
    """Empty texts, null bytes, halves of surrogate pairs, texts that are too long, missing labels."""
    good = [{"text": x, "label": y} for x, y in ROWS]
    bad: list[dict[str, Any]] = [
        {"text": "", "label": "good"},
        {"text": " \n", "label": "good"},
        {"text": "a\0b", "label": "good"},
        {"text": "a\ud800b", "label": "bad"},
        {"text": "x" * 2001, "label": "bad"},
        {"text": "no label at all", "label": None},
    ]
    (tmp_path / "texts.jsonl").write_text(json_lines(good + bad))
    findings = Findings(quiet=True)
    data = load(tmp_path / "texts.jsonl", findings, limits=TextLimits(2000, 100))
    assert all_texts(data) == set(ROWS)
    lines = [str(one) for one in findings]
    assert lines == [
        "2 of 86 texts left out: empty: texts.jsonl, line 81, texts.jsonl, line 82",
        "1 of 86 texts left out: a null byte in it: texts.jsonl, line 83",
        "1 of 86 texts left out: half of a surrogate pair in it: texts.jsonl, line 84",
        "1 of 86 texts left out: more than 2,000 characters: texts.jsonl, line 85",
        "1 of 86 texts left out: no label: texts.jsonl, line 86",
    ]


def test_a_wrong_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    """With what to set; a file of a folder that is in another one is left out."""
    table = write_csv(tmp_path / "texts.csv", 80, 1)
    content = table.read_text() + "caf\u00e9 in town,good\n"
    table.write_bytes(content.encode("cp1252"))
    with pytest.raises(
        CallError, match=r"not utf-8: byte 0xe9 in line 82; it may be cp1252 or .* training.encoding"
    ):
        load(table)
    data = load(table, encoding="cp1252")
    assert "café in town" in {text for text, _ in all_texts(data)}
    table.write_text(content, encoding="utf-16")
    with pytest.raises(CallError, match="may be utf-16"):
        load(table)
    assert all_texts(load(table, encoding="utf-16")) == all_texts(data)
    with pytest.raises(CallError, match="no encoding 'klingon'"):
        load(table, encoding="klingon")

    for number, (text, label) in enumerate(ROWS):
        file = tmp_path / "files" / label / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "files" / "good" / "cafe.txt").write_bytes(b"caf\xe9")
    (tmp_path / "files" / "good" / "notes.doc").write_bytes(b"?")
    findings = Findings(quiet=True)
    assert all_texts(load(tmp_path / "files", findings)) == set(ROWS)
    assert [str(one) for one in findings] == [
        "1 of 81 files left out: no .txt: files/good/notes.doc",
        "1 of 81 files left out: they can't be read as utf-8, see training.encoding: files/good/cafe.txt",
    ]


def changed(text: str, draw: random.Random) -> str:
    """A near copy of a long text: another word, other digits."""
    words = text.split()
    words[draw.randrange(len(words))] = "another"
    return " ".join(words).upper() + f" {draw.randrange(1000):03}"


def test_near_copies_never_cross_a_split_that_is_drawn(tmp_path: Path) -> None:
    """Nor do texts of one group; whatever the seed. They are findings."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=5)) for _ in range(2000)]
    long = [(" ".join(draw.choices(words, k=60)) + " 000", label) for _, label in ROWS[:40]]
    rows = [{"text": text, "label": label, "group": ""} for text, label in long]
    rows += [{"text": changed(text, draw), "label": label, "group": ""} for text, label in long[::2] * 2]
    rows += [
        {"text": f"alone {text}", "label": label, "group": f"g{n % 8}"}
        for n, (text, label) in enumerate(ROWS)
    ]
    (tmp_path / "texts.jsonl").write_text(json_lines(rows))
    for seed in range(3):
        findings = Findings(quiet=True)
        data = load_texts(str(tmp_path / "texts.jsonl"), seed, findings, Reading())
        where = {}
        for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
            where |= {one.text: name for one in split}
        assert len(where) == len(rows)
        for first, row in zip(long[::2] * 2, rows[40:80], strict=True):
            assert where[first[0]] == where[row["text"]]
        for group in range(8):
            members = {where[row["text"]] for row in rows if row["group"] == f"g{group}"}
            assert len(members) == 1
        assert "40 of 160 texts are copies or near copies of another one" in str(next(iter(findings)))


def test_copies_across_splits_that_are_given_are_findings(tmp_path: Path) -> None:
    """And copies that contradict each other."""
    rows = [
        {"text": x, "label": y, "split": ("test", "train", "train", "val")[n % 4]}
        for n, (x, y) in enumerate(ROWS)
    ]
    rows += [
        {**rows[1], "split": "test"},
        {**rows[2], "label": "good" if rows[2]["label"] == "bad" else "bad"},
    ]
    (tmp_path / "texts.jsonl").write_text(json_lines(rows))
    findings = Findings(quiet=True)
    load(tmp_path / "texts.jsonl", findings)
    lines = [str(one) for one in findings]
    assert "1 of 21 texts of test have copies or near copies in an earlier split" in lines[1]
    assert "texts.jsonl, line 81 ~ texts.jsonl, line 2" in lines[1]
    assert "1 of 82 texts have copies or near copies with another label" in lines[2]


def test_short_texts_are_near_to_their_own_copies_alone() -> None:
    """A few equal words are no copy."""
    groups = near_groups(
        ["a great film", "a great day", "A GREAT film!", "", "!", "\ud800", "10 days", "23 days"]
    )
    assert [groups.first(row) for row in range(8)] == [0, 1, 0, 3, 4, 5, 6, 6]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("texts.csv", "", "is empty; labeled texts look like"),
        (
            "texts.csv",
            "words,class\na,b\n",
            "has the columns 'words', 'class'; call that of the texts 'text'",
        ),
        ("texts.csv", 'text,label\n"a,b\n', "line 2: unexpected end of data; quote texts"),
        ("texts.jsonl", '{"text": "a", "label": "b"}\n{"text"', "line 2: no JSON"),
        ("texts.jsonl", '["a", "b"]\n', "line 1: write an object"),
        ("texts.jsonl", '{"text": 3, "label": "b"}\n', "line 1: the text is 3, not a string"),
        (
            "texts.jsonl",
            '{"text": "a", "label": {"b": 1}}\n',
            "line 1: the label is .* neither a name nor a list",
        ),
        ("texts.csv", "text,label\n" + "a,b\nc,b\n" * 9, "has the labels b; two at least are needed"),
        ("texts.csv", "text,label\na,b\nc,d\n", r"the label 'b' has 1 text\(s\); 5 at least"),
        ("texts.doc", "?", "no table of texts; labeled texts look like"),
    ],
)
def test_what_is_no_labeled_text_is_refused(tmp_path: Path, name: str, content: str, words: str) -> None:
    """With the line, and how it should look."""
    check_refusal(tmp_path / name, content, words, load)


def test_folders_that_leave_it_open_are_refused(tmp_path: Path) -> None:
    """Nothing there, and several tables that name no splits."""
    with pytest.raises(CallError, match="neither a file nor a folder"):
        load(tmp_path / "nothing")
    with pytest.raises(CallError, match="no texts in"):
        load(tmp_path)
    write_csv(tmp_path / "a.csv")
    write_csv(tmp_path / "b.csv")
    with pytest.raises(CallError, match=r"several tables: a.csv, b.csv; name the one to read"):
        load(tmp_path)


def test_other_data_measures_with_the_labels_of_the_model(tmp_path: Path) -> None:
    """The test split, else all; a label that the model lacks is refused."""
    table = write_csv(tmp_path / "texts.csv", 80, 1)
    arguments = (0, Findings(quiet=True), Reading())
    assert len(held_out_texts(str(table), *arguments, ("good", "bad"), False, True)) == 80
    assert len(held_out_texts(str(table), *arguments, ("bad", "good"), False, False)) == 12
    with pytest.raises(CallError, match=r"has the label\(s\) bad; the model knows good, better"):
        held_out_texts(str(table), *arguments, ("good", "better"), False, True)
