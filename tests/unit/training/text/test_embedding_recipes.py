"""Embedders: learned from what belongs together or from plain words, imported, exported, measured again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handlers.inputs.tokenization import load_tokenizer
from handlers.runtime.export import Export
from marina.core import spec
from marina.core.errors import CallError, WorkError
from marina.evaluation import report
from marina.kinds.embedder import KIND
from marina.kinds.kind import Measured, MeasurementOptions
from tests.support.text_data import write_csv, write_groups
from tests.support.tiny_encoders import LAYERS, WIDTH, write_encoder
from training.data.embedding_texts import Entry, load_entries
from training.data.texts import Reading
from training.findings import Findings
from training.recipes import embedder, imported_embedder, text_classifier
from training.runs.run import Run
from training.text.contrast import PairBatches, info_nce
from training.text.encoders import load_encoder
from training.text.retrieval import measure_tfidf, retrieve
from training.train import train

QUICK = {"epochs": 3, "batch_size": 16, "learning_rate": 0.02, "max_tokens": 24, "dimension": 16}
TORCH = "export: {runtimes: []}\n"


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_groups(tmp_path_factory.mktemp("data") / "groups.jsonl")


def write(home: Path, training: dict[str, Any], more: str = TORCH, name: str = "toy") -> spec.Spec:
    (home / "models").mkdir(exist_ok=True)
    floor = "" if training["recipe"].startswith("imported") else "floor: {mrr: 0.0}\n"
    text = f"# A toy.\nkind: embedder\ntraining: {json.dumps(training)}\n{floor}{more}"
    (home / "models" / f"{name}.yaml").write_text(text, encoding="utf-8")
    return spec.load(name, home=home)


def answers_of(made: spec.Spec) -> Any:
    predictor = made.predictor()
    predictor.load(made.export_dir)
    return lambda rows, headers: predictor.answer_rows([({"body": body}, {}) for body, _ in rows])


@pytest.mark.slow
def test_texts_that_belong_together_are_learned_and_measured_again(tmp_path: Path, groups: Path) -> None:
    """The served vectors are the measured ones; an index and labels lie in the export."""
    settings = {
        "recipe": "embedder",
        **QUICK,
        "data": str(groups),
        "index": str(groups),
        "labels": ["a film"],
    }
    made = write(tmp_path, settings, more="export: {runtimes: [openvino], precisions: [fp32]}\n")
    export = Export.open(train(made))
    metrics, data = export.metadata["metrics"], export.metadata["data"]
    assert (data["relevance"], data["train"] + data["validation"] + data["test"]) == ("groups", 240)
    assert metrics["tfidf_recall_at_1"] == 1
    rows = export.runtimes["candidates"]
    assert {row["runtime"] for row in rows if not row["refused"]} == {"torch", "openvino"}, rows
    measurement = KIND.measurement(made, MeasurementOptions())
    assert measurement.is_recorded
    measured = measurement.run(answers_of(made), iter, is_endpoint=False)
    for name in ("recall_at_1", "recall_at_10", "mrr"):
        assert measured.metrics[name] == pytest.approx(metrics[name], abs=1e-6)
    assert measurement.compare(measured, measured)["least_cosine"] == pytest.approx(1, abs=1e-5)
    turned = Measured({}, np.roll(measured.details, 1, 1))
    with pytest.raises(WorkError, match="a vector of the endpoint has a cosine of"):
        measurement.compare(turned, measured)
    (answer,) = answers_of(made)([(b"a film", "")], {})
    assert len(answer["neighbors"]) == 5
    assert answer["labels"] == [{"label": "a film", "similarity": 1.0}]
    page = report.page(made)
    assert "Nearest neighbors" in page
    assert {"curves.png", "projection.png", "retrieval.png"} <= {
        file.name for file in (made.export_dir / "report").iterdir()
    }
    other = write_groups(tmp_path / "other.jsonl", 40, 5)
    foreign = KIND.measurement(made, MeasurementOptions(str(other)))
    assert foreign.run(answers_of(made), iter, is_endpoint=False).metrics["texts"] == 40
    assert not foreign.is_recorded


@pytest.mark.parametrize("frozen", [None, LAYERS - 1])
def test_a_pretrained_encoder_learns_above_what_is_frozen(
    tmp_path: Path, groups: Path, frozen: int | None
) -> None:
    """Below, its weights are those of the folder."""
    source = f"hf:{write_encoder(tmp_path / 'encoder')}"
    settings = {**QUICK, "epochs": 1, "data": str(groups), "architecture": source, "frozen_layers": frozen}
    trained = embedder.train(embedder.Settings(**settings, ema_decay=0.9), Run(tmp_path))
    imported = imported_embedder.train(
        imported_embedder.Settings(source=source, max_tokens=24), Run(tmp_path)
    )
    one, other = (each.module.state_dict() for each in (trained, imported))
    changed = {name.split(".")[2] for name in other if not torch.equal(one[name], other[name])}
    assert changed == (set() if frozen is None else {str(LAYERS - 1)})
    assert trained.module(trained.example[0]).shape[1] == 16
    with pytest.raises(ValueError, match="learns nothing; use imported_embedder"):
        embedder.Settings(data="x", architecture=source, dimension=None)
    with pytest.raises(ValueError, match="tokenizer: that is the encoder's own"):
        embedder.Settings(data="x", architecture=source, tokenizer="words")
    with pytest.raises(ValueError, match="pooling: that is of architecture: hf:FOLDER"):
        embedder.Settings(data="x", pooling="mean")
    with pytest.raises(CallError, match=r"max_tokens 256: hf:.* has 64"):
        imported_embedder.train(imported_embedder.Settings(source=source), Run(tmp_path))


@pytest.mark.slow
def test_an_encoder_is_imported_and_measured(tmp_path: Path, groups: Path) -> None:
    """With padding of any length the same; without data its samples are sentences."""
    source = f"hf:{write_encoder(tmp_path / 'encoder')}"
    training = {"recipe": "imported_embedder", "source": source, "max_tokens": 40, "data": str(groups)}
    made = write(tmp_path, training)
    export = Export.open(train(made))
    assert export.postprocess["dimension"] == WIDTH
    assert export.metadata["metrics"]["tfidf_mrr"] == 1
    measurement = KIND.measurement(made, MeasurementOptions())
    assert measurement.is_recorded
    measured = measurement.run(answers_of(made), iter, is_endpoint=False).metrics
    assert measured["mrr"] == pytest.approx(export.metadata["metrics"]["mrr"], abs=1e-6)
    texts = [b"film", b"a wonderful film and the story of it " * 4, b"dull"]
    together = answers_of(made)([(text, "") for text in texts], {})
    for text, found in zip(texts, together, strict=True):
        (alone,) = answers_of(made)([(text, "")], {})
        np.testing.assert_allclose(alone["embedding"], found["embedding"], atol=1e-5)
    plain = imported_embedder.train(imported_embedder.Settings(source=source, max_tokens=40), Run(tmp_path))
    assert (len(plain.samples), plain.metrics) == (8, {})
    with pytest.raises(CallError, match="is none of hf:FOLDER, model:NAME"):
        imported_embedder.train(imported_embedder.Settings(source="bert"), Run(tmp_path))


@pytest.mark.parametrize("architecture", ["bag", pytest.param("transformer", marks=pytest.mark.slow)])
def test_the_body_of_a_text_classifier_embeds(home: Path, architecture: str) -> None:
    """As it was exported, with its tokenizer and its limit of tokens."""
    data = write_csv(home / "texts.csv", 200)
    training = {
        **{
            "recipe": "text_classifier",
            "data": str(data),
            "epochs": 1,
            "embedding_size": 16,
            "max_tokens": 32,
        },
        **{"architecture": architecture, "baseline": False},
    }
    head = f"# Films.\nkind: text_classifier\n{TORCH}"
    text = f"{head}training: {json.dumps(training)}\nfloor: {{accuracy: 0.0}}\n"
    (home / "models").mkdir(exist_ok=True)
    (home / "models" / "films.yaml").write_text(text)
    classifier = spec.load("films")
    train(classifier)
    trained = imported_embedder.train(imported_embedder.Settings(source="model:films"), Run(home))
    assert trained.preprocess["max_tokens"] == 32
    program = torch.export.load(classifier.export_dir / "model.pt2")
    module: Any = trained.module
    for name, weight in module.body.state_dict().items():
        torch.testing.assert_close(weight, program.state_dict[f"body.{name}"])
    made = write(home, {"recipe": "imported_embedder", "source": "model:toy2"}, name="toy2")
    with pytest.raises(CallError, match="no export"):
        train(made)


def test_the_partner_is_found_among_all_but_texts_of_its_group() -> None:
    """By hand: the mean of both directions; a text of the same group is no negative."""
    one = torch.nn.functional.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    other = torch.roll(one, 1, 1)
    logits = one @ other.T / 0.5
    plain = -(logits.log_softmax(1).diag() + logits.log_softmax(0).diag()).mean() / 2
    assert float(info_nce(one, other, torch.tensor([0, 1, 2]), 0.5)) == pytest.approx(float(plain), rel=1e-5)
    logits[0, 1] = logits[1, 0] = -1e9
    masked = -(logits.log_softmax(1).diag() + logits.log_softmax(0).diag()).mean() / 2
    assert float(info_nce(one, other, torch.tensor([0, 0, 2]), 0.5)) == pytest.approx(float(masked), rel=1e-5)


def test_pairs_are_of_one_group_and_drawn_again_each_epoch() -> None:
    """Each text once at most; without two groups there is nothing to contrast."""
    entries = [Entry("x", f"g{n // 3}" if n < 30 else "", str(n), "") for n in range(33)]
    batches = PairBatches(entries, [np.array([n + 1]) for n in range(33)], 5, 0)
    first, second = batches.order(), batches.order()
    for steps in (first, second):
        rows = [row for step in steps for row in step]
        assert len(rows) == len(set(rows)) == 20
        assert all(step[k] // 3 == step[k + 5] // 3 for step in steps for k in range(5))
    assert first != second
    tokens, groups = batches.batch(first[0])
    assert (tokens.shape, groups.tolist()) == ((10, 1), [row // 3 for row in first[0][:5]])
    with pytest.raises(CallError, match="nothing to contrast"):
        PairBatches(entries[:3], [np.array([1])] * 3, 5, 0)


def test_recall_counts_queries_whose_nearest_others_belong_to_them() -> None:
    """By hand: two find theirs at once, one at the third place, and one text is no query."""
    entries = [Entry("", group, "", "") for group in ("a", "a", "b", "b", "")]
    angles = np.array([0.0, 0.1, 0.3, 2.0, 0.25])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = retrieve(vectors, entries)
    assert found.queries.tolist() == [0, 1, 2, 3]
    assert found.nearest[:, 0].tolist() == [1, 0, 4, 2]
    assert found.metrics["recall_at_1"] == 0.75
    assert found.metrics["mrr"] == pytest.approx((1 + 1 + 1 / 4 + 1) / 4)
    assert retrieve(vectors, [Entry("", "", "", "")] * 5).metrics == {}
    texts = [
        Entry(text, group, "", "") for text, group in (("red ship", "a"), ("a red ship", "a"), ("oven", "b"))
    ]
    assert measure_tfidf(texts)["tfidf_recall_at_1"] == 1


def test_pairs_groups_labels_or_near_copies_belong_together(tmp_path: Path) -> None:
    """What the data has of these, in this order; none crosses a split that is drawn."""
    lines = [
        {
            "id": f"q{n}",
            "text": f"how do I reach harbor number {n}",
            "positive": f"the way to harbor {n} is long",
        }
        for n in range(40)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, [*lines, {"text": "alone"}, {"text": " "}])))
    findings = Findings(quiet=True)
    data = load_entries(str(path), 0, findings, Reading(), "auto")
    splits = [data.train, data.validation, data.test]
    assert data.relevance == "pairs"
    assert sum(map(len, splits)) == 81
    own = [{one.group for one in split if one.group} for split in splits]
    assert sum(map(len, own)) == len(set().union(*own)) == 40
    assert {"q0"} <= {one.name for split in splits for one in split}
    assert "1 of 42 texts left out: empty" in " ".join(map(str, findings))
    with pytest.raises(CallError, match=r"relevance: labels: .* has no column 'label'"):
        load_entries(str(path), 0, findings, Reading(), "labels")
    for relevance, count in (("near_copies", None), ("labels", 4), ("groups", 60)):
        grouped = load_entries(str(write_groups(tmp_path / "g.jsonl")), 0, findings, Reading(), relevance)
        names = {one.group for split in (grouped.train, grouped.validation, grouped.test) for one in split}
        assert count in (None, len(names))


def test_an_index_of_the_wrong_form_is_refused(tmp_path: Path, groups: Path) -> None:
    """Ids that are there twice, and texts that are shown by their beginning alone, are said."""
    source = f"hf:{write_encoder(tmp_path / 'encoder')}"
    rows = [{"id": "a", "text": "film " * 50}, {"id": "a", "text": "story"}]
    path = tmp_path / "index.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    settings = imported_embedder.Settings(source=source, index=str(path), max_tokens=20, index_characters=20)
    with pytest.raises(CallError, match="has the id 'a' twice"):
        imported_embedder.train(settings, Run(tmp_path))
    path.write_text(json.dumps(rows[0]))
    findings = Findings(quiet=True)
    trained = imported_embedder.train(settings, Run(tmp_path, findings=findings))
    assert json.loads(trained.files["index.json"])["texts"] == ["film film film film…"]
    assert "are shown by their first 20 characters: index.jsonl, line 1" in " ".join(map(str, findings))


def test_a_frozen_encoder_classifies_by_features_that_are_computed_once(tmp_path: Path) -> None:
    """The served network has the encoder; what learns is the head, or what isn't frozen."""
    source = f"hf:{write_encoder(tmp_path / 'encoder')}"
    options = {"data": str(write_csv(tmp_path / "texts.csv", 200)), "max_tokens": 40, "baseline": False}
    options |= {"epochs": 2, "learning_rate": 0.02, "architecture": source}
    trained = text_classifier.train(text_classifier.Settings(**options), Run(tmp_path))
    assert trained.preprocess["tokenizer"] == "pretrained"
    tokenizer = load_tokenizer(trained.files["tokenizer.json"], "pretrained")
    for sample in trained.samples:
        tokens = tokenizer.encode(json.loads(sample.body)["text"], 40).ids[None]
        logits = trained.module(torch.from_numpy(tokens))
        assert trained.classes[int(logits.argmax())] == sample.expect["class"]
    for name, weight in load_encoder(source)[0].state_dict().items():
        assert torch.equal(trained.module.get_parameter(f"body.{name}"), weight)
    tuned = text_classifier.train(
        text_classifier.Settings(**{**options, "epochs": 1, "frozen_layers": 0}), Run(tmp_path)
    )
    one, other = (each.module.get_parameter("body.words.weight") for each in (trained, tuned))
    assert not torch.equal(one, other)
