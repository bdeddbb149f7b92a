"""Recurrent policies: a request carries the state, and its answer returns the next one."""

import base64
import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from handlers.kinds.policy import PolicyPredictor
from handlers.protocol.errors import BadRequest, StateConflict
from handlers.protocol.states import State, States
from handlers.runtime.golden import difference
from marina.core.spec import Spec
from marina.packaging.openapi import of_description
from tests.support.toy_exports import export_toy
from tests.support.toy_policies import Memory, memory, swing


def served(spec: Spec) -> PolicyPredictor:
    """The handler behind an export, without a server."""
    handler = PolicyPredictor()
    handler.load(spec.export_dir, spec.serving.model_config_yaml())
    return handler


def ask(handler: PolicyPredictor, **body: Any) -> Any:
    """One request's answer, or its refusal."""
    (answer,) = handler.answer_rows([({"body": json.dumps(body).encode()}, {})])
    return answer


@pytest.fixture(scope="module")
def stacking(module_home: Path) -> PolicyPredictor:
    """A policy that sees three frames."""
    return served(export_toy(module_home, "swing", trained=swing()))


@pytest.fixture(scope="module")
def recurrent(module_home: Path) -> PolicyPredictor:
    """A policy whose graph remembers."""
    return served(export_toy(module_home, "memory", trained=memory()))


def frames(count: int) -> list[list[float]]:
    """Observations of an episode."""
    return np.random.default_rng(0).normal(0, 0.1, (count, 4)).astype(np.float32).tolist()


def test_frame_by_frame_a_stack_is_answered_as_when_it_is_sent_whole(stacking: PolicyPredictor) -> None:
    seen = frames(6)
    state: dict[str, Any] = {}

    for step, frame in enumerate(seen):
        alone = ask(stacking, observation=frame, **state)
        whole = ask(stacking, observation=[seen[max(0, step - back)] for back in (2, 1, 0)])

        assert alone == {**whole, "state": alone["state"]}
        assert "state" not in whole
        state = {"state": alone["state"], "step": step + 1}


def test_recurrent_graph_starts_from_zeros_and_continues(
    recurrent: PolicyPredictor,
) -> None:
    """A recurrent graph starts from zeros and continues where its episode was."""
    state, expected = {}, torch.zeros(1, 2)

    for step, observation in enumerate(frames(5)):
        answer = ask(recurrent, observation=observation, **state)
        outputs = Memory()(torch.tensor([observation]), torch.zeros(1, 2), expected)
        expected = outputs["state"]

        assert answer["probabilities"] == pytest.approx(outputs["probabilities"][0].tolist(), abs=1e-6)
        assert list(answer) == ["action", "probabilities", "value", "state"]
        state = {"state": answer["state"], "step": step + 1}
    assert ask(recurrent, observation=frames(1)[0])["value"] != answer["value"]


def test_callers_that_share_a_batch_keep_apart(stacking: PolicyPredictor) -> None:
    one, other = frames(8)[:4], frames(8)[4:]
    alone, state = [], [{}, {}]
    for episode in (one, other):
        state_alone: dict[str, Any] = {}
        for step, frame in enumerate(episode):
            answer = ask(stacking, observation=frame, **state_alone)
            alone.append(answer["q_values"])
            state_alone = {"state": answer["state"], "step": step + 1}

    together = []
    for step, pair in enumerate(zip(one, other, strict=True)):
        instances = [{"observation": frame, **kept} for frame, kept in zip(pair, state, strict=True)]
        answers = ask(stacking, instances=instances)["predictions"]
        together.append([answer["q_values"] for answer in answers])
        state = [{"state": answer["state"], "step": step + 1} for answer in answers]

    np.testing.assert_allclose(
        [pair[0] for pair in together] + [pair[1] for pair in together], alone, atol=1e-6
    )


def test_a_repeated_a_lost_and_a_forgotten_step_are_noticed(recurrent: PolicyPredictor) -> None:
    observation = frames(1)[0]
    first = ask(recurrent, observation=observation)
    second = ask(recurrent, observation=observation, state=first["state"], step=1)

    repeated = ask(recurrent, observation=observation, state=second["state"], step=1)
    lost = ask(recurrent, observation=observation, state=first["state"], step=2)
    forgotten = ask(recurrent, observation=observation, step=2)
    uncounted = ask(recurrent, observation=observation, state=first["state"])
    again = ask(recurrent, observation=observation, state=first["state"], step=1)

    assert [type(one) for one in (repeated, lost, forgotten, uncounted)] == [StateConflict] * 3 + [BadRequest]
    assert "goes with step 2, but step 1 was sent: a step was repeated" in str(repeated)
    assert "goes with step 1, but step 2 was sent: a step was lost" in str(lost)
    assert "step 2 needs a state" in str(forgotten)
    assert "send 'step'" in str(uncounted)
    assert StateConflict.status == 409
    assert again == second  # a request whose answer got lost may be sent again


@pytest.mark.parametrize(("name", "version"), [("memory", "2.0"), ("another", "1.0")])
def test_the_state_of_another_version_or_model_is_refused(
    recurrent: PolicyPredictor, name: str, version: str
) -> None:
    state = States(name, version, (2,), "float32").written(State(1, np.zeros(2, np.float32)))

    refusal = ask(recurrent, observation=frames(1)[0], state=state, step=1)

    assert isinstance(refusal, StateConflict)
    assert "another model's or another version's" in str(refusal)


@pytest.mark.parametrize("place", [0, 9, 25, 27, 28, 35, -1])
def test_a_damaged_state_is_refused_wherever_it_is_hit(stacking: PolicyPredictor, place: int) -> None:
    raw = bytearray(base64.b64decode(ask(stacking, observation=frames(1)[0])["state"]))
    raw[place] ^= 1

    refusal = ask(stacking, observation=frames(1)[0], state=base64.b64encode(raw).decode(), step=1)

    assert isinstance(refusal, BadRequest)
    assert "damaged" in str(refusal)


@pytest.mark.parametrize(
    "state", ["", "hello", "AAAA", "é" * 8, "A" * 100_000, 5, None, ["a"], {"a": 1}, True], ids=range(10)
)
def test_what_is_no_state_is_refused_in_words(stacking: PolicyPredictor, state: Any) -> None:
    refusal = ask(stacking, observation=frames(1)[0], state=state, step=1)

    assert isinstance(refusal, BadRequest)
    assert "state" in str(refusal)


def test_a_forged_state_of_another_form_or_with_no_numbers_is_refused() -> None:
    mine = States("memory", "1.0", (2,), "float32")
    wrong = [((3,), "float32", 0.0), ((2_000_000,), "uint8", 0), ((1,), "float64", 0.0), ((2,), "int32", -1)]
    texts = [
        States("memory", "1.0", shape, dtype).written(State(1, np.full(shape, fill, dtype)))
        for shape, dtype, fill in wrong
    ]
    rest = struct.pack("<I1s", 1, b"f") + zlib.compress(np.full(2, np.nan, np.float32).tobytes())
    nan = mine.model + hashlib.blake2b(mine.model + rest, digest_size=16).digest() + rest

    for text in texts:
        with pytest.raises(BadRequest, match="not of this model's form"):
            mine.read(text, 1)
    with pytest.raises(BadRequest, match="not finite"):
        mine.read(base64.b64encode(nan).decode(), 1)
    with pytest.raises(ValueError, match="not finite"):
        mine.written(State(1, np.array([np.nan, 0], np.float32)))


def test_a_whole_stack_and_a_state_contradict_each_other(stacking: PolicyPredictor) -> None:
    seen = frames(3)
    state = ask(stacking, observation=seen[0])["state"]

    both = ask(stacking, observation=seen, state=state, step=1)
    flat = ask(stacking, observation=[seen])

    assert "a whole stack needs neither state nor step" in str(both)
    assert "shape [3, 4]" in str(flat)


def test_tensors_carry_states_too(stacking: PolicyPredictor) -> None:
    seen = frames(2)
    state = ask(stacking, observation=seen[0])["state"]
    rows = [{"name": "observation", "shape": [2, 4], "datatype": "FP32", "data": [*seen[1], *seen[1]]}]
    rows += [{"name": "state", "shape": [2], "datatype": "BYTES", "data": [state, state]}]
    rows += [{"name": "step", "shape": [2], "datatype": "INT64", "data": [1, 1]}]

    answer = ask(stacking, inputs=rows)

    outputs = {one["name"]: one for one in answer["outputs"]}
    own = ask(stacking, observation=seen[1], state=state, step=1)
    assert outputs["state"]["data"] == [own["state"]] * 2
    assert outputs["state"]["datatype"] == "BYTES"


def test_state_of_stacked_pictures_is_compressed_and_fits() -> None:
    """A stack of large pictures compresses to a small state, and the largest still fits."""
    states = States("pong", "1.0", (3, 84, 84), "uint8")
    noise = np.random.default_rng(0).integers(0, 256, (3, 84, 84), np.uint8)
    picture = np.zeros((3, 84, 84), np.uint8)
    picture[:, 40:44, 10:12] = 236

    assert len(states.written(State(1, picture))) < 400
    assert len(states.written(State(1, noise))) <= states.longest
    np.testing.assert_array_equal(states.read(states.written(State(1, noise)), 1).values, noise)


def test_golden_states_may_differ_as_little_as_numbers() -> None:
    states = States("memory", "1.0", (2,), "float32")
    golden, near, far, later = (
        {"state": states.written(State(step, np.array([0.5, value], np.float32)))}
        for step, value in ((1, 1), (1, 1.0001), (1, 1.5), (2, 1))
    )

    assert golden != near
    assert difference(golden, near) == ""
    assert "remembers other values" in difference(golden, far)
    assert "another step" in difference(golden, later)


def test_schemas_describe_states_in_requests_and_answers(
    stacking: PolicyPredictor, recurrent: PolicyPredictor
) -> None:
    """The schemas describe the state and are valid for what is sent and answered."""
    stack = frames(3)

    for handler, observations in ((stacking, [stack[0], stack]), (recurrent, [stack[0]])):
        document = of_description(handler.describe())
        schemas = document["components"]["schemas"]
        for observation in observations:
            answer = ask(handler, observation=observation)
            jsonschema.validate({"observation": observation}, schemas["Instance"])
            jsonschema.validate(answer, schemas["Answer"])
        following = {"observation": stack[0], "state": ask(handler, observation=stack[0])["state"], "step": 1}
        jsonschema.validate(following, schemas["Instance"])
        responses = next(iter(document["paths"].values()))["post"]["responses"]

        assert "409" in responses
        assert schemas["Answer"]["properties"]["state"]["type"] == "string"


def test_a_stack_is_explained_frame_by_frame_as_when_it_is_sent_whole(stacking: PolicyPredictor) -> None:
    seen = frames(3)
    state: dict[str, Any] = {}
    for step, frame in enumerate(seen[:2]):
        state = {"state": ask(stacking, observation=frame, **state)["state"], "step": step + 1}

    alone, whole = (
        stacking.answer_rows([({"body": json.dumps(body).encode()}, {"explain": "true"})])[0]
        for body in ({"observation": seen[2], **state}, {"observation": seen})
    )

    assert alone == whole
    assert np.shape(alone["gradient"]) == (3, 4)
