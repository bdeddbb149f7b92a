"""The handler's loop, in process: a bad request fails alone, and a changed archive does not come up."""

import json
import time
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from ts.context import Context, RequestProcessor

from marina.spec import Spec
from tests import toy_policies

from bundle_checksums import file_digest
from bundle_errors import BrokenArchive
from policy_handler import PolicyHandler

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
    {"body": {"obs": [1, 2, 3, 4]}},
    {"body": {"observation": [1, 2, 3, 4], "more": 1}},
    {"body": {"instances": [[1, 2, 3, 4], [1, 2]]}},
    {"body": None},
    {"body": 3},
]


def context_of(one: Spec, headers: list[dict[str, str]]) -> Context:
    made = Context(one.name, str(one.export_dir), {}, 8, None, "0.12.0", model_yaml_config={"maxWorkers": 1})
    made.request_ids = {index: f"id-{index}" for index in range(len(headers))}
    made.request_processor = [RequestProcessor(dict(header)) for header in headers]
    return made


def handle(handler: PolicyHandler, one: Spec, rows: list[dict], headers: list[dict] | None = None) -> list[tuple[int, Any]]:
    """(status, parsed body) per row, as TorchServe would send them."""
    made = context_of(one, headers or [{}] * len(rows))
    bodies = handler.handle(rows, made)
    return [(made.get_response_status(index)[0] or 200, json.loads(body)) for index, body in enumerate(bodies)]


@pytest.fixture
def served(exported: Callable[..., Spec]) -> tuple[PolicyHandler, Spec]:
    one = exported()
    handler = PolicyHandler()
    handler.initialize(context_of(one, []))
    return handler, one


@pytest.mark.parametrize("bad", BAD_ROWS, ids=lambda row: repr(row)[:40])
def test_a_bad_row_gets_its_4xx_and_its_neighbours_the_answers_they_get_alone(served: tuple[PolicyHandler, Spec], bad: dict) -> None:
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


def test_many_instances_are_answered_in_order_beyond_the_graphs_largest_batch(served: tuple[PolicyHandler, Spec]) -> None:
    handler, one = served
    rows = torch.randn(200, 4).tolist()

    ((status, answer),) = handle(handler, one, [{"body": {"instances": rows}}])

    assert status == 200
    assert [found["action"] for found in answer["predictions"]] == [int(2 * row[2] + row[3] > 0) for row in rows]


def test_a_row_on_which_the_model_fails_gets_a_500_alone(served: tuple[PolicyHandler, Spec], monkeypatch: pytest.MonkeyPatch) -> None:
    handler, one = served
    model = handler.model

    def breaks(batch: np.ndarray) -> Any:
        if bool((batch[:, 0] == 99).any()):
            raise RuntimeError("secret detail")
        return model(batch)

    monkeypatch.setattr(handler, "model", breaks)

    right, failed = handle(handler, one, [GOOD, {"body": [99, 0, 0, 0]}])

    assert right[0] == 200
    assert failed[0] == 500
    assert "secret" not in failed[1]["message"]


def test_an_answer_that_is_not_finite_is_a_500_and_never_broken_json(served: tuple[PolicyHandler, Spec]) -> None:
    handler, one = served

    ((status, answer),) = handle(handler, one, [{"body": [0, 0, 3e38, 3e38]}])

    assert (status, answer["type"]) == (500, "ModelFault")


def test_a_describe_header_on_one_row_does_not_touch_the_others(served: tuple[PolicyHandler, Spec]) -> None:
    handler, one = served

    described, right = handle(handler, one, [{}, GOOD], [{"describe": "True"}, {}])

    assert described[1]["name"] == "balance"
    assert right[1]["action"] == 1


@pytest.mark.parametrize("header", ["describe", "explain"])
def test_a_wrong_header_is_refused_and_does_not_touch_the_others(served: tuple[PolicyHandler, Spec], header: str) -> None:
    handler, one = served

    refused, right = handle(handler, one, [GOOD, GOOD], [{header: "perhaps"}, {}])

    assert refused[0] == 400
    assert f"{header} must be true or false, not 'perhaps'" in refused[1]["message"]
    assert right[1]["action"] == 1


def test_an_explanation_on_one_row_does_not_touch_the_others(served: tuple[PolicyHandler, Spec]) -> None:
    handler, one = served

    why, right = handle(handler, one, [GOOD, GOOD], [{"explain": "True"}, {"explain": "False"}])

    assert why[1] == {"action": 1, "method": "gradient", "gradient": [0, 0, 4, 2], "saliency": pytest.approx([0, 0, 2 / 3, 1 / 3])}
    assert right[1]["action"] == 1


def test_an_answer_above_the_cap_is_refused_before_it_could_kill_the_worker(served: tuple[PolicyHandler, Spec]) -> None:
    handler, one = served
    handler.max_answer_bytes = 200

    right, refused = handle(handler, one, [GOOD, {"body": {"instances": [[0, 0, 1, 1]] * 50}}])

    assert right[0] == 200
    assert refused[0] == 413
    assert "200 are sent at most; send fewer instances" in refused[1]["message"]


def test_tensors_are_answered_as_tensors(served: tuple[PolicyHandler, Spec]) -> None:
    handler, one = served
    body = {"id": "7", "inputs": [{"name": "input-0", "shape": [2, 4], "datatype": "FP32", "data": [0, 0, 0.1, 0.2, 0, 0, -0.1, -0.2]}]}

    ((status, answer),) = handle(handler, one, [{"body": body}])

    assert status == 200
    assert {key: answer[key] for key in ("model_name", "model_version", "id")} == {
        "model_name": "balance",
        "model_version": "1.0",
        "id": "7",
    }
    assert answer["outputs"][0] == {"name": "action", "shape": [2], "datatype": "INT64", "data": [1, 0]}
    assert (answer["outputs"][1]["name"], answer["outputs"][1]["shape"]) == ("q_values", [2, 2])


def test_what_fails_for_all_together_is_tried_one_by_one(served: tuple[PolicyHandler, Spec], monkeypatch: pytest.MonkeyPatch) -> None:
    handler, one = served
    expected = handle(handler, one, [GOOD, GOOD])

    monkeypatch.setattr(handler, "prepare_together", lambda _instances: 1 / 0)

    assert handle(handler, one, [GOOD, GOOD]) == expected


def test_one_structured_line_per_batch_names_every_request(served: tuple[PolicyHandler, Spec], caplog: pytest.LogCaptureFixture) -> None:
    handler, one = served
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    caplog.clear()

    handle(handler, one, [GOOD, {"body": b"{"}, GOOD], [{"traceparent": parent}, {}, {"Traceparent": "forged\nline"}])

    (line,) = [json.loads(record.message) for record in caplog.records if record.name == "bundle_telemetry"]
    assert (line["event"], line["model"], line["version"], line["requests"], line["instances"]) == ("batch", "balance", "1.0", 3, 2)
    assert line["refused"] == {"NotUnderstood": 1}
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


@pytest.fixture
def stochastic(exported: Callable[..., Spec]) -> tuple[PolicyHandler, Spec]:
    one = exported("dice", trained=toy_policies.dice)
    handler = PolicyHandler()
    handler.initialize(context_of(one, []))
    return handler, one


def act(policy: tuple[PolicyHandler, Spec], **body: Any) -> Any:
    ((status, answer),) = handle(*policy, [{"body": {"observation": [0, 0], **body}}])
    return answer["action"] if status == 200 else answer["message"]


def test_the_deterministic_action_is_the_most_probable_one_of_those_allowed(stochastic: tuple[PolicyHandler, Spec]) -> None:
    assert act(stochastic) == act(stochastic, deterministic=True, seed=5) == 0
    assert act(stochastic, action_mask=[0, 1, 1]) == 1
    assert act(stochastic, action_mask=[False, False, True]) == 2


def test_sampled_actions_follow_the_policys_odds_and_the_mask(stochastic: tuple[PolicyHandler, Spec]) -> None:
    counts = np.bincount([act(stochastic, deterministic=False, seed=seed) for seed in range(2000)], minlength=3)
    masked = np.bincount([act(stochastic, deterministic=False, seed=seed, action_mask=[0, 1, 1]) for seed in range(1000)], minlength=3)

    assert counts / 2000 == pytest.approx(toy_policies.ODDS, abs=0.04)
    assert masked / 1000 == pytest.approx([0, 0.6, 0.4], abs=0.06)


def test_the_same_seed_samples_the_same_action_whatever_shares_the_batch(stochastic: tuple[PolicyHandler, Spec]) -> None:
    rows = [{"body": {"observation": [0, 0], "deterministic": False, "seed": seed}} for seed in range(64)]

    together = handle(*stochastic, rows)
    alone = [handle(*stochastic, [row])[0] for row in rows]

    assert together == alone
    assert {answer["action"] for _, answer in alone} == {0, 1, 2}


def test_instances_of_one_request_draw_independently_and_repeatably(stochastic: tuple[PolicyHandler, Spec]) -> None:
    body = {"instances": [[0, 0]] * 300, "deterministic": False, "seed": 1}

    first, again = (handle(*stochastic, [{"body": body}])[0][1] for _ in range(2))

    assert first == again
    assert {one["action"] for one in first["predictions"]} == {0, 1, 2}


def test_without_a_seed_actions_vary(stochastic: tuple[PolicyHandler, Spec]) -> None:
    assert {act(stochastic, deterministic=False) for _ in range(100)} == {0, 1, 2}


@pytest.mark.parametrize("mask", [[1, 0], [0, 0, 0], "all", [2, 1, 1], None, [1, 1, 1, 1]])
def test_a_wrong_mask_is_refused_alone(stochastic: tuple[PolicyHandler, Spec], mask: Any) -> None:
    rows = [{"body": {"observation": [0, 0]}}, {"body": {"observation": [0, 0], "action_mask": mask}}]

    right, refused = handle(*stochastic, rows)

    assert right[1]["action"] == 0
    assert (refused[0], refused[1]["type"]) == (400, "NotUnderstood")
    assert "action_mask" in refused[1]["message"]


def test_masks_and_seeds_come_as_tensors_too(stochastic: tuple[PolicyHandler, Spec]) -> None:
    inputs = [
        {"name": "observation", "shape": [2, 2], "datatype": "FP32", "data": [0, 0, 0, 0]},
        {"name": "action_mask", "shape": [2, 3], "datatype": "BOOL", "data": [False, True, True, False, False, True]},
    ]

    ((_, answer),) = handle(*stochastic, [{"body": {"inputs": inputs}}])

    assert answer["outputs"][0]["data"] == [1, 2]


def test_a_policy_without_a_distribution_does_not_pretend_to_sample(served: tuple[PolicyHandler, Spec]) -> None:
    handler, one = served

    refused, right = handle(handler, one, [{"body": {**GOOD["body"], "deterministic": False}}, GOOD])

    assert (refused[0], refused[1]["type"]) == (415, "NotSupported")
    assert right[0] == 200


def test_a_policy_that_samples_by_default_obeys_deterministic(exported: Callable[..., Spec]) -> None:
    one = exported("throttle", trained=toy_policies.throttle)
    handler = PolicyHandler()
    handler.initialize(context_of(one, []))

    answers = [handle(handler, one, [{"body": {"observation": [0.5], "seed": seed}}])[0][1]["action"][0] for seed in range(500)]

    assert handle(handler, one, [{"body": {"observation": [0.5], "deterministic": True}}])[0][1]["action"] == pytest.approx([np.tanh(0.5)])
    assert np.mean(np.arctanh(answers)) == pytest.approx(0.5, abs=0.1)
    assert np.std(np.arctanh(answers)) == pytest.approx(0.5, abs=0.1)


def test_a_file_that_was_changed_is_named_and_the_worker_does_not_come_up(exported: Callable[..., Spec]) -> None:
    one = exported()
    (one.export_dir / "postprocess_config.json").write_text("{}")

    with pytest.raises(BrokenArchive, match=r"postprocess_config\.json was changed"):
        PolicyHandler().initialize(context_of(one, []))


@pytest.mark.parametrize(("name", "words"), [("model.pt2", "model.pt2 is missing"), ("SHA256SUMS", "SHA256SUMS is missing")])
def test_a_missing_file_is_named(exported: Callable[..., Spec], name: str, words: str) -> None:
    one = exported()
    (one.export_dir / name).unlink()

    with pytest.raises(BrokenArchive, match=words):
        PolicyHandler().initialize(context_of(one, []))


def test_a_file_that_somebody_added_is_named(exported: Callable[..., Spec]) -> None:
    one = exported()
    (one.export_dir / "extra.py").write_text("")

    with pytest.raises(BrokenArchive, match=r"extra\.py is not listed"):
        PolicyHandler().initialize(context_of(one, []))


def test_a_worker_that_would_answer_differently_does_not_come_up(exported: Callable[..., Spec]) -> None:
    from bundle_checksums import write_checksums

    one = exported()
    index = one.export_dir / "samples" / "samples.json"
    index.write_text(index.read_text().replace('"action": 1', '"action": 0'))
    write_checksums(one.export_dir)

    with pytest.raises(BrokenArchive, match=r"golden sample 'step-0' is answered differently: answer.action: 1 instead of 0"):
        PolicyHandler().initialize(context_of(one, []))


def threads_of(one: Spec, config: dict, monkeypatch: pytest.MonkeyPatch, seconds: float) -> int:
    """The threads that a worker chooses on a machine of eight cores, for a model that takes `seconds` per request."""
    handler = PolicyHandler()
    handler.load(one.export_dir, {})
    told = [1]

    class Slow:
        def __init__(self, model: Any) -> None:
            self.model = model

        def __call__(self, batch: np.ndarray) -> Any:
            time.sleep(seconds)
            return self.model(batch)

        def set_threads(self, threads: int) -> None:
            told.append(threads)

    monkeypatch.setattr(handler, "model", Slow(handler.model))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert handler.choose_threads(one.export_dir, config) == told[-1]
    return told[-1]


@pytest.mark.parametrize(
    ("config", "seconds", "threads"),
    [
        ({"maxWorkers": 2}, 0.0, 1),
        ({"maxWorkers": 2}, 0.05, 4),
        ({"maxWorkers": 1000}, 0.05, 1),
        ({"maxWorkers": 2, "handler": {"threads": 3}}, 0.0, 3),
        ({"maxWorkers": 2, "handler": {"threads": None}}, 0.05, 4),
    ],
)
def test_a_small_model_takes_one_thread_and_a_large_one_its_share_of_the_cores(
    exported: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch, config: dict, seconds: float, threads: int
) -> None:
    assert threads_of(exported(), config, monkeypatch, seconds) == threads
