"""What a process counts, logs and knows of its models."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from handlers.runtime.telemetry import METRICS
from marina.engines.gateway.failures import ModelNotFound, VersionNotFound
from marina.engines.gateway.metrics import Metrics
from marina.engines.gateway.models import Models
from marina.engines.gateway.served_model import Batch, ServedModel
from tests.support.gateways import Recorder, call, gateway, recorded

OBSERVATION = {"observation": [0.0, 0.0, 0.1, 0.2]}
LABELS = {"model_name": "balance", "model_version": "1.0"}


def samples(exposition: bytes) -> dict[str, float]:
    """The values of one model by their names and further labels."""
    return {
        f"{sample.name}{''.join(sorted(sample.labels[key] for key in sample.labels.keys() - LABELS))}": (
            sample.value
        )
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
    }


def test_batches_are_counted_and_logged(balance: ServedModel, caplog: pytest.LogCaptureFixture) -> None:
    """By TorchServe's names, with one structured line a batch that has the request's id and its trace."""
    caplog.set_level(logging.INFO)
    app = gateway(balance)
    trace = f"00-{'a' * 32}-{'b' * 16}-01"

    call(app, "POST", "/predictions/balance", json=OBSERVATION, headers={"traceparent": trace})
    call(app, "POST", "/predictions/balance", content=b"no", headers={"x-request-id": "bad-1"})
    asyncio.run(balance.drain())

    counted = samples(app.metrics.exposition())
    messages = [record.message for record in caplog.records if '"batch"' in record.message]
    lines = [json.loads(line) for message in messages for line in message.splitlines()]
    assert counted["marina_requests_total"] == counted["marina_batch_size_count"] == 2
    assert counted["marina_refusals_totalBadRequest"] == 1
    assert (counted["marina_decode_seconds_count"], counted["marina_inference_seconds_count"]) == (2, 1)
    assert 0 < counted["marina_inference_seconds_sum"] < 1
    assert (counted["marina_queue_seconds_count"], counted["marina_pending_requests"]) == (2, 0)
    assert {name.removesuffix("_total") for name in METRICS} <= {
        family.name for family in text_string_to_metric_families(app.metrics.exposition().decode())
    }
    assert [line["answers"][0]["status"] for line in lines] == [200, 400]
    assert lines[0]["answers"][0]["traceparent"] == trace
    assert lines[1]["answers"][0]["id"] == "bad-1"


def test_many_values_at_once_are_observed_as_one_by_one() -> None:
    """Histograms are filled a report at a time; buckets, sum and count are what `observe` gives."""
    values = [0.0, 0.005, 0.0051, 0.3, 11.0, 10.0]
    metrics, expected = Metrics(), Metrics()
    recorder = Recorder()
    model = recorded(recorder)
    for value in values:
        expected._queue.labels("recorder", "1.0").observe(value)

    batches: list[Batch] = []
    model.observer = lambda _, reported: batches.extend(reported)

    async def run() -> None:
        for _ in values:
            await model.answer(({"body": "x"}, {}), "1")
        await model.drain()

    asyncio.run(run())
    queued_at_zero = [batches[0].requests[0]._replace(since=0.0)]
    pairs = zip(batches, values, strict=True)
    moved = [batch._replace(requests=queued_at_zero, started=value) for batch, value in pairs]
    metrics.count_batches(model, moved)

    def queue(of: Metrics) -> dict[str, float]:
        found = samples(of.exposition()).items()
        return {key: round(value, 6) for key, value in found if "queue" in key and "created" not in key}

    assert queue(metrics) == queue(expected)


COUNT = """
from marina.engines.gateway.metrics import Metrics
metrics = Metrics()
for status in (200, 503, 503):
    metrics.count_error(status)
"""


def test_processes_are_counted_together(tmp_path: Path) -> None:
    """What several processes have counted is one exposition."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", COUNT], check=True, env=environment)

    assert samples(Metrics().exposition(tmp_path))["marina_server_errors_total503"] == 4


def test_the_first_version_is_the_default_until_another_is() -> None:
    """Calls without a version reach the default one; one that is removed answers what it has accepted."""
    models = Models()
    first, second = (recorded(Recorder(version)) for version in ("1.0", "2.0"))
    models.add(first)
    models.add(second)
    assert (models.names(), models.versions("recorder")) == (["recorder"], ["1.0", "2.0"])
    assert models.get("recorder") is first

    models.set_default("recorder", "2.0")
    assert models.default("recorder") == "2.0"
    with pytest.raises(ValueError, match="served already"):
        models.add(first)
    with pytest.raises(VersionNotFound, match=r"Model version: 3\.0 does not exist for model: recorder"):
        models.set_default("recorder", "3.0")

    async def remove() -> bytes:
        answering = asyncio.ensure_future(second.answer(({"body": "last"}, {}), "1"))
        await asyncio.sleep(0)
        await models.remove("recorder", "2.0")
        return (await answering).content

    assert asyncio.run(remove()) == b"last"
    assert models.default("recorder") == "1.0"
    asyncio.run(models.remove("recorder", "1.0"))
    with pytest.raises(ModelNotFound, match="Model not found: recorder"):
        models.get("recorder", "1.0")
