"""A soak test: users call a policy while versions are released and rolled back and workers killed.

    .venv/bin/python benchmarks/soak.py --minutes 10 --users 32 --releases 10 --kill-every 20

prints what was sent, what was lost, latencies and the family's memory, and draws run/soak.png. `--kill-every
0` kills none: then nothing is sent again (retries=0), and not one request may fail. Everything runs in a home
and on ports of its own.
"""

import argparse
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.progress import Progress

from marina.client import Client
from marina.core import paths, spec
from marina.core.console import Output
from marina.core.errors import RequestError
from marina.core.scratch import scratch_folder
from marina.engines import server_process as server
from marina.packaging import archive
from marina.pipeline import steps as up
from marina.release import rollout as release

NAME = "cartpole"
GOOD = {"observation": [0.0, 0.0, 0.1, 0.0]}
WORKERS = 2


@dataclass
class Record:
    """What happened, with seconds since the start."""

    started: float = field(default_factory=time.monotonic)
    answered: list[tuple[float, float]] = field(default_factory=list)  # (when, milliseconds)
    lost: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, float]] = field(default_factory=list)  # (when, MiB of server and workers)
    releases: list[float] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started


def user(client: Client, record: Record, stop: threading.Event) -> None:
    """One user: a request, a short pause, the next."""
    while not stop.is_set():
        sent = time.perf_counter()
        try:
            client.predict(NAME, GOOD)
            record.answered.append((record.now(), (time.perf_counter() - sent) * 1000))
        except RequestError as error:
            record.lost[f"{type(error).__name__}: {error}"[:160]] += 1
        time.sleep(random.uniform(0.02, 0.2))


def releaser(
    client: Client, record: Record, stop: threading.Event, every: float, times: int, home: Path
) -> None:
    """Releases 1.1 and goes back to 1.0, in turn, so many times."""
    forward = True
    for number in range(times):
        if stop.wait(max(0.0, (number + 0.5) * every - record.now())):
            return
        if forward:
            release.release(client, NAME, "1.1", 0.0, keep_older=False, say=lambda _: None, home=home)
        else:
            release.rollback(client, NAME, lambda _: None, home)
            client.unregister(NAME, "1.1")  # so that the next release starts workers again
        record.releases.append(record.now())
        forward = not forward


def killer(client: Client, record: Record, stop: threading.Event, every: float) -> None:
    """Kills one worker of the default version, as long as another one is ready."""
    while not stop.wait(every):
        workers = [entry for entry in client.describe(NAME, "")[0]["workers"] if entry["status"] == "READY"]
        if len(workers) == WORKERS:
            psutil.Process(int(random.choice(workers)["pid"])).kill()
            record.kills.append(record.now())


def watcher(port: int, record: Record, stop: threading.Event, home: Path) -> None:
    """Notes the memory of TorchServe and its workers every two seconds."""
    state = server.read_state(port, home)
    while state and not stop.wait(2):
        family = psutil.Process(state.pid)
        sizes = [_resident(process) for process in (family, *family.children(recursive=True))]
        record.memory.append((record.now(), sum(sizes) / 2**20))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def versions(home: Path) -> None:
    """Train and archive two versions of the policy in `home`."""
    text = (paths.SOURCE / "models" / f"{NAME}.yaml").read_text(encoding="utf-8")
    (home / "models").mkdir()
    (home / "models" / f"{NAME}.yaml").write_text(text, encoding="utf-8")
    serving = {"serving.workers": WORKERS, "serving.max_retry_timeout_s": 3600}
    for number, version in enumerate(("1.1", "1.0")):
        model = spec.load(NAME, {"version": version, "training.seed": number, **serving}, home)
        up.train(model, Output(as_json=True))
        archive.build(model)


def run(arguments: argparse.Namespace, home: Path) -> Record:
    """The soak itself."""
    model, port, stop = archive.spec_of(NAME, "1.0", home), server.free_port_base(), threading.Event()
    retries: dict[str, Any] = {"retries": 0} if not arguments.kill_every else {}
    with (
        up.serving([model], port, Output(as_json=True)) as management,
        Client(port, timeout=60, home=home, **retries) as client,
    ):
        record = Record()
        seconds = arguments.minutes * 60
        jobs: list[tuple[Callable[..., None], tuple[object, ...]]] = [
            *[(user, (client, record, stop))] * arguments.users,
            (watcher, (port, record, stop, home)),
        ]
        if arguments.releases:
            pause = seconds / arguments.releases
            jobs += [(releaser, (management, record, stop, pause, arguments.releases, home))]
        if arguments.kill_every:
            jobs += [(killer, (management, record, stop, arguments.kill_every))]
        threads = [threading.Thread(target=job, args=words) for job, words in jobs]
        for thread in threads:
            thread.start()
        with Progress() as progress:
            task = progress.add_task("soaking", total=seconds)
            while record.now() < seconds:
                time.sleep(1)
                words = f"{len(record.answered)} answered, {record.lost.total()} lost"
                progress.update(task, completed=record.now(), description=words)
        stop.set()
        for thread in threads:
            # no limit: its loops end when `stop` is set
            thread.join()
    return record


def draw(record: Record, file: Path) -> None:
    """Requests per second, latencies and memory over time, with releases and kills marked."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (rate, latency, memory) = plt.subplots(3, 1, sharex=True, figsize=(10, 8), layout="constrained")
    seconds = [int(when) for when, _ in record.answered]
    counts = Counter(seconds)
    rate.plot(range(max(counts)), [counts[second] for second in range(max(counts))], lw=0.8)
    rate.set_ylabel("answers per second")
    latency.plot(*zip(*record.answered, strict=True), ".", ms=1.5, alpha=0.3)
    latency.set(ylabel="milliseconds", yscale="log")
    memory.plot(*zip(*record.memory, strict=True))
    memory.set(ylabel="memory, MiB", xlabel="seconds", ylim=(0, None))
    for axes in (rate, latency, memory):
        for marks, colour in ((record.releases, "tab:green"), (record.kills, "tab:red")):
            for when in marks:
                axes.axvline(when, color=colour, lw=0.7, alpha=0.6)
    rate.set_title("green: release or rollback, red: a worker killed")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def tell(record: Record) -> None:
    """The figures."""
    milliseconds = [spent for _, spent in record.answered]
    cuts = statistics.quantiles(milliseconds, n=100)
    half = len(record.memory) // 2
    first, second = (
        statistics.median(size for _, size in part)
        for part in (record.memory[half // 2 : half], record.memory[-half // 2 :])
    )
    done = f"releases and rollbacks {len(record.releases)}, kills {len(record.kills)}"
    print(f"answered {len(milliseconds)}, lost {record.lost.total()}, {done}")
    print(
        f"milliseconds: p50 {cuts[49]:.1f}, p95 {cuts[94]:.1f}, p99 {cuts[98]:.1f}, longest "
        f"{max(milliseconds):.0f}"
    )
    print(
        f"memory of the server and its workers: median {first:.0f} MiB in the second quarter, {second:.0f} "
        "MiB in the last"
    )
    for words, count in record.lost.most_common(10):
        print(f"  lost {count}: {words}")


def main() -> None:
    """Read the arguments, soak, tell and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--releases", type=int, default=10, help="releases and rollbacks together")
    parser.add_argument("--kill-every", type=float, default=20, help="seconds; 0 kills none")
    parser.add_argument("--picture", type=Path, default=paths.run(0).parent / "soak.png")
    arguments = parser.parse_args()
    with scratch_folder("marina-soak-") as home:
        versions(home)
        record = run(arguments, home)
    tell(record)
    draw(record, arguments.picture)
    print(f"drawn to {arguments.picture}")


if __name__ == "__main__":
    main()
