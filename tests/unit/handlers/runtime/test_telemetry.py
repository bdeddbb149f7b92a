"""A worker's log lines and metrics about its batches."""

import json
import logging
import re

import pytest
import yaml

from handlers.protocol.errors import BadRequest, TooLarge
from handlers.protocol.replies import reply_of
from handlers.runtime.telemetry import METRICS, Metric, Telemetry
from marina.core import paths

# how the front end takes a metric's line apart: org.pytorch.serve.metrics.Metric
LINE = re.compile(
    r"\[METRICS\]([\w\s]+)\.([\w\s]+):([0-9\-,.e]+)\|#([^|]*)(?:\|#type:([^|,]+))?\|#hostname:([^,]+),([^,]+)"
)


def report(
    caplog: pytest.LogCaptureFixture, telemetry: Telemetry, answers: list, counted: bool = True
) -> list[str]:
    ids = [f"id-{index}" for index in range(len(answers))]
    caplog.set_level(logging.INFO)
    caplog.clear()
    telemetry.report(ids, [{}] * len(ids), list(map(reply_of, answers, ids)), counted)
    (record,) = caplog.records
    return record.message.split("\n")


def test_the_front_end_is_told_of_exactly_the_metrics_that_workers_write() -> None:
    declared = yaml.safe_load(paths.METRICS.read_text(encoding="utf-8"))["model_metrics"]
    ours = {
        entry["name"]: Metric(kind.upper(), entry["unit"], tuple(entry["dimensions"]))
        for kind, entries in declared.items()
        for entry in entries
        if entry["name"].startswith("marina_")
    }

    assert ours == METRICS


def test_every_metric_goes_out_in_the_form_that_the_front_end_reads(caplog: pytest.LogCaptureFixture) -> None:
    telemetry = Telemetry("digits", "1.0")
    telemetry.instances = 3
    with telemetry.inference:
        pass

    _, *lines = report(caplog, telemetry, [{"action": 1}, BadRequest("x"), TooLarge("x"), TooLarge("x")])

    found = {}
    for line in lines:
        name, unit, value, labels, kind, _, _ = LINE.fullmatch(line).groups()  # type: ignore[union-attr]
        assert (kind, unit) == METRICS[name][:2]
        pairs = dict(pair.split(":") for pair in labels.split(","))
        assert tuple(pairs) == METRICS[name].labels
        assert (pairs["model_name"], pairs["model_version"]) == ("digits", "1.0")
        found[name, pairs.get("type", "")] = float(value)
    assert {name for name, _ in found} == METRICS.keys()
    assert found["marina_requests_total", ""] == found["marina_batch_size", ""] == 4
    assert (found["marina_refusals_total", "BadRequest"], found["marina_refusals_total", "TooLarge"]) == (
        1,
        2,
    )
    assert 0 <= found["marina_inference_seconds", ""] < 1


def test_a_batch_that_was_refused_as_a_whole_counts_no_inference(caplog: pytest.LogCaptureFixture) -> None:
    _, *lines = report(caplog, Telemetry("digits", "1.0"), [BadRequest("x")])

    assert not any("inference" in line for line in lines)
    assert any("marina_decode_seconds" in line for line in lines)


def test_without_a_front_end_there_is_the_log_line_alone(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = report(caplog, Telemetry("digits", "1.0"), [{"action": 1}], counted=False)

    assert json.loads(line)["answers"] == [{"id": "id-0", "status": 200}]
