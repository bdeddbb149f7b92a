"""Searches for the best workers, threads per worker, batch size and delay of a model on this machine.

Every trial is the model's own archive with other settings under `serving`, registered in a private server and
unregistered afterwards. The search is coordinate-wise: first workers and threads, then the batch size, then
the delay, each with the best settings so far.

Not covered: several models on one machine, whose best settings depend on each other; GPUs.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from handlers.runtime.machine import usable_cores
from marina.client import Client
from marina.core import paths
from marina.core.console import Output
from marina.core.errors import WorkError
from marina.core.files import write_atomic
from marina.core.scratch import scratch_folder
from marina.core.spec import Spec, parse
from marina.core.yaml_edits import edited
from marina.engines import server_process
from marina.engines.engine import Engine
from marina.load.load_generator import closed_loop, request
from marina.packaging import archive
from marina.pipeline import readiness

BATCHES, DELAYS = (1, 4, 8, 16, 32), (1, 2, 5)
NEAR_BEST = 0.97  # of the best rate: among these trials the latency of a lone request decides
WARM_UP = 1.0  # seconds


@dataclass(frozen=True)
class Trial:
    """Settings, and what they gave: answers per second and latencies with all users and with one alone."""

    settings: dict[str, int]
    rate: float
    p50_ms: float
    p95_ms: float
    alone_ms: float
    failed: int


def tune(
    spec: Spec, users: int, seconds: float, minutes: float, output: Output, engine: Engine | None = None
) -> list[Trial]:
    """Try settings for at most `minutes`, with `seconds` of load each; the best trial is first."""
    until = time.monotonic() + minutes * 60
    with scratch_folder("marina-tune-") as folder:
        trial = spec.moved(folder)
        shutil.copytree(spec.export_dir, trial.export_dir)
        port = server_process.free_port_base()
        with (
            server_process.running_server(port, home=folder, engine=engine),
            Client(port, timeout=60, home=folder) as client,
        ):

            def measure(settings: dict[str, int]) -> Trial:
                return _measure(trial, settings, client, port, users, seconds)

            return search(trial, measure, until, output)


def write_settings(spec: Spec, settings: dict[str, int]) -> Path:
    """Write `settings` under `serving` of the spec's file; comments and order stay. Returns the file."""
    path = paths.models(spec.home) / f"{spec.name}.yaml"
    text = edit_serving(path.read_text(encoding="utf-8"), settings)
    parse(text, spec.name, str(path))
    write_atomic(path, text)
    return path


def edit_serving(text: str, settings: dict[str, int]) -> str:
    """The YAML `text` with `settings` under its key `serving`."""

    def change(document: Any) -> None:
        if not document.get("serving"):
            document["serving"] = CommentedMap()
            document.yaml_set_comment_before_after_key("serving", before="\n")
        serving = document["serving"]
        for position, (key, value) in enumerate(settings.items()):
            if key in serving:
                serving[key] = value
            else:  # behind the last key there may be comments of the next section
                serving.insert(position, key, value)

    return edited(text, change)


def plot(trials: list[Trial], file: Path) -> None:
    """Plot rate against latency, a point per trial, the best one marked; further up and left is better."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    axes.plot(
        [trial.p95_ms for trial in trials], [trial.rate for trial in trials], "o", color="tab:blue", alpha=0.7
    )
    axes.plot(trials[0].p95_ms, trials[0].rate, "o", ms=14, mfc="none", mec="tab:red", mew=2, label="best")
    for trial in trials:
        axes.annotate(
            describe(trial.settings),
            (trial.p95_ms, trial.rate),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=7,
        )
    right, top = max(trial.p95_ms for trial in trials), max(trial.rate for trial in trials)
    axes.set(
        xlabel="p95, milliseconds", ylabel="answers per second", xlim=(0, 1.3 * right), ylim=(0, 1.1 * top)
    )
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def describe(settings: dict[str, int]) -> str:
    """Like "2 x 1, batch 8, 1 ms": workers x threads, batch size, delay."""
    processes = f"{settings['workers']} x {settings['threads']}"
    return f"{processes}, batch {settings['batch_size']}, {settings['max_batch_delay_ms']} ms"


def search(
    spec: Spec, measure: Callable[[dict[str, int]], Trial], until: float, output: Output
) -> list[Trial]:
    """Trials, best first; after `until` (of time.monotonic) no other one starts."""
    trials: list[Trial] = []
    best = {"workers": 1, "threads": 1, "batch_size": min(8, spec.export.max_batch), "max_batch_delay_ms": 1}
    for changes in _steps(usable_cores(), spec.export.max_batch):
        for change in changes:
            settings = {**best, **change}
            if any(trial.settings == settings for trial in trials) or (trials and time.monotonic() > until):
                continue
            trial = measure(settings)
            trials.append(trial)
            latency = f"p95 {trial.p95_ms:.1f} ms, alone {trial.alone_ms:.1f} ms"
            output.say(f"{describe(settings)}: {trial.rate:.0f}/s, {latency}")
        trials = rank(trials, spec.service_level.p95_ms)
        best = trials[0].settings
    if trials[0].failed:
        instead = f"look at it with: marina loadtest {spec.name}"
        raise WorkError(f"{spec.name}: {trials[0].failed} requests failed; {instead}")
    return trials


def _steps(cores: int, max_batch: int) -> Iterator[list[dict[str, int]]]:
    """The changes that each step of the search tries on the best settings so far."""
    processes = [
        {"workers": n, "threads": max(1, cores // n)} for n in sorted({1, max(1, cores // 2), cores})
    ]
    yield [*processes, {"workers": 1, "threads": 1}]
    yield [{"batch_size": size} for size in BATCHES if size <= max_batch]
    yield [{"max_batch_delay_ms": delay} for delay in DELAYS]


def rank(trials: list[Trial], p95_ms: float) -> list[Trial]:
    """Best first: within the service level by rate, near the best rate by latency."""

    def is_within(trial: Trial) -> bool:
        return trial.failed == 0 and trial.p95_ms <= p95_ms

    best_rate = max((trial.rate for trial in trials if is_within(trial)), default=0.0)

    def key(trial: Trial) -> tuple[bool, bool, float]:
        is_near = trial.rate >= NEAR_BEST * best_rate
        return not is_within(trial), not is_near, trial.alone_ms if is_near else -trial.rate

    return sorted(trials, key=key)


def _measure(
    spec: Spec, settings: dict[str, int], client: Client, port: int, users: int, seconds: float
) -> Trial:
    """Register the model with `settings`, load it, and unregister it."""
    serving = spec.serving.model_copy(update={**settings, "max_workers": None})
    trial = spec.model_copy(update={"serving": serving})
    archive.build(trial)
    client.register(spec.name, spec.version, spec.archive_name, timeout=serving.startup_timeout_s + 60)
    try:
        sample = readiness.golden_samples(trial)[0]
        headers = {
            "Content-Type": sample["content_type"],
            "Authorization": f"Bearer {client.token('inference')}",
        }
        content = request(port, f"/predictions/{spec.name}", sample["body"], headers)
        closed_loop(port, content, users, WARM_UP)
        loaded, alone = closed_loop(port, content, users, seconds), closed_loop(port, content, 1, seconds / 2)
    finally:
        client.unregister(spec.name, spec.version)
    return Trial(
        settings,
        loaded.rate,
        loaded.percentile(0.5),
        loaded.percentile(0.95),
        alone.percentile(0.5),
        loaded.failed + alone.failed,
    )
