"""Text classifiers: learned, exported, and served as they were measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handlers.inputs.tokenization import PAD, load_tokenizer
from handlers.protocol.errors import BrokenArchive
from handlers.runtime.export import Export
from marina.core import spec
from marina.core.errors import BelowFloor, CallError
from marina.evaluation import report
from marina.kinds.kind import MeasurementOptions
from marina.kinds.text_classifier import KIND
from tests.support.text_data import TELLING, made_texts, write_csv
from training.data.texts import Reading, Text, TextData, load_texts
from training.findings import Findings
from training.recipes import text_classifier
from training.runs.batches import LengthBatches
from training.runs.run import Run
from training.text.assessment import Assessment
from training.text.baseline import measure_baseline
from training.text.batches import TokenizedTexts, logits_of
from training.text.networks import build
from training.text.report import mistakes
from training.text.settings import Settings
from training.text.tokenizers import train_tokenizer
from training.text.vectors import vectors_of
from training.train import train

QUICK = {
    "recipe": "text_classifier",
    "epochs": 6,
    "batch_size": 8,
    "learning_rate": 0.02,
    "max_tokens": 32,
    "embedding_size": 16,
    "vocabulary_size": 300,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("data") / "texts.csv", 400)


def write(home: Path, training: dict[str, Any], floor: str = "{accuracy: 0.9}", more: str = "") -> spec.Spec:
    (home / "models").mkdir(exist_ok=True)
    text = f"# A toy.\nkind: text_classifier\ntraining: {json.dumps(training)}\nfloor: {floor}\n{more}"
    (home / "models" / "toy.yaml").write_text(text, encoding="utf-8")
    return spec.load("toy", home=home)


def answers_of(made: spec.Spec) -> Any:
    predictor = made.predictor()
    predictor.load(made.export_dir)
    return lambda rows, headers: predictor.answer_rows([({"body": body}, {}) for body, _ in rows])


def test_texts_are_learned_exported_and_measured_again(tmp_path: Path, table: Path) -> None:
    """The tokenizer lies in the export; the served answers are the measured ones."""
    made = write(tmp_path, {**QUICK, "data": str(table)}, more="export: {runtimes: [openvino]}\n")
    export = Export.open(train(made))
    metrics, data = export.metadata["metrics"], export.metadata["data"]
    assert (data["train"], data["validation"], data["test"]) == (280, 60, 60)
    assert metrics["f1_good"] > 0.9
    assert metrics["tfidf_accuracy"] > 0.9
    assert {"curves.png", "confusion.png", "reliability.png", "trade_off.png", "classes.json"} <= {
        file.name for file in (made.export_dir / "report").iterdir()
    }
    page = report.page(made)
    assert "Most telling words" in page
    assert all(word in page for word in TELLING["good"])
    serving = {row["runtime"] for row in export.runtimes["candidates"] if not row["refused"]}
    assert serving == {"torch", "openvino"}
    assert [sample["expect"]["class"] for sample in export.samples] == ["bad", "good"] * 3
    assert "vocabulary" not in json.dumps(export.preprocess)
    measurement = KIND.measurement(made, MeasurementOptions())
    measured = measurement.run(answers_of(made), iter, is_endpoint=False)
    assert measured.metrics == {"accuracy": pytest.approx(metrics["accuracy"]), "texts": 60}
    other = write_csv(tmp_path / "other.csv", 20, 9)
    foreign = KIND.measurement(made, MeasurementOptions(str(other)))
    assert foreign.run(answers_of(made), iter, is_endpoint=False).metrics["texts"] == 20

    file = made.export_dir / "tokenizer.json"
    file.write_bytes(file.read_bytes().replace(b"wonderful", b"wonderfuL"))
    with pytest.raises(BrokenArchive, match=r"tokenizer.json .*is not what SHA256SUMS says"):
        made.predictor().load(made.export_dir)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "tokenizer"),
    [("bag", "bpe"), ("cnn", "wordpiece"), ("transformer", "unigram"), ("gru", "words")],
)
def test_every_network_and_tokenizer_is_served(
    tmp_path: Path, table: Path, architecture: str, tokenizer: str
) -> None:
    """By torch (of cells ONNX Runtime) and by OpenVINO, of any length."""
    pytest.importorskip("tokenizers", reason="pip install marina[text]")
    settings = {**QUICK, "architecture": architecture, "tokenizer": tokenizer, "data": str(table)}
    made = write(tmp_path, settings, more="export: {runtimes: [openvino]}\n")
    export = Export.open(train(made))
    rows = export.runtimes["candidates"]
    portable = "onnxruntime" if architecture == "gru" else "torch"
    assert {row["runtime"] for row in rows if not row["refused"]} == {portable, "openvino"}, rows
    answer = answers_of(made)
    for text in ("boring", "a wonderful and moving film " * 20):
        (found,) = answer([(text.encode(), "")], {})
        assert found["truncated"] == (len(text) > 100)


def test_several_labels_are_learned_with_thresholds(tmp_path: Path) -> None:
    """And measured by F1; a text without any is one, too."""
    rows = [
        json.dumps({"text": text, "label": [label, "film"] if "film" in text else []})
        for text, label in made_texts(500, 3, 8)
    ]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows))
    settings = {**QUICK, "epochs": 8, "batch_size": 16, "data": str(tmp_path / "texts.jsonl")}
    made = write(tmp_path, settings, "{micro_f1: 0.8}", "export: {runtimes: []}\n")
    export = Export.open(train(made))
    assert export.labels == ["bad", "film", "good"]
    classes = json.loads((made.export_dir / "report" / "classes.json").read_text())
    assert [one["threshold"] for one in classes] == export.postprocess["thresholds"]
    assert export.metadata["metrics"]["tfidf_micro_f1"] > 0.7
    assert len(export.postprocess["thresholds"]) == 3
    assert {tuple(sample["expect"]["labels"]) for sample in export.samples} >= {()}
    measured = KIND.measurement(made, MeasurementOptions()).run(answers_of(made), iter, is_endpoint=False)
    for name in ("micro_f1", "exact_match"):
        assert measured.metrics[name] == pytest.approx(export.metadata["metrics"][name], abs=1e-6)
    with pytest.raises(CallError, match="for one label per text"):
        text_classifier.train(Settings(data=settings["data"], label_smoothing=0.1), Run(tmp_path))


def test_mistakes_are_listed_most_certain_first() -> None:
    """With where they stand, the truth, the answer, and how the text begins."""
    rows = [Text(f"text {n} " + "x" * 400, (n % 2,), f"line {n}") for n in range(4)]
    data = TextData(
        classes=("bad", "good"), has_several=False, train=[], validation=[], test=rows, splits="", origin={}
    )
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.0, 1.0]])
    labels, answers = torch.tensor([0, 1, 0, 1]), probabilities.argmax(1)
    found = mistakes(Assessment(probabilities, labels, answers, {}), data)
    shown = [(one["where"], one["truth"], one["answer"], one["certainty"]) for one in found]
    assert shown == [("line 2", "bad", "good", 0.9), ("line 1", "good", "bad", 0.8)]
    assert len(found[0]["beginning"]) == 300


def test_the_baseline_lists_the_words_that_tell(tmp_path: Path, table: Path) -> None:
    """Of each class, of two classes or more, of several labels."""
    data = load_texts(str(table), 0, Findings(quiet=True), Reading())
    found = measure_baseline(data, True)
    assert {word for word, _ in found.telling["bad"][:5]} == set(TELLING["bad"])
    assert found.metrics["tfidf_accuracy"] > 0.95
    rows = [
        json.dumps({"text": x, "label": (y, "ugly")[n % 5 == 0]})
        for n, (x, y) in enumerate(made_texts(300, 7))
    ]
    (tmp_path / "three.jsonl").write_text("\n".join(rows))
    three = measure_baseline(
        load_texts(str(tmp_path / "three.jsonl"), 0, Findings(quiet=True), Reading()), True
    )
    assert {"bad", "good", "ugly"} == three.telling.keys()


def test_a_missed_floor_exports_nothing(tmp_path: Path, table: Path) -> None:
    """As for every recipe."""
    made = write(
        tmp_path, {**QUICK, "epochs": 1, "learning_rate": 1e-6, "data": str(table)}, "{accuracy: 0.999}"
    )
    with pytest.raises(BelowFloor, match="accuracy"):
        train(made)
    assert not made.is_exported


def test_an_operating_point_finds_its_share(tmp_path: Path, table: Path) -> None:
    """Its class comes first from a lower probability on."""
    options = {key: value for key, value in QUICK.items() if key != "recipe"}
    point = {"class": "bad", "recall": 0.97}
    trained = text_classifier.train(
        Settings(data=str(table), operating_point=point, **options), Run(tmp_path)
    )
    assert trained.postprocess["decision"]["class_index"] == 0
    with pytest.raises(CallError, match="no class 'awful'; the data has bad, good"):
        text_classifier.train(
            Settings(data=str(table), operating_point={"class": "awful", "recall": 0.9}, **options),
            Run(tmp_path),
        )


OWN = """
from torch import nn


class Own(nn.Module):
    def __init__(self, size, outputs):
        super().__init__()
        self.table = nn.EmbeddingBag(size, outputs, padding_idx=0)

    def forward(self, tokens):
        return self.table(tokens)


def wrong(size, outputs):
    return nn.Embedding(size, outputs)
"""


def test_a_network_of_ones_own_takes_tokens(tmp_path: Path, table: Path) -> None:
    """And is refused where it gives something else than logits."""
    (tmp_path / "own.py").write_text(OWN)
    settings = Settings(data="", architecture=f"{tmp_path}/own.py:Own")
    assert build(settings, 9, 4, None)(torch.ones(2, 3, dtype=torch.int64)).shape == (2, 4)
    settings = Settings(data="", architecture=f"{tmp_path}/own.py:wrong")
    with pytest.raises(CallError, match=r"gives \(2, 3, 4\) for 2 texts of 3 tokens; give logits"):
        build(settings, 9, 4, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "rnn"}, "architecture must be bag, cnn, lstm, gru"),
        ({"architecture": "cnn", "hidden": 32}, "hidden: that is of architecture: lstm and gru"),
        ({"vectors": "x.txt", "tokenizer": "bpe"}, "vectors are of words"),
        ({"freeze_vectors": True}, "needs 'vectors'"),
        ({"vectors": "x.txt", "embedding_size": 8}, "embedding_size is that of the vectors"),
        ({"architecture": "transformer", "embedding_size": 62}, "62 has no 4 equal heads"),
        ({"operating_point": {"class": "a"}}, "write the class and the share"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(change: dict[str, Any], words: str) -> None:
    """With what to say instead."""
    with pytest.raises(ValueError, match=words):
        Settings(data="x", **change)


def test_pretrained_vectors_are_where_the_words_begin(tmp_path: Path, table: Path) -> None:
    """With or without a head line; words without one are drawn and a finding; frozen ones stay."""
    (tmp_path / "glove.txt").write_text("film 1 2 3\nwonderful 4 5 6\nunseen 7 8 9\n")
    (tmp_path / "fast.vec").write_text("2 3\nfilm 1 2 3 \nwonderful 4 5 6 \n")
    findings = Findings(quiet=True)
    words = ["<pad>", "<unk>", "dull", "film", "wonderful"]
    found = [vectors_of(str(tmp_path / name), words, 0, findings) for name in ("glove.txt", "fast.vec")]
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0][[0, 3, 4]].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert "1 of 3 words have no vector in glove.txt and begin with a drawn one: dull" in map(str, findings)
    settings = {"data": str(table), "vectors": str(tmp_path / "glove.txt"), "epochs": 1, "max_tokens": 16}
    trained = text_classifier.train(
        Settings(**settings, freeze_vectors=True), Run(tmp_path, findings=findings)
    )
    vocabulary = load_tokenizer(trained.files["tokenizer.json"], "words").vocabulary()
    table_of = trained.module.get_parameter("body.embedding.weight")
    assert table_of[vocabulary.index("wonderful")].tolist() == [4, 5, 6]
    assert table_of[PAD].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("film 1 2 3\nfun 1 2\n", "line 2: 2 finite numbers wanted, 3"),
        ("film 1 x 3\n", "line 1: could not convert"),
        ("film 1 nan 3\n", "line 1"),
        ("other 1 2 3\n", "has none of the 3 words"),
    ],
)
def test_vectors_that_are_none_are_refused(tmp_path: Path, content: str, words: str) -> None:
    """By their line."""
    file = tmp_path / "glove.txt"
    file.write_text(content)
    with pytest.raises(CallError, match=words):
        vectors_of(str(file), ["<pad>", "film", "fun"], 0, Findings(quiet=True))


def test_batches_have_texts_of_about_one_length() -> None:
    """Each text once in an epoch, in another order each time; little is padding."""
    rows = [Text(text, (0,), str(n)) for n, (text, _) in enumerate(made_texts(300, 5, 60))]
    tokenizer = load_tokenizer(train_tokenizer("words", [one.text for one in rows], 300, True), "words")
    texts = TokenizedTexts(rows, tokenizer, 64, 1, several=False)
    batches = LengthBatches(texts, texts.lengths, 10, 0)
    first, second = list(batches.order()), list(batches.order())
    assert sorted(row for step in first for row in step) == list(range(300))
    assert first != second
    tokens = [batches.batch(step)[0] for step in first]
    padding = sum(int((one == PAD).sum()) for one in tokens) / sum(one.numel() for one in tokens)
    assert padding < 0.05
    model = build(Settings(data="", embedding_size=8), tokenizer.size, 1, None).eval()
    found = logits_of(model, texts)
    with torch.no_grad():
        alone = model(texts.batch([7])[0])
    torch.testing.assert_close(found[7], alone[0])
