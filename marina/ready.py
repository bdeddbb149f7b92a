"""True readiness: every expected model and version has its READY workers and answers its golden samples.

TorchServe's own /ping says Healthy while an archive is missing or a worker is dead.
"""

from dataclasses import dataclass
from time import perf_counter
from typing import Any

from marina import archive
from marina.client import Client
from marina.errors import RequestError
from marina.samples import mismatch
from marina.spec import Spec

from bundle_golden import difference, read_samples


@dataclass(frozen=True)
class Answered:
    """One golden sample, sent: what came back, whether it is right, and how long it took."""

    model: str
    version: str
    sample: str
    expect: dict[str, Any]
    answer: Any
    problem: str  # empty when the answer is the golden one and what the spec expects
    milliseconds: float


def golden_samples(spec: Spec) -> list[dict[str, Any]]:
    """The samples inside the archive of `spec`. Raises CallError when there is no archive that can be read."""
    with archive.opened(spec) as folder:
        return read_samples(folder)


def problems(client: Client, spec: Spec) -> list[str]:
    """Why the version of `spec` is not ready to serve; empty when it is."""
    try:
        described = client.describe(spec.name, spec.version)[0]
    except RequestError as error:
        return [f"{spec.name} {spec.version}: not registered ({error.message})"]
    states = [worker["status"] for worker in described["workers"]]
    if states.count("READY") < spec.serving.workers:
        return [f"{spec.name} {spec.version}: {states.count('READY')} of {spec.serving.workers} workers are ready (states: {states})"]
    wrong = (one for one in send_samples(client, spec) if one.problem)
    return [f"{spec.name} {spec.version}: sample {one.sample!r}: {one.problem}" for one in wrong]


def send_samples(client: Client, spec: Spec) -> list[Answered]:
    """Send every golden sample of `spec` to its version, one after the other."""
    return [_send(client, spec, sample) for sample in golden_samples(spec)]


def _send(client: Client, spec: Spec, sample: dict[str, Any]) -> Answered:
    started = perf_counter()
    try:
        answer = client.predict(spec.name, sample["body"], spec.version, sample["content_type"])
        problem = difference(sample["answer"], answer) or mismatch(sample["expect"], answer)
    except RequestError as error:
        answer, problem = None, str(error)
    milliseconds = (perf_counter() - started) * 1000
    return Answered(spec.name, spec.version, sample["name"], sample["expect"], answer, problem, milliseconds)
