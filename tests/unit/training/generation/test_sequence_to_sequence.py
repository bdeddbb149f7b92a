"""The recipe `sequence_to_sequence`: learned from a dictionary, exported, served as it was measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from handlers.decoding.generation import Generation
from handlers.decoding.options import GenerationOptions
from handlers.decoding.vocabulary import BEGIN, SPECIAL, ListVocabulary
from handlers.runtime.export import Export
from marina.core import spec
from marina.evaluation import report
from marina.kinds.generator import KIND
from marina.kinds.kind import MeasurementOptions
from tests.support.generators import write_dictionary
from training.generation.assessment import edit_distance, pair_metrics, substitutions
from training.generation.learner import answers_of
from training.generation.recurrent import RecurrentNetwork
from training.generation.settings import Settings
from training.generation.transformer import TransformerNetwork
from training.train import train

QUICK = {
    **{"recipe": "sequence_to_sequence", "epochs": 25, "batch_size": 16, "learning_rate": 0.01},
    **{"max_tokens": 6, "max_new_tokens": 8, "width": 24, "dropout": 0.0},
}
WORDS = [*SPECIAL, *"abcdef"]


def network(architecture: str) -> Any:
    torch.manual_seed(0)
    if architecture == "gru":
        return RecurrentNetwork(9, len(WORDS), 16, 0.1, 6).eval()
    return TransformerNetwork((9, len(WORDS)), 16, 2, 2, 0.1, 6, 8).eval()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gru", "transformer"])
def test_words_are_learned_and_served_as_measured(tmp_path: Path, architecture: str) -> None:
    """By both runtimes, with the report's pictures and tables."""
    data = write_dictionary(tmp_path / "words.dict", 400)
    (tmp_path / "models").mkdir()
    own = {**QUICK, "architecture": architecture, "data": str(data)}
    if architecture == "transformer":
        own |= {"layers": 1, "heads": 2, "width": 32}
    text = f"# Words.\nkind: generator\ntraining: {json.dumps(own)}\n"
    text += "floor: {token_accuracy: 0.9}\nexport: {runtimes: [openvino], precisions: [fp32]}\n"
    (tmp_path / "models" / "words.yaml").write_text(text)
    made = spec.load("words", home=tmp_path)
    export = Export.open(train(made))
    metrics = export.metadata["metrics"]
    for part in (export, Export(export.folder / "prompt")):
        rows = part.runtimes["candidates"]
        assert {row["runtime"] for row in rows if not row["refused"]} == {"torch", "openvino"}, rows
    predictor = made.predictor()
    predictor.load(made.export_dir)

    def answers(bodies: Any, headers: Any) -> Any:
        return predictor.answer_rows([({"body": body}, {}) for body, _ in bodies])

    measured = KIND.measurement(made, MeasurementOptions()).run(answers, iter, is_endpoint=False).metrics
    for name in ("token_accuracy", "exact_match"):
        assert measured[name] == pytest.approx(metrics[name], abs=1e-6)
    foreign = KIND.measurement(made, MeasurementOptions(str(write_dictionary(tmp_path / "other.dict"))))
    assert foreign.run(answers, iter, is_endpoint=False).metrics["pairs"] > 50
    files = {file.name for file in (made.export_dir / "report").iterdir()}
    assert {"curves.png", "attention.png", "lengths.png"} <= files
    assert "Samples" in report.page(made)


@pytest.mark.parametrize("architecture", ["gru", "transformer"])
def test_answers_are_those_of_the_network_that_learned(architecture: str) -> None:
    """Step by step with a state as in one pass of teacher forcing, whatever the batch is filled up with."""
    model = network(architecture)
    prompts = [np.array(one) for one in ([2, 3, 4], [5, 6, 7, 8, 2], [3])]
    found = answers_of(model, prompts, ListVocabulary(WORDS, " "), GenerationOptions(8))
    for prompt, one in zip(prompts, found, strict=True):
        fed = torch.tensor([[BEGIN, *one.search.tokens]])
        with torch.no_grad():
            logits = model(torch.from_numpy(prompt)[None], torch.tensor([len(prompt)]), fed)[0]
        best = logits.argmax(1).tolist()
        assert best[: len(one.search.tokens)] == one.search.tokens
        scores = logits.log_softmax(1)
        count = len(best) if one.finish_reason == "stop" else len(one.search.tokens)
        total = sum(float(scores[place, best[place]]) for place in range(count))
        assert one.search.score == pytest.approx(total, abs=1e-4)


def test_edit_distance_and_substitutions_are_counted_by_hand() -> None:
    """The nearest of several right answers counts."""
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance([], "ab") == 2
    assert substitutions("sitting", "kitten") == [("k", "s"), ("e", "i"), ("∅", "g")]
    metrics = pair_metrics(["a b", "a c d"], [("a b", "x"), ("a b", "a c")], "words")
    assert metrics["token_error_rate"] == 1 / 4
    assert metrics["exact_match"] == 0.5


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"layers": 2}, "layers is of architecture: transformer"),
        ({"max_tokens": 65}, "a gru reads at most 64"),
        ({"architecture": "transformer", "width": 10, "heads": 4}, "has no 4 equal heads"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(told: dict[str, Any], words: str) -> None:
    """With what to do instead."""
    with pytest.raises(ValidationError, match=words):
        Settings(data="x", **told)


def test_stop_texts_and_halves_of_characters_are_held_back() -> None:
    """Until it is certain that they belong to the answer."""

    class Letters:
        size = 300

        def text(self, tokens: Any) -> str:
            return bytes(tokens).decode("utf-8", "replace")

        def token(self, number: int) -> str:
            return chr(number)

    options = GenerationOptions(40, stop=("ab!",))
    one = Generation(np.array([1]), options, Letters(), 299, is_shown=True)
    pieces = []
    for token in "xaaé".encode() + b"ab?" + b"ab!zzz":
        if not one.is_done:
            one.advance(np.eye(300)[[token]] * 9)
            pieces.append(one.delta())
    assert pieces == ["x", "", "a", "a", "é", "", "", "ab?", "", "", ""]
    assert one.text == "".join(pieces) == "xaaéab?"
    assert one.finish_reason == "stop"
