"""True readiness: what the server runs is what the archive and the spec say, with READY workers and right answers.

TorchServe's own /ping says Healthy while an archive is missing or corrupt, a worker is dead or never came up, answers are wrong,
or somebody has changed a model's settings. Each of these is a reason here, with what to do about it.

What is not covered: settings that TorchServe doesn't show (queue length, threads, longest answer). It can't change them either: they
come with the archive, whose checksum is compared.
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any
from urllib.parse import urlsplit
from zipfile import BadZipFile

import yaml

from marina import archive, paths
from marina.client import Client
from marina.errors import CallError, RequestError
from marina.samples import mismatch
from marina.spec import Spec

from bundle_checksums import NAME as CHECKSUMS
from bundle_checksums import file_digest
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
        yield f"not registered ({error.message})"
        return
    alive = states.count("READY") >= spec.serving.workers
    if not alive:
        words = _last_error(client, spec)
        cause = f"; the last error in its log: {words}" if words else ""
        yield f"{states.count('READY')} of {spec.serving.workers} workers are ready (states: {states}){cause}"
    if not damage and not workers_only:
        yield from _drift(spec, described)
        if alive:
            yield from _answers(client, spec)


def _workers(client: Client, spec: Spec) -> tuple[dict[str, Any], list[str]]:
    """What TorchServe says of a version, and the states of its workers.

    Asked again for half a second where one isn't ready: TorchServe answers a registration an instant before it says so of the last worker.
    """
    until = monotonic() + 0.5
    while True:
        described = client.describe(spec.name, spec.version)[0]
        states = [worker["status"] for worker in described["workers"]]
        if states.count("READY") >= spec.serving.workers or len(states) < spec.serving.workers or monotonic() > until:
            return described, states
        sleep(0.05)


def _damage(spec: Spec) -> str:
    """What is wrong with the archive in the store; empty when it is there and all that its checksums list is unchanged."""
    again = f"build it again with: marina archive {spec.name}"
    try:
        with archive.opened(spec) as folder:
            for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines():
                digest, _, name = line.partition("  ")
                if file_digest(folder / name) != digest:
                    return f"archive {paths.model_store() / spec.archive_name} is corrupt ({name} was changed); {again}"
    except CallError as error:
        return str(error)
    except (OSError, zlib.error, BadZipFile) as error:
        return f"archive {paths.model_store() / spec.archive_name} is corrupt ({error}); {again}"
    return ""


def _drift(spec: Spec, described: dict[str, Any]) -> Iterator[str]:
    """Key by key, where the spec and the archive differ, or the archive and the server."""
    with archive.opened(spec) as folder:
        packed = yaml.safe_load((folder / "model-config.yaml").read_text(encoding="utf-8"))
    wanted = spec.serving.model_config_yaml()
    if differ := _differences(wanted, packed, wanted.keys() | packed.keys()):
        yield f"its spec was changed since it was archived: {differ}; run: marina archive {spec.name} && {_anew(spec)}"
    if differ := _differences(packed, described, packed.keys() & described.keys()):
        yield f"the server doesn't run it as its archive says: {differ}; run: {_anew(spec)}"


def _differences(wanted: dict[str, Any], found: dict[str, Any], keys: Iterable[str]) -> str:
    pairs = ((key, found.get(key), wanted.get(key)) for key in sorted(keys))
    return ", ".join(f"{key} is {one} instead of {other}" for key, one, other in pairs if one != other)


def _anew(spec: Spec) -> str:
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
        yield f"the server runs an archive with the checksum {str(runs)[:12]}…, the one in the store has {stored[:12]}…; run: {_anew(spec)}"
    for answered in (_send(client, spec, sample) for sample in golden_samples(spec)):
        if answered.problem:
            yield f"sample {answered.sample!r}: {answered.problem}"
        if answered.answer is None:
            return  # each further one might wait for the whole time limit


def _last_error(client: Client, spec: Spec) -> str:
    """The last error of the version's workers in the log, with its time; empty when there is none, or no log on this machine."""
    file = paths.run(urlsplit(client.inference).port or 0) / "logs" / "models.log"
    if not file.is_file():
        return ""
    worker = rf"^(\S+) .* W-\d+-{re.escape(spec.name)}_{re.escape(spec.version)}\S* - "
    found = re.findall(rf"{worker}((?:\w+\.)*\w*(?:Error|Exception|BrokenArchive): (?!\d+ - ).+)$", _end_of(file), re.MULTILINE)
    return f"{found[-1][1][:400]} (at {found[-1][0]})" if found else ""


def _end_of(file: Path, most: int = 200_000) -> str:
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - most))
        return log.read().decode(errors="replace")


def _send(client: Client, spec: Spec, sample: dict[str, Any]) -> Answered:
    started = perf_counter()
    try:
        answer = client.predict(spec.name, sample["body"], spec.version, sample["content_type"])
        problem = difference(sample["answer"], answer, reduced=bool(sample.get("reduced"))) or mismatch(sample["expect"], answer)
    except RequestError as error:
        answer, problem = None, str(error)
    milliseconds = (perf_counter() - started) * 1000
    return Answered(spec.name, spec.version, sample["name"], sample["expect"], answer, problem, milliseconds)
