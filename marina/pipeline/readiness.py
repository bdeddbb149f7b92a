"""True readiness: the server runs what archive and spec say, with READY workers and right answers.

TorchServe's own /ping says Healthy while an archive is missing or corrupt, a worker is dead or never came up,
answers are wrong, or somebody has changed a model's settings. Each of these is a reason here, with what to do
about it.

What is not covered: settings that TorchServe doesn't show (queue length, threads, longest answer). It can't
change them either: they come with the archive, whose checksum is compared.
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import monotonic, perf_counter, sleep
from typing import Any
from urllib.parse import urlsplit
from zipfile import BadZipFile

import yaml

from handlers.runtime.checksums import NAME as CHECKSUMS
from handlers.runtime.checksums import file_digest
from handlers.runtime.export import Export, GoldenSample
from handlers.runtime.golden import difference
from marina import engines
from marina.client import Client
from marina.core import paths
from marina.core.errors import CallError, RequestError
from marina.core.spec import Spec
from marina.engines import server_process
from marina.packaging import archive


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


def golden_samples(spec: Spec) -> list[GoldenSample]:
    """The samples inside the archive of `spec`. Raises CallError when no archive can be read."""
    with archive.opened(spec) as folder:
        return Export.open(folder).samples


def problems(client: Client, spec: Spec, workers_only: bool = False) -> list[str]:
    """Why the version of `spec` is not ready to serve, reason by reason; empty when it is.

    `workers_only` asks no more than whether its workers are READY.
    """
    return [f"{spec.name} {spec.version}: {reason}" for reason in _reasons(client, spec, workers_only)]


def send_samples(client: Client, spec: Spec) -> list[Answered]:
    """Send every golden sample of `spec` to its version, one after the other."""
    return [_send(client, spec, sample) for sample in golden_samples(spec)]


def _reasons(client: Client, spec: Spec, workers_only: bool) -> Iterator[str]:
    damage = "" if workers_only else _damage(spec)
    if damage:
        yield damage
    try:
        described, states = _workers(client, spec)
    except RequestError as error:
        yield f"not registered ({error.message}){_cause(client, spec)}"
        return
    alive = states.count("READY") >= spec.serving.workers
    if not alive:
        count = f"{states.count('READY')} of {spec.serving.workers} workers are ready"
        yield f"{count} (states: {states}){_cause(client, spec)}"
    if not damage and not workers_only:
        yield from _drift(spec, described)
        if alive:
            yield from _answers(client, spec)


def _workers(client: Client, spec: Spec) -> tuple[dict[str, Any], list[str]]:
    """What the server says of a version, and the states of its workers.

    Asked again for half a second where one isn't ready: TorchServe answers a registration an instant before
    it says so of the last worker.
    """
    until = monotonic() + 0.5
    while True:
        described = client.describe(spec.name, spec.version)[0]
        states = [worker["status"] for worker in described["workers"]]
        if (
            states.count("READY") >= spec.serving.workers
            or len(states) < spec.serving.workers
            or monotonic() > until
        ):
            return described, states
        sleep(0.05)


def _damage(spec: Spec) -> str:
    """What is wrong with the archive in the store; empty if it is there and its checksums match."""
    again = f"build it again with: marina archive {spec.name}"
    try:
        with archive.opened(spec) as folder:
            for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines():
                digest, _, name = line.partition("  ")
                if file_digest(folder / name) != digest:
                    return f"archive {spec.archive_path} is corrupt ({name} was changed); {again}"
    except CallError as error:
        return str(error)
    except (OSError, zlib.error, BadZipFile) as error:
        return f"archive {spec.archive_path} is corrupt ({error}); {again}"
    return ""


def _drift(spec: Spec, described: dict[str, Any]) -> Iterator[str]:
    """Key by key, where the spec and the archive differ, or the archive and the server."""
    with archive.opened(spec) as folder:
        packed = yaml.safe_load((folder / "model-config.yaml").read_text(encoding="utf-8"))
    expected = spec.serving.model_config_yaml()
    if differ := _differences(expected, packed, expected.keys() | packed.keys()):
        yield (
            f"its spec was changed since it was archived: {differ}; run: marina archive {spec.name} && "
            f"{_register_again(spec)}"
        )
    if differ := _differences(packed, described, packed.keys() & described.keys()):
        yield f"the server doesn't run it as its archive says: {differ}; run: {_register_again(spec)}"


def _differences(expected: dict[str, Any], actual: dict[str, Any], keys: Iterable[str]) -> str:
    pairs = ((key, actual.get(key), expected.get(key)) for key in sorted(keys))
    return ", ".join(f"{key} is {value} instead of {other}" for key, value, other in pairs if value != other)


def _register_again(spec: Spec) -> str:
    return f"marina unregister {spec.name} --version {spec.version} && marina register {spec.name}"


def _answers(client: Client, spec: Spec) -> Iterator[str]:
    """Whether the worker runs the archive that lies in the store, and answers its samples rightly."""
    try:
        served = client.describe(spec.name, spec.version, customized=True)[0].get("customizedMetadata")
    except RequestError as error:
        yield f"its worker doesn't answer ({error.message})"
        return
    stored, runs = archive.checksum(spec), served.get("checksum") if isinstance(served, dict) else None
    if runs != stored:
        yield (
            f"the server runs an archive with the checksum {str(runs)[:12]}…, the one in the store has "
            f"{stored[:12]}…; run: {_register_again(spec)}"
        )
    for answered in (_send(client, spec, sample) for sample in golden_samples(spec)):
        if answered.problem:
            yield f"sample {answered.sample!r}: {answered.problem}"
        if answered.answer is None:
            return  # each further one might wait for the whole time limit


def _cause(client: Client, spec: Spec) -> str:
    """The last error of the version's workers in the log of a server of this home, with its time."""
    port = urlsplit(client.inference).port or 0
    state = server_process.written_state(port, spec.home)
    if state is None:
        return ""
    words = engines.get(state.engine).last_error(paths.run(port, spec.home), spec.name, spec.version)
    return f"; the last error in its log: {words}" if words else ""


def _send(client: Client, spec: Spec, sample: GoldenSample) -> Answered:
    started = perf_counter()
    try:
        answer = client.predict(spec.name, sample["body"], spec.version, content_type=sample["content_type"])
        problem = difference(
            sample["answer"], answer, reduced=bool(sample.get("reduced"))
        ) or spec.predictor().mismatch(sample["expect"], answer)
    except RequestError as error:
        answer, problem = None, str(error)
    milliseconds = (perf_counter() - started) * 1000
    return Answered(spec.name, spec.version, sample["name"], sample["expect"], answer, problem, milliseconds)
