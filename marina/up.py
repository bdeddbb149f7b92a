"""The whole way: train what is missing, archive, start TorchServe, register, wait for readiness, send every sample."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic

from marina import archive, candidates, paths, ready, server, spec
from marina.client import Client
from marina.console import Output
from marina.errors import CallError, ServerError, WorkError
from marina.server import TorchServe
from marina.server.java import Access
from marina.spec import Spec


def prepare(chosen: list[Spec], output: Output) -> None:
    """Train what has no export and archive everything; what is there already is left alone."""
    for one in chosen:
        if one.is_exported:
            warn_if_stale(one, output)
        else:
            train(one, output)
    for one in chosen:
        pack(one, output)


def train(one: Spec, output: Output, fresh: bool = False, devices: int = 1, nodes: int = 1) -> None:
    """Train and export one model, and say what it reached; the options are those of `training.train`."""
    from training.running.run import is_helper
    from training.train import train as run

    started = monotonic()
    if not is_helper():
        output.say(f"{one.name}: training ({one.training.recipe})")
    folder = run(one, fresh, devices, nodes)
    reached = ", ".join(f"{name} {value:.4g}" for name, value in export_metrics(one).items())
    output.say(f"{one.name}: {reached} after {monotonic() - started:.0f} s; exported to {folder}")
    show_runtimes(one, output)


def show_runtimes(one: Spec, output: Output) -> None:
    """Print what was tried to compute the export, and which of it serves."""
    output.table(f"{one.name}: runtimes that were tried", candidates.columns(one), candidates.rows(one))


def warn_if_stale(one: Spec, output: Output) -> None:
    """Say when the export was trained with other settings than the spec has now."""
    trained = json.loads((one.export_dir / "model_metadata.json").read_text(encoding="utf-8"))["training"]
    wanted = {"recipe": one.training.recipe, "seed": one.training.seed, **one.training.settings}
    other = sorted(key for key, value in wanted.items() if trained.get(key) != value)
    if other:
        say = f"trained with another {', '.join(other)} than models/{one.name}.yaml says now; `marina train {one.name}` trains it anew"
        output.say(f"{one.name}: {say}")


def export_metrics(one: Spec) -> dict[str, float]:
    """The metrics that the export recorded."""
    metrics: dict[str, float] = json.loads((one.export_dir / "model_metadata.json").read_text(encoding="utf-8"))["metrics"]
    return metrics


def pack(one: Spec, output: Output) -> archive.Archive:
    """Archive one model and say where it is."""
    built = archive.build(one)
    output.say(f"{one.name}: {built.path} ({'built' if built.changed else 'unchanged'}, sha256 {built.sha256[:12]}…)")
    return built


def register(client: Client, chosen: list[Spec], output: Output) -> None:
    """Register the archives and wait for their workers; several at once, since a worker's start is mostly waiting."""
    pool = ThreadPoolExecutor(4)

    def one_of(one: Spec) -> str:
        new = client.register(one.name, one.version, one.archive_name, timeout=one.serving.startup_timeout_s + 60)
        return f"{one.name} {one.version}: {'registered' if new else 'was registered already'}"

    try:
        for line in pool.map(one_of, chosen):
            output.say(line)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C or a failure nobody waits for the others


def check_ready(client: Client, chosen: list[Spec], workers_only: bool = False) -> None:
    """Raise ServerError with every reason unless all models are ready, or have at least their workers."""
    reasons = [reason for one in chosen for reason in ready.problems(client, one, workers_only)]
    if reasons:
        raise ServerError("not ready:\n  " + "\n  ".join(reasons))


@contextmanager
def serving(chosen: list[Spec], port: int, output: Output) -> Iterator[Client]:
    """A server with these models, ready, for the length of a `with` block; it is stopped on every way out."""
    with started(chosen, port, output) as (_, client):
        yield client


@contextmanager
def started(chosen: list[Spec], port: int, output: Output, access: Access | None = None) -> Iterator[tuple[TorchServe, Client]]:
    """The same, with the server itself, for `supervisor.watch`."""
    begun = monotonic()
    with server.running_server(port, access) as running, Client(port) as client:
        try:
            register(client, chosen, output)
        except WorkError as error:
            raise ServerError(f"{error}\n--- end of the server's log ---\n{server.log_tail(port)}") from error
        check_ready(client, chosen)
        output.say(f"ready after {monotonic() - begun:.1f} s")
        yield running, client


def show_samples(client: Client, chosen: list[Spec], output: Output) -> list[ready.Answered]:
    """Send every sample of every model and print what came back."""
    from marina.samples import short

    answered = [one for model in chosen for one in ready.send_samples(client, model)]
    rows = [
        (
            *(one.model, one.version, one.sample, short(one.answer) if one.answer else one.problem, short(one.expect)),
            *(f"{one.milliseconds:.1f}", "wrong" if one.problem else "right"),
        )
        for one in answered
    ]
    output.table("Answers", ("model", "version", "request", "answer", "expected", "ms", ""), rows)
    return answered


def choose(names: list[str]) -> list[Spec]:
    """The specs of `names`, each once, or of all models when there are none. Raises CallError when there is no model at all."""
    chosen = [spec.load(name) for name in dict.fromkeys(names or spec.names())]
    if not chosen:
        raise CallError(f"no model in {paths.models()}; write a spec there (docs/add-a-model.md)")
    return chosen
