"""The steps of `marina up`: train, archive, start a server, register, wait until ready, send samples."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic

from handlers.runtime.export import Export
from marina.client import Client
from marina.core import kinds, paths
from marina.core.console import Output
from marina.core.errors import CallError, ServerError, WorkError
from marina.core.spec import Spec, load, names
from marina.engines.engine import Access, Engine
from marina.engines.server_process import ServerProcess, running_server
from marina.packaging import archive, runtime_table
from marina.pipeline import readiness
from marina.pipeline.readiness import Answered


def prepare(specs: list[Spec], output: Output) -> None:
    """Train the models without an export, and archive all of them."""
    for spec in specs:
        if spec.is_exported:
            warn_if_stale(spec, output)
        else:
            train(spec, output)
    for spec in specs:
        pack(spec, output)


def train(
    spec: Spec,
    output: Output,
    fresh: bool = False,
    devices: int = 1,
    nodes: int = 1,
    strict: bool = False,
) -> None:
    """Train and export one model, and print its metrics; the options are those of `training.train`."""
    from training.runs.run import is_helper
    from training.train import train as run

    start = monotonic()
    if not is_helper():
        output.say(f"{spec.name}: training ({spec.training.recipe})")
    folder = run(spec, fresh, devices, nodes, strict)
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in export_metrics(spec).items())
    output.say(f"{spec.name}: {metrics} after {monotonic() - start:.0f} s; exported to {folder}")
    show_runtimes(spec, output)


def show_runtimes(spec: Spec, output: Output) -> None:
    """Print the runtimes that were tried for the export, and which of them serves."""
    columns, rows = runtime_table.columns(spec), runtime_table.rows(spec)
    output.table(f"{spec.name}: runtimes that were tried", columns, rows)


def warn_if_stale(spec: Spec, output: Output) -> None:
    """Print a warning if the export was trained with other settings than the spec's."""
    trained = Export.open(spec.export_dir).metadata["training"]
    settings = {"recipe": spec.training.recipe, "seed": spec.training.seed, **spec.training.settings}
    changed = sorted(key for key, value in settings.items() if trained.get(key) != value)
    if changed:
        spec_file, command = f"models/{spec.name}.yaml", f"marina train {spec.name}"
        reason = f"trained with another {', '.join(changed)} than {spec_file} has now"
        output.say(f"{spec.name}: {reason}; `{command}` trains it again")


def export_metrics(spec: Spec) -> dict[str, float]:
    """The metrics that the export recorded."""
    return Export.open(spec.export_dir).metadata["metrics"]


def pack(spec: Spec, output: Output) -> archive.Archive:
    """Archive one model and print where it is."""
    packed = archive.build(spec)
    state = "built" if packed.changed else "unchanged"
    output.say(f"{spec.name}: {packed.path} ({state}, sha256 {packed.sha256[:12]}…)")
    if packed.changed:
        from training.tracking.session import log_archive

        log_archive(spec)
    return packed


def register(client: Client, specs: list[Spec], output: Output) -> None:
    """Register the archives and wait for their workers, in parallel: a worker's start is mostly waiting."""
    pool = ThreadPoolExecutor(4)

    def register_one(spec: Spec) -> str:
        timeout = spec.serving.startup_timeout_s + 60
        is_new = client.register(spec.name, spec.version, spec.archive_name, timeout=timeout)
        return f"{spec.name} {spec.version}: {'registered' if is_new else 'was registered already'}"

    try:
        for line in pool.map(register_one, specs):
            output.say(line)
    finally:
        # after Ctrl-C or a failure, don't wait for the others
        pool.shutdown(wait=False, cancel_futures=True)


def check_ready(client: Client, specs: list[Spec], workers_only: bool = False) -> None:
    """Raise ServerError with every reason unless all models are ready, or have at least their workers."""
    reasons = [reason for spec in specs for reason in readiness.problems(client, spec, workers_only)]
    if reasons:
        raise ServerError("not ready:\n  " + "\n  ".join(reasons))


@contextmanager
def serving(specs: list[Spec], port: int, output: Output, engine: Engine | None = None) -> Iterator[Client]:
    """Run a private server with these models, ready, for a `with` block; yields a client."""
    with started(specs, port, output, engine=engine, is_private=True) as (_, client):
        yield client


@contextmanager
def started(
    specs: list[Spec],
    port: int,
    output: Output,
    access: Access | None = None,
    engine: Engine | None = None,
    is_private: bool = False,
) -> Iterator[tuple[ServerProcess, Client]]:
    """As `serving`, for everybody; yields the server too, for `supervisor.watch`."""
    start = monotonic()
    home = specs[0].home if specs else paths.find_home()
    running = running_server(port, access, home, engine, is_private)
    with running as server, Client(port, home=home) as client:
        try:
            register(client, specs, output)
        except WorkError as error:
            raise ServerError(f"{error}\n--- end of the server's log ---\n{server.log_tail()}") from error
        check_ready(client, specs)
        output.say(f"ready after {monotonic() - start:.1f} s")
        yield server, client


def show_samples(client: Client, specs: list[Spec], output: Output) -> list[Answered]:
    """Send every sample of every model and print the answers."""
    answers, rows = list[Answered](), []
    for spec in specs:
        summarize = kinds.get(spec.kind).summarize
        for sample in readiness.send_samples(client, spec):
            answers.append(sample)
            answer = summarize(sample.answer) if sample.answer else sample.problem
            verdict = "wrong" if sample.problem else "right"
            time, expected = f"{sample.milliseconds:.1f}", summarize(sample.expect)
            rows.append((spec.name, spec.version, sample.sample, answer, expected, time, verdict))
    output.table("Answers", ("model", "version", "request", "answer", "expected", "ms", ""), rows)
    return answers


def choose(model_names: list[str]) -> list[Spec]:
    """The specs of these names, or of all models for an empty list. Raises CallError without a model."""
    specs = [load(name) for name in dict.fromkeys(model_names or names())]
    if not specs:
        raise CallError(f"no model in {paths.models()}; write a spec there (docs/guide/add-a-model.md)")
    return specs
