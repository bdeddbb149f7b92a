"""The handler's loop, in process: a bad request fails alone."""

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from handlers.policy_handler import PolicyHandler
from handlers.runtime.checksums import file_digest
from marina.core.spec import Spec
from tests.support.torchserve_calls import context_of, handle

GOOD = {"body": {"observation": [0.0, 0.0, 0.1, 0.2]}}
BAD_ROWS = [
    {},
    {"body": b""},
    {"body": b"\xff\xd8\xff"},
    {"body": b"{"},
    {"body": b"[" * 100_000},
    {"body": {"observation": [1, 2, 3]}},
    {"body": {"observation": [1, 2, 3, "4"]}},
    {"body": {"observation": [1, 2, 3, float("nan")]}},
    {"body": {"observation": [1, 2, 3, 10**400]}},
    {"body": {"observation": [1, 2, 3, 1e39]}},
    {"body": {"look": [1, 2, 3, 4]}},
    {"body": {"observation": [1, 2, 3, 4], "more": 1}},
    {"body": {"instances": [[1, 2, 3, 4], [1, 2]]}},
    {"body": None},
    {"body": 3},
]


@pytest.fixture
def served(exported: Callable[..., Spec]) -> tuple[PolicyHandler, Spec]:
    one = exported()
    handler = PolicyHandler()
    handler.initialize(context_of(one, []))
    return handler, one


@pytest.mark.parametrize("bad", BAD_ROWS, ids=lambda row: repr(row)[:40])
def test_bad_row_gets_a_4xx_and_its_neighbors_are_unaffected(
    served: tuple[PolicyHandler, Spec], bad: dict
) -> None:
    """A bad row gets its 4xx, and its neighbors the answers that they get alone."""
    handler, one = served
    (alone,) = handle(handler, one, [GOOD])

    before, failed, after = handle(handler, one, [GOOD, bad, GOOD])

    assert before == after == alone
    assert failed[0] == 400
    assert failed[1].keys() == {"code", "type", "message", "request_id"}
    assert failed[1]["request_id"] == "id-1"
    assert "Traceback" not in failed[1]["message"]


def test_all_rows_bad_is_no_batch_at_all(served: tuple[PolicyHandler, Spec]) -> None:
    handler, one = served

    assert [status for status, _ in handle(handler, one, BAD_ROWS)] == [400] * len(BAD_ROWS)


def test_instances_beyond_the_largest_batch_keep_their_order(
    served: tuple[PolicyHandler, Spec],
) -> None:
    """More instances than the graph's largest batch are answered in order."""
    handler, one = served
    rows = torch.randn(200, 4).tolist()

    ((status, answer),) = handle(handler, one, [{"body": {"instances": rows}}])

    assert status == 200
    assert [found["action"] for found in answer["predictions"]] == [
        int(2 * row[2] + row[3] > 0) for row in rows
    ]


def test_a_row_on_which_the_model_fails_gets_a_500_alone(
    served: tuple[PolicyHandler, Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, one = served
    model = handler.predictor.model

    def breaks(batch: np.ndarray) -> Any:
        if bool((batch[:, 0] == 99).any()):
            raise RuntimeError("secret detail")
        return model(batch)

    monkeypatch.setattr(handler.predictor, "model", breaks)

    right, failed = handle(handler, one, [GOOD, {"body": [99, 0, 0, 0]}])

    assert right[0] == 200
    assert failed[0] == 500
    assert "secret" not in failed[1]["message"]


def test_an_answer_that_is_not_finite_is_a_500_and_never_broken_json(
    served: tuple[PolicyHandler, Spec],
) -> None:
    handler, one = served

    ((status, answer),) = handle(handler, one, [{"body": [0, 0, 3e38, 3e38]}])

    assert (status, answer["type"]) == (500, "ModelError")


def test_a_describe_header_on_one_row_does_not_touch_the_others(served: tuple[PolicyHandler, Spec]) -> None:
    handler, one = served

    described, right = handle(handler, one, [{}, GOOD], [{"describe": "True"}, {}])

    assert described[1]["name"] == "balance"
    assert right[1]["action"] == 1


@pytest.mark.parametrize("header", ["describe", "explain"])
def test_a_wrong_header_is_refused_and_does_not_touch_the_others(
    served: tuple[PolicyHandler, Spec], header: str
) -> None:
    handler, one = served

    refused, right = handle(handler, one, [GOOD, GOOD], [{header: "perhaps"}, {}])

    assert refused[0] == 400
    assert f"{header} must be true or false, not 'perhaps'" in refused[1]["message"]
    assert right[1]["action"] == 1


def test_an_explanation_on_one_row_does_not_touch_the_others(served: tuple[PolicyHandler, Spec]) -> None:
    handler, one = served

    why, right = handle(handler, one, [GOOD, GOOD], [{"explain": "True"}, {"explain": "False"}])

    assert why[1] == {
        "action": 1,
        "method": "gradient",
        "gradient": [0, 0, 4, 2],
        "saliency": pytest.approx([0, 0, 2 / 3, 1 / 3]),
    }
    assert right[1]["action"] == 1


def test_answer_above_the_size_limit_is_refused(
    served: tuple[PolicyHandler, Spec],
) -> None:
    """An answer above the size limit is refused before it could kill the worker."""
    handler, one = served
    handler.predictor.max_answer_bytes = 200

    right, refused = handle(handler, one, [GOOD, {"body": {"instances": [[0, 0, 1, 1]] * 50}}])

    assert right[0] == 200
    assert refused[0] == 413
    assert "200 are sent at most; send fewer instances" in refused[1]["message"]


def test_tensors_are_answered_as_tensors(served: tuple[PolicyHandler, Spec]) -> None:
    handler, one = served
    body = {
        "id": "7",
        "inputs": [
            {
                "name": "input-0",
                "shape": [2, 4],
                "datatype": "FP32",
                "data": [0, 0, 0.1, 0.2, 0, 0, -0.1, -0.2],
            }
        ],
    }

    ((status, answer),) = handle(handler, one, [{"body": body}])

    assert status == 200
    assert {key: answer[key] for key in ("model_name", "model_version", "id")} == {
        "model_name": "balance",
        "model_version": "1.0",
        "id": "7",
    }
    assert answer["outputs"][0] == {"name": "action", "shape": [2], "datatype": "INT64", "data": [1, 0]}
    assert (answer["outputs"][1]["name"], answer["outputs"][1]["shape"]) == ("q_values", [2, 2])


def test_what_fails_for_all_together_is_tried_one_by_one(
    served: tuple[PolicyHandler, Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, one = served
    expected = handle(handler, one, [GOOD, GOOD])

    monkeypatch.setattr(handler.predictor, "prepare_together", lambda _instances: 1 / 0)

    assert handle(handler, one, [GOOD, GOOD]) == expected


def test_one_structured_line_per_batch_names_every_request(
    served: tuple[PolicyHandler, Spec], caplog: pytest.LogCaptureFixture
) -> None:
    handler, one = served
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    caplog.clear()

    handle(
        handler,
        one,
        [GOOD, {"body": b"{"}, GOOD],
        [{"traceparent": parent}, {}, {"Traceparent": "forged\nline"}],
    )

    (line,) = [
        json.loads(record.message) for record in caplog.records if record.name == "handlers.runtime.telemetry"
    ]
    assert (line["event"], line["model"], line["version"], line["requests"], line["instances"]) == (
        "batch",
        "balance",
        "1.0",
        3,
        2,
    )
    assert line["refused"] == {"BadRequest": 1}
    assert line["answers"] == [
        {"id": "id-0", "status": 200, "traceparent": parent},
        {"id": "id-1", "status": 400},
        {"id": "id-2", "status": 200},
    ]
    assert all(line[f"{stage}_ms"] > 0 for stage in ("decode", "preprocess", "inference", "postprocess"))


def test_a_describe_answer_says_what_is_taken_and_given(served: tuple[PolicyHandler, Spec]) -> None:
    handler, one = served

    described = handler.describe_handle()

    assert described["metrics"] == {"mean_return": 100.0}
    assert described["checksum"] == file_digest(one.export_dir / "SHA256SUMS")
    assert described["limits"] == {"max_instances": 10_000, "max_answer_bytes": 6_000_000}
    jsonschema.validate(GOOD["body"], described["request"])
    jsonschema.validate({"action": 1, "q_values": [0.0, 1.0]}, described["answer"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"observation": [1, 2, 3]}, described["request"])


def test_a_policy_without_a_distribution_does_not_pretend_to_sample(
    served: tuple[PolicyHandler, Spec],
) -> None:
    handler, one = served

    refused, right = handle(handler, one, [{"body": {**GOOD["body"], "deterministic": False}}, GOOD])

    assert (refused[0], refused[1]["type"]) == (415, "NotSupported")
    assert right[0] == 200
