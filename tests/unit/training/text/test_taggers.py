"""Taggers: read from CoNLL files, learned, exported, and served as they were measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from handlers.inputs.texts import TextLimits
from handlers.runtime.export import Export
from marina.core import spec
from marina.evaluation import report
from marina.kinds.kind import MeasurementOptions
from marina.kinds.tagger import KIND
from tests.support.answered import answers_of
from tests.support.refused_files import check_refusal
from tests.support.tagged_data import made_sentences, write_conll
from training.data.tagged_texts import bio, load_tagged
from training.findings import Findings
from training.text.tag_assessment import by_tag, tag_metrics
from training.train import train

QUICK = {
    **{"recipe": "tagger", "epochs": 12, "batch_size": 8, "learning_rate": 0.02, "dropout": 0.1},
    **{"buckets": 1000, "width": 16, "layers": 1, "max_tokens": 20},
}
TRUTH = [["O", "B-PER", "I-PER", "O"], ["B-LOC", "O", "B-PER", "O"]]
FOUND = [["O", "B-PER", "I-PER", "O"], ["B-LOC", "O", "B-LOC", "I-LOC"]]


def load(path: Path, column: str = "upos", findings: Findings | None = None) -> Any:
    return load_tagged(str(path), column, 0, findings or Findings(quiet=True), TextLimits())


@pytest.mark.slow
def test_names_are_learned_and_served_as_they_were_measured(tmp_path: Path) -> None:
    """With a conditional random field beside them where it is installed."""
    data = write_conll(tmp_path / "names.conll", 300)
    (tmp_path / "models").mkdir()
    text = (
        f"# Names.\nkind: tagger\ntraining: {json.dumps({**QUICK, 'data': str(data)})}\nfloor: {{f1: 0.9}}\n"
    )
    (tmp_path / "models" / "names.yaml").write_text(
        text + "export: {runtimes: [openvino], precisions: [fp32]}\n"
    )
    made = spec.load("names", home=tmp_path)
    export = Export.open(train(made))
    metrics = export.metadata["metrics"]
    assert export.labels == ["O", "B-LOC", "B-PER", "I-PER"]
    rows = export.runtimes["candidates"]
    assert {row["runtime"] for row in rows if not row["refused"]} == {"torch", "openvino"}, rows
    predictor = made.predictor()
    predictor.load(made.export_dir)
    answers = answers_of(predictor)
    measured = KIND.measurement(made, MeasurementOptions()).run(answers, iter, is_endpoint=False).metrics
    for name in ("accuracy", "f1", "sentence_accuracy"):
        assert measured[name] == pytest.approx(metrics[name], abs=1e-6)
    other = write_conll(tmp_path / "other.conll", 30, 9)
    foreign = KIND.measurement(made, MeasurementOptions(str(other)))
    assert foreign.run(answers, iter, is_endpoint=False).metrics["sentences"] == 30
    assert {"curves.png", "confusion.png"} <= {file.name for file in (made.export_dir / "report").iterdir()}
    assert "LOC" in report.page(made)
    if "crf_f1" in metrics:
        assert metrics["crf_f1"] > 0.9


def test_f1_is_that_of_seqeval_and_tags_are_counted_one_by_one() -> None:
    """By hand: of three true spans two are found among three answers."""
    metrics = tag_metrics(FOUND, TRUTH)
    assert metrics["f1"] == pytest.approx(2 / 3)
    assert (metrics["precision"], metrics["recall"]) == (2 / 3, 2 / 3)
    assert (metrics["accuracy"], metrics["sentence_accuracy"]) == (6 / 8, 0.5)
    assert by_tag(FOUND, TRUTH) == [
        {"class": "LOC", "count": 1, "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)},
        {"class": "PER", "count": 2, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)},
    ]
    plain = tag_metrics([["NOUN", "VERB"]], [["NOUN", "NOUN"]])
    assert plain == {"accuracy": 0.5, "sentence_accuracy": 0, "macro_f1": pytest.approx(2 / 3)}


def test_other_schemes_become_bio() -> None:
    """IOB1 and IOBES; parts of speech stay."""
    assert bio(["I-PER", "I-PER", "O", "I-LOC", "B-LOC"]) == ("B-PER", "I-PER", "O", "B-LOC", "B-LOC")
    assert bio(["S-PER", "B-LOC", "I-LOC", "E-LOC"]) == ("B-PER", "B-LOC", "I-LOC", "I-LOC")
    assert bio(["NOUN", "X"]) == ("NOUN", "X")


CONLLU = """# text = Wir gehen zum Zug.
1\tWir\twir\tPRON\tPPER\t_\t2\tnsubj\t_\t_
2\tgehen\tgehen\tVERB\tVVFIN\t_\t0\troot\t_\t_
3-4\tzum\t_\t_\t_\t_\t_\t_\t_\t_
3\tzu\tzu\tADP\tAPPR\t_\t5\tcase\t_\t_
4\tdem\tder\tDET\tART\t_\t5\tdet\t_\t_
4.1\t_\t_\t_\t_\t_\t_\t_\t_\t_
5\tZug\tZug\tNOUN\tNN\t_\t2\tobl\t_\tSpaceAfter=No
"""


def test_conllu_conll_lines_and_folders_are_read(tmp_path: Path) -> None:
    """Ranges and empty nodes are no words; splits are those of the files, or drawn with copies together."""
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.conllu").write_text(CONLLU)
    data = load(tmp_path)
    assert data.train[0].words == ("Wir", "gehen", "zu", "dem", "Zug")
    assert data.train[0].tags == ("PRON", "VERB", "ADP", "DET", "NOUN")
    assert load(tmp_path, "xpos").test[0].tags == ("PPER", "VVFIN", "APPR", "ART", "NN")
    lines = tmp_path / "names.jsonl"
    rows = [{"tokens": words, "tags": tags} for words, tags in made_sentences(100)]
    lines.write_text("\n".join(map(json.dumps, [*rows, {"tokens": ["a\0"], "tags": ["O"]}])))
    findings = Findings(quiet=True)
    drawn = load(lines, findings=findings)
    own = [{one.words for one in split} for split in (drawn.train, drawn.validation, drawn.test)]
    assert sum(map(len, own)) == len(set().union(*own))
    assert "1 of 101 sentences left out: a null byte in it: names.jsonl, line 101" in " ".join(
        map(str, findings)
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.conll", "Ada B-PER\nwrote\n", "sentence at line 1: 'wrote' has no tag"),
        ("a.conllu", "1\tAda\tX\n", "sentence at line 1: 3 columns instead of 10"),
        ("a.jsonl", '{"tokens": ["a"]}', "line 1: KeyError"),
        ("a.jsonl", '{"tokens": ["a"], "tags": []}', "line 1: as many tags as tokens"),
        ("a.conll", "Ada O\n\n" * 20, "has the tags O; two at least are needed"),
        ("a.docx", "x", "tagged sentences are"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, name: str, content: str, words: str) -> None:
    """By their line."""
    check_refusal(tmp_path / name, content, words, lambda path: load(tmp_path if name == "a.docx" else path))


def test_a_column_that_no_file_has_is_refused(tmp_path: Path) -> None:
    """With those that there are."""
    words = "CoNLL-U has upos, xpos, deprel, not 'lemma'"
    check_refusal(tmp_path / "b.conllu", CONLLU, words, lambda path: load(path, "lemma"))


def test_tags_that_train_lacks_are_a_finding(tmp_path: Path) -> None:
    """Their sentences are left out of what is measured."""
    (tmp_path / "train.conll").write_text("Ada B-PER\nwrote O\n\n" * 3)
    (tmp_path / "dev.conll").write_text("Grace B-PER\n")
    (tmp_path / "test.conll").write_text("Alan B-PER\n\nOslo B-LOC\n")
    findings = Findings(quiet=True)
    data = load(tmp_path, findings=findings)
    assert len(data.test) == 1
    assert "they have the tag(s) B-LOC, which train has not: test.conll, line 3" in " ".join(
        map(str, findings)
    )
