"""The handler's loop, in process: a bad request fails alone, and a changed archive does not come up."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ts.context import Context, RequestProcessor

from marina.spec import Spec

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

    def breaks(batch: torch.Tensor) -> Any:
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


def test_an_explanation_is_refused_where_there_is_none(served: tuple[PolicyHandler, Spec]) -> None:
    handler, one = served

    ((status, answer),) = handle(handler, one, [GOOD], [{"explain": "True"}])

    assert status == 415
    assert "no explanations" in answer["message"]


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
    handler.load(one.export_dir)
    model = handler.model

    def slow(batch: torch.Tensor) -> Any:
        time.sleep(seconds)
        return model(batch)

    monkeypatch.setattr(handler, "model", slow)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    handler.choose_threads(one.export_dir, config)
    return torch.get_num_threads()


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
