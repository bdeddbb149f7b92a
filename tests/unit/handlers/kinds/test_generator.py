"""The kind `generator`: texts that are made token by token, whole or as a stream."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from handlers.kinds.generator import PROMPT, GeneratorPredictor
from handlers.protocol.errors import BadRequest, BrokenArchive, ModelError, RequestError, TooLarge
from handlers.runtime.streams import Stream
from marina.kinds.generator import KIND
from tests.support import bad_texts
from tests.support.generators import LONGEST, serve_generator
from tests.support.text_models import answer

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> GeneratorPredictor:
    return serve_generator(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def unsure(tmp_path_factory: pytest.TempPathFactory) -> GeneratorPredictor:
    """Its draws differ: the right letter has a quarter of the probability."""
    return serve_generator(tmp_path_factory.mktemp("unsure"), sure=2.3)


def found(predictor: GeneratorPredictor, body: Any, **headers: str) -> Any:
    reply = answer(predictor, body, **headers)
    if isinstance(reply, Exception):
        raise reply
    return reply


def row(body: Any) -> Any:
    return {"body": json.dumps(body).encode()}, JSON


def streamed(predictor: GeneratorPredictor, streams: list[Stream]) -> list[list[tuple[int, Any]]]:
    """(position, content) of all items of each."""
    items: list[list[tuple[int, Any]]] = [[] for _ in streams]
    while going := [one for one in streams if not one.is_done]:
        for stream, new in zip(going, predictor.advance(going, 1), strict=True):
            items[streams.index(stream)] += [(one.position, json.loads(one.reply.content)) for one in new]
    return items


def test_texts_are_answered_alone_and_in_every_protocol(predictor: GeneratorPredictor) -> None:
    """Of different lengths in one batch; the answer fits its schema."""
    reply = found(predictor, {"text": "ada"})
    assert (reply["text"], reply["tokens"], reply["finish_reason"]) == ("A D A", 3, "stop")
    assert reply["score"] == pytest.approx(-4 * np.log(1 + 29 * np.exp(-8)), abs=1e-5)
    jsonschema.validate(reply, predictor.answer_schema())
    both = found(predictor, {"instances": ["ada", {"text": "x" * 99, "max_new_tokens": 2}]})["predictions"]
    assert both[0] == pytest.approx(reply)
    assert (both[1]["text"], both[1]["finish_reason"]) == ("X X", "length")
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["ada", "b"]}
    outputs = {one["name"]: one for one in found(predictor, {"inputs": [tensor]})["outputs"]}
    assert outputs["text"]["data"] == ["A D A", "B"]
    jsonschema.validate({"text": "ada", "num_beams": 2}, predictor.request_schema())
    assert KIND.summarize(reply) == '"A D A"'
    assert KIND.same_decision(reply, both[0])
    assert not KIND.same_decision(reply, both[1])
    assert predictor.mismatch({"text": "A"}, reply) == "'A D A' instead of 'A'"
    assert "expects a text, not class" in predictor.mismatch({"class": "A"}, reply)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"text": ""}, "the text is empty"),
        ({"text": "a" * (LONGEST + 1)}, "more than 200 tokens"),
        ({"text": "a" * 100_000}, "send at most 1,000"),
        ({"text": "a", "max_new_tokens": 1_000_000}, "max_new_tokens must be a whole number from 1 to 200"),
        ({"text": "a", "temperature": float("nan")}, "temperature must be a number from 0 to 100"),
        ({"text": "a", "temperature": 1, "num_beams": 2}, "num_beams searches and temperature draws"),
        ({"text": "a", "top_p": 0.5}, "top_p is of drawn tokens"),
        ({"text": "a", "num_beams": 9}, "num_beams must be a whole number from 1 to 8"),
        ({"text": "a", "stop": []}, "stop must have 1 to 16 texts"),
        ({"text": "a", "stop": ["x" * 101]}, "at most 100 characters"),
    ],
)
def test_what_cannot_be_is_refused_alone(predictor: GeneratorPredictor, body: Any, words: str) -> None:
    """And a neighbor in the batch gets its answer."""
    bad, good = predictor.answer_rows([row(body), row("ada")])
    assert isinstance(bad, BadRequest | TooLarge)
    with pytest.raises(RequestError, match=words):
        raise bad
    assert good["text"] == "A D A"
    assert predictor.open_stream(row(body), "id").refusal or streamed(
        predictor, [predictor.open_stream(row(body), "id")]
    )[0][0][1]["code"] in (400, 413)


def test_every_form_of_a_text_is_answered_or_refused(predictor: GeneratorPredictor) -> None:
    """As by the other kinds that read texts."""
    for name, wanted, reply in bad_texts.replies(predictor, has_top_k=False):
        if wanted is dict and isinstance(reply, TooLarge):
            continue  # this model reads less than the others
        assert isinstance(reply, wanted), (name, reply)


def test_a_stream_says_what_a_whole_answer_says(predictor: GeneratorPredictor) -> None:
    """Piece by piece, the whole answer last; instances of one request beside each other, bad ones too."""
    (items,) = streamed(predictor, [predictor.open_stream(row("ada"), "id")])
    assert [content.get("delta") for _, content in items] == ["A", " D", " A", None]
    assert items[-1][1] == pytest.approx(found(predictor, {"text": "ada"}))
    body = {"instances": ["ada", "", {"text": "abcdef", "stop": ["C D"]}]}
    (items,) = streamed(predictor, [predictor.open_stream(row(body), "id")])
    assert next(one for place, one in items if place == 1)["code"] == 400
    last = [one for place, one in items if place == 2]
    assert last[-1]["text"] == "A B "
    assert "".join(one.get("delta", "") for one in last) == "A B "
    assert last[-1]["finish_reason"] == "stop"


def test_beams_come_in_one_piece(predictor: GeneratorPredictor) -> None:
    """Since they may change what they wrote."""
    body = {"text": "ada", "num_beams": 3}
    (items,) = streamed(predictor, [predictor.open_stream(row(body), "id")])
    assert items == [(0, {"delta": "A D A"}), (0, pytest.approx(found(predictor, body)))]


def test_who_wants_whole_answers_gets_them_in_order(predictor: GeneratorPredictor) -> None:
    """As a job does; the short ones wait for the long one in front."""
    stream = predictor.open_stream(row({"instances": ["a" * 9, "b", "", "c"]}), "id")
    stream.wants_whole_answers = True
    (items,) = streamed(predictor, [stream])
    assert [place for place, _ in items] == [0, 1, 2, 3]
    assert [one.get("text") for _, one in items] == [" ".join("A" * 9), "B", None, "C"]


def test_streams_join_leave_and_rest_without_changing_others(unsure: GeneratorPredictor) -> None:
    """The same seed gives the same text alone, in a batch, and in company that changes; who hangs up has no
    row any more.
    """
    bodies = [{"text": "abcdefgh" * 3, "temperature": 1.0, "seed": seed} for seed in range(12)]
    alone = [found(unsure, body)["text"] for body in bodies]
    assert len({*alone}) == 12
    together = found(unsure, {"instances": bodies})["predictions"]
    assert [one["text"] for one in together] == alone
    streams = [unsure.open_stream(row(body), str(place)) for place, body in enumerate(bodies[:6])]
    items: list[list[Any]] = [[] for _ in streams]
    draw = np.random.default_rng(0)
    while going := [place for place, one in enumerate(streams) if not one.is_done and place != 5]:
        chosen = [place for place in going if draw.random() < 0.6]
        if len(items[5]) < 2:
            chosen.append(5)
        for place, new in zip(chosen, unsure.advance([streams[one] for one in chosen], 1), strict=True):
            items[place] += [json.loads(one.reply.content) for one in new]
    for place in range(5):
        assert items[place][-1]["text"] == alone[place]
        assert "".join(one.get("delta", "") for one in items[place]) == alone[place]
    assert unsure.stream_decoder is not None
    assert not streams[5].is_done
    assert unsure.stream_decoder.active == []  # of the one that hung up, too


def test_an_answer_that_takes_too_long_ends(predictor: GeneratorPredictor) -> None:
    """And says so; the time is that of its own steps."""
    predictor.seconds, before = 0.0, predictor.seconds
    try:
        reply = found(predictor, {"text": "abcdef"})
    finally:
        predictor.seconds = before
    assert reply["finish_reason"] == "time"
    assert reply["text"] == "A"
    jsonschema.validate(reply, predictor.answer_schema())


def test_a_fault_of_the_graph_costs_one_answer(predictor: GeneratorPredictor) -> None:
    """Whether it raises or gives what is no number, in a step or with the prompt."""
    step, prompt = predictor.model, predictor.parts[PROMPT]

    def faulty(*inputs: np.ndarray) -> Any:
        if (inputs[2][:, 0] == 3).any() and inputs[1].max() > 1:  # a text that begins with b
            raise RuntimeError("no secret for callers")
        return step(*inputs)

    def not_a_number(*inputs: np.ndarray) -> Any:
        outputs = step(*inputs)
        outputs["logits"][inputs[2][:, 0] == 3] = np.nan
        return outputs

    def unread(*inputs: np.ndarray) -> Any:
        if (inputs[0][:, 0] == 3).any():
            raise RuntimeError("no secret for callers")
        return prompt(*inputs)

    rows = [row("ada"), row("bcdefg"), row("cdefg")]
    for model, reader in ((faulty, prompt), (not_a_number, prompt), (step, unread)):
        predictor.model, predictor.parts = model, {PROMPT: reader}
        predictor.stream_decoder = None
        try:
            first, bad, last = predictor.answer_rows(rows)
            streams = streamed(predictor, [predictor.open_stream(one, "id") for one in rows])
        finally:
            predictor.model, predictor.parts, predictor.stream_decoder = step, {PROMPT: prompt}, None
        assert isinstance(bad, ModelError)
        assert "secret" not in str(bad)
        assert (first["text"], last["text"]) == ("A D A", "C D E F G")
        assert [one[-1][1].get("text") for one in streams] == ["A D A", None, "C D E F G"]
        assert streams[1][-1][1]["code"] == 500


def test_an_explanation_says_where_each_token_looked(predictor: GeneratorPredictor) -> None:
    """A row of weights per token, a column per token of the text; in a stream, too."""
    reply = found(predictor, {"text": "ada"}, explain="true")
    assert reply["input"] == ["a", "d", "a"]
    assert [one["token"] for one in reply["attention"]] == ["A", "D", "A"]
    np.testing.assert_array_equal([one["weights"] for one in reply["attention"]], np.eye(3))
    jsonschema.validate(reply, predictor.explanation_schema())
    stream = predictor.open_stream(({"body": b'"ada"'}, {**JSON, "explain": "true"}), "id")
    assert streamed(predictor, [stream])[0][0][1]["attention"] == reply["attention"]


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    """By the name of the file."""
    serve_generator(tmp_path)
    (tmp_path / "target.json").write_text('{"vocabulary": ["a"], "joiner": ""}')
    with pytest.raises(BrokenArchive, match="no vocabulary of words"):
        GeneratorPredictor().open_export(tmp_path)
    with pytest.raises(BrokenArchive, match="is not as this kind needs it"):
        serve_generator_with(tmp_path, state=[{"name": "x", "role": "lost", "shape": []}])
    with pytest.raises(BrokenArchive, match="is not as this kind needs it"):
        serve_generator_with(tmp_path, defaults={"temprature": 1})


def serve_generator_with(folder: Path, **postprocess: Any) -> None:
    path = folder / "postprocess_config.json"
    serve_generator(folder)
    path.write_text(json.dumps({**json.loads(path.read_text()), **postprocess}))
    GeneratorPredictor().open_export(folder)
