"""Finds out how a model is best served on this machine: workers, threads of each, batch size and delay, by trying.

Every trial is the model's own archive with other settings under `serving`, registered in a server of its own as a version that is
gone afterwards. First workers and threads are chosen, then the batch size, then the delay, each with what was best before.

What is not covered: several models on one machine, whose best settings depend on each other; GPUs.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from marina import archive, paths, ready, server, spec
from marina.client import Client
from marina.console import Output
from marina.errors import CallError, WorkError
from marina.load import closed, request
from marina.spec import Spec

KEYS = ("workers", "threads", "batch_size", "max_batch_delay_ms")
BATCHES, DELAYS = (1, 4, 8, 16, 32), (1, 2, 5)
AS_GOOD = 0.97  # of the best rate: among these the lone request's latency decides
WARM_UP = 1.0  # seconds


@dataclass(frozen=True)
class Trial:
    """What one setting gave: answers per second and latencies in milliseconds, with all users and with one alone."""

    settings: dict[str, int]
    rate: float
    p50_ms: float
    p95_ms: float
    alone_ms: float
    failed: int


def tune(one: Spec, users: int, seconds: float, minutes: float, output: Output) -> list[Trial]:
    """Try settings for at most `minutes`, with `seconds` of load each; the best is first. Raises CallError without an archive."""
    folder = Path(tempfile.mkdtemp(prefix="marina-tune-"))
    until = time.monotonic() + minutes * 60
    before = os.environ.get("MARINA_HOME")
    try:
        shutil.copytree(paths.exports() / one.name / one.version, folder / "exports" / one.name / one.version)
        os.environ["MARINA_HOME"] = str(folder)
        port = server.free_port_base()
        with server.running_server(port), Client(port, timeout=60) as client:
            return _search(one, lambda settings: _tried(one, settings, client, port, users, seconds), until, output)
    finally:
        os.environ.pop("MARINA_HOME") if before is None else os.environ.update(MARINA_HOME=before)
        shutil.rmtree(folder, ignore_errors=True)


def written(one: Spec, settings: dict[str, int]) -> Path:
    """Put `settings` under `serving` of the model's spec, whose other lines and comments stay. Returns the file."""
    path = paths.models() / f"{one.name}.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next((row for row, line in enumerate(lines) if line.split("#")[0].rstrip() == "serving:"), None)
    if start is None:
        if any(line.startswith("serving:") for line in lines):
            raise CallError(f"{path}: write 'serving' as a block of lines, or put these there yourself: {settings}")
        lines += ["", "serving:"]
        start = len(lines) - 1
    end = next((row for row in range(start + 1, len(lines)) if lines[row][:1] not in ("", " ", "#")), len(lines))
    kept = [line for line in lines[start + 1 : end] if line.strip().split(":")[0] not in KEYS]
    lines[start + 1 : end] = [f"  {key}: {value}" for key, value in settings.items()] + kept
    text = "\n".join(lines) + "\n"
    spec.parse(text, one.name, str(path))
    path.write_text(text, encoding="utf-8")
    return path


def draw(trials: list[Trial], file: Path) -> None:
    """Rate against latency, one point per trial, the chosen one marked; who stands to the upper left of another is better."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    axes.plot([trial.p95_ms for trial in trials], [trial.rate for trial in trials], "o", color="tab:blue", alpha=0.7)
    axes.plot(trials[0].p95_ms, trials[0].rate, "o", ms=14, mfc="none", mec="tab:red", mew=2, label="chosen")
    for trial in trials:
        axes.annotate(in_words(trial.settings), (trial.p95_ms, trial.rate), xytext=(5, 4), textcoords="offset points", fontsize=7)
    right, top = max(trial.p95_ms for trial in trials), max(trial.rate for trial in trials)
    axes.set(xlabel="p95, milliseconds", ylabel="answers per second", xlim=(0, 1.3 * right), ylim=(0, 1.1 * top))
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def in_words(settings: dict[str, int]) -> str:
    """2 x 1, batch 8, 1 ms: workers x threads."""
    return f"{settings['workers']} x {settings['threads']}, batch {settings['batch_size']}, {settings['max_batch_delay_ms']} ms"


def _search(one: Spec, tried: Callable[[dict[str, int]], Trial], until: float, output: Output) -> list[Trial]:
    """The best of each question goes into the next one; time that is up ends it."""
    trials: list[Trial] = []
    best = {"workers": 1, "threads": 1, "batch_size": min(8, one.export.max_batch), "max_batch_delay_ms": 1}
    for changes in _questions(len(os.sched_getaffinity(0)), one.export.max_batch):
        for change in changes:
            settings = {**best, **change}
            if any(trial.settings == settings for trial in trials) or (trials and time.monotonic() > until):
                continue
            trial = tried(settings)
            trials.append(trial)
            output.say(f"{in_words(settings)}: {trial.rate:.0f}/s, p95 {trial.p95_ms:.1f} ms, alone {trial.alone_ms:.1f} ms")
        trials = ordered(trials, one.service_level.p95_ms)
        best = trials[0].settings
    if trials[0].failed:
        raise WorkError(f"{one.name}: {trials[0].failed} requests failed; look at it with: marina loadtest {one.name}")
    return trials


def _questions(cores: int, most: int) -> Iterator[list[dict[str, int]]]:
    yield [{"workers": workers, "threads": max(1, cores // workers)} for workers in sorted({1, max(1, cores // 2), cores})] + [
        {"workers": 1, "threads": 1}
    ]
    yield [{"batch_size": size} for size in BATCHES if size <= most]
    yield [{"max_batch_delay_ms": delay} for delay in DELAYS]


def ordered(trials: list[Trial], p95_ms: float) -> list[Trial]:
    """Best first: those that hold the service level, by their rate; among those as good as the best the quickest lone request."""

    def holds(trial: Trial) -> bool:
        return trial.failed == 0 and trial.p95_ms <= p95_ms

    most = max((trial.rate for trial in trials if holds(trial)), default=0.0)
    return sorted(trials, key=lambda trial: (not holds(trial), trial.rate < AS_GOOD * most, _rank(trial, most)))


def _rank(trial: Trial, most: float) -> float:
    return trial.alone_ms if trial.rate >= AS_GOOD * most else -trial.rate


def _tried(one: Spec, settings: dict[str, int], client: Client, port: int, users: int, seconds: float) -> Trial:
    """Register the model with `settings`, load it, and take it away again."""
    serving = one.serving.model_copy(update={**settings, "max_workers": None})
    trial = one.model_copy(update={"serving": serving})
    archive.build(trial)
    client.register(one.name, one.version, one.archive_name, timeout=serving.startup_timeout_s + 60)
    try:
        sample = ready.golden_samples(trial)[0]
        headers = {"Content-Type": sample["content_type"], "Authorization": f"Bearer {client.token('inference')}"}
        content = request(port, f"/predictions/{one.name}", sample["body"], headers)
        closed(port, content, users, WARM_UP)
        found, alone = closed(port, content, users, seconds), closed(port, content, 1, seconds / 2)
    finally:
        client.unregister(one.name, one.version)
    return Trial(settings, found.rate, found.percentile(0.5), found.percentile(0.95), alone.percentile(0.5), found.failed + alone.failed)
