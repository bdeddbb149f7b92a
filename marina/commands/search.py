"""The command that searches for better training settings."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from marina.commands.session import STEPS, Name, Result, Session, command
from marina.core import paths
from marina.core.child_process import run_child
from marina.core.errors import CallError, WorkError
from marina.core.spec import load

STDERR = 2  # its file descriptor: what these processes print is no result
GRACE_SECONDS = 10.0  # for a process to end its trial after a signal
PROCESS = "MARINA_SEARCH_PROCESS"  # numbers a process that helps with a search

app = typer.Typer()


@command(app, "search", panel=STEPS)
def search(
    session: Session,
    name: Name,
    trials: Annotated[
        int, typer.Option(min=1, max=10_000, help="Trials of the search, those of earlier calls included.")
    ] = 20,
    processes: Annotated[int, typer.Option(min=1, max=64, help="That train at the same time.")] = 1,
    best: Annotated[
        str | None, typer.Option(metavar="NAME", help="The spec for the best; default: NAME-best.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The HTML page; default: NAME-search.html here.")] = None,
) -> Result:
    """Search the spec's search.space for better training settings, by validation alone (extra `search`).

    An interrupted search is resumed. `marina tune` is another thing: it finds settings to serve with.
    """
    try:
        import optuna  # noqa: F401  said here what to install
    except ImportError as error:
        raise CallError("marina search needs Optuna: pip install 'marina[search]'") from error
    from marina.search import best_spec, page, study

    spec, output = load(name), session.output
    path = best_spec.place(spec, best or f"{name}-best")
    opened = study.open_study(spec)
    number = int(os.environ.get(PROCESS, "0"))
    done = sum(trial.state in study.KEPT for trial in opened.trials)
    if done and not number:
        output.say(f"{name}: {done} trials of this search are there already")
    if processes > 1:
        _start(name, trials, processes)
    else:
        study.run_trials(spec, opened, trials, output.say, number)
    if number:
        return {"ok": True}
    file = paths.expanded(out or f"{name}-search.html")
    file.write_text(page.page(spec, opened), encoding="utf-8")
    found = study.settings_of(opened.best_trial, spec.search.space)
    best_spec.write(spec, found, path)
    output.say(f"{name}: best of {len(opened.trials)} trials {opened.best_value:.4g}; {file}")
    output.say(f"written to {path}; train it with: marina train {path.stem}")
    result = {"value": opened.best_value, "settings": found, "trials": len(opened.trials)}
    return {"ok": True, **result, "page": str(file.resolve()), "spec": str(path)}


def _start(name: str, trials: int, processes: int) -> None:
    """Run so many processes that search together, and wait for them. Raises WorkError where one fails."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    command = [sys.executable, "-m", "marina", "search", name, "--trials", str(trials)]

    def run(number: int) -> int:
        environment = {**os.environ, PROCESS: str(number), "OMP_NUM_THREADS": str(threads)}
        return run_child(command, GRACE_SECONDS, env=environment, stdout=STDERR).returncode

    with ThreadPoolExecutor(processes) as pool:
        codes = list(pool.map(run, range(1, processes + 1)))
    if any(codes):
        raise WorkError(f"{name}: a process of the search ended with exit code {max(codes)}")
