"""How much processor time learning takes until a policy reaches its return, beside stable-baselines3 on the same core.

    marina bench rl                          all recipes of the plan, five seeds each: hours
    marina bench rl --quick                  a few of them, two seeds: minutes
    marina bench rl --only ppo --only Pendulum-v1 --json FILE
    marina bench rl --resume FILE            goes on where it was stopped, and prints the table
    marina bench rl ppo CartPole-v1 --threshold 475 --set gae_lambda=0.95     one row of one's own

Every run of both learns until 100 episodes without exploration have the mean return of the recipe's floor, looked at every
`screening_every` environment steps; the looks themselves don't count. Both take turns, so that what else the machine does hits both. For
stable-baselines3 the settings are those of rl-baselines3-zoo (benchmarks/policy_plan.py).
"""

import argparse
import json
import os
import platform
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks.policy_plan import PLAN, Row, chosen
from marina.errors import CallError, MarinaError
from marina.spec import Spec, parse

OURS, THEIRS = "ours", "stable-baselines3"
Done = dict[tuple[str, str, int], dict[str, Any]]  # (row, whose, seed) to what came out


class Results:
    """What has come out so far, in a file that is replaced after every run; without one only in memory."""

    def __init__(self, path: Path | None, resume: bool) -> None:
        self.path, self.done = path, Done()
        if path is None:
            return
        if resume:
            self.done = {(run["row"], run["whose"], run["seed"]): run for run in _read(path)["runs"]}
        elif path.exists():
            raise CallError(f"{path} is there already; go on with it: --resume {path}, or name another file")

    def add(self, **run: Any) -> None:
        """One more."""
        self.done[run["row"], run["whose"], run["seed"]] = run
        if self.path is None:
            return
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        part.write_text(json.dumps({**_machine(), "runs": [*self.done.values()]}, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)

    def of(self, row: str, whose: str) -> dict[int, dict[str, Any]]:
        """The runs of one line of the table, by their seed."""
        return {seed: run for (name, who, seed), run in sorted(self.done.items()) if (name, who) == (row, whose)}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        assert all({"row", "whose", "seed", "seconds"} <= run.keys() for run in found["runs"])
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise CallError(f"--resume {path} is no file of results ({error!r}); begin one with --json FILE") from error
    return found  # type: ignore[no-any-return]


def _machine() -> dict[str, str]:
    import gymnasium
    import stable_baselines3
    import torch

    versions = {"stable_baselines3": stable_baselines3.__version__, "torch": torch.__version__, "gymnasium": gymnasium.__version__}
    return {"machine": platform.machine(), "cores": str(os.cpu_count()), "python": platform.python_version(), **versions}


def learn(rows: list[tuple[str, Spec, Row]], seeds: range, alone: bool, results: Results) -> None:
    """All runs that are missing, row by row, ours and theirs in turns. A row whose packages are missing is left out, with a word."""
    from benchmarks.policy_runs import ours, theirs

    todo = [(name, spec, row, whose, seed) for name, spec, row in rows for seed in seeds for whose in _sides(row, seed - seeds[0], alone)]
    missing: set[str] = set()
    for place, (name, spec, row, whose, seed) in enumerate(todo, 1):
        if name in missing or (name, whose, seed) in results.done:
            continue
        say(f"{place} of {len(todo)}: {name}, {whose}, seed {seed}")
        try:
            run = ours(spec, seed) if whose == OURS else theirs(spec, row.counterpart, seed)
        except CallError as error:
            if len(rows) == 1:
                raise
            missing.add(name)
            say(f"left out: {error}")
            continue
        results.add(row=name, whose=whose, seed=seed, **asdict(run))
        reached = "reached" if run.reached else "not reached"
        say(f"  {reached} after {run.steps:,} steps and {run.seconds:.2f} CPU seconds, return {run.mean_return:.1f}")


def _sides(row: Row, place: int, alone: bool) -> tuple[str, ...]:
    beside = row.counterpart is not None and not alone and place < row.counterpart.seeds
    return (OURS, THEIRS) if beside else (OURS,)


def table(rows: list[tuple[str, Spec, Row]], results: Results) -> str:
    """Markdown: per row a line of ours and one of theirs, with a budget of environment steps.

    The ratio is of mean seconds on the seeds that both have. It is a bound where some didn't reach the threshold within their
    steps: > where those are theirs, < where they are ours.
    """
    from benchmarks.policy_runs import settings_of

    lines = [
        "| recipe | environment, return | learner | budget | reached | CPU seconds | environment steps | return | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, spec, row in rows:
        own, other = results.of(name, OURS), results.of(name, THEIRS)
        if not own:
            continue
        where = f"{spec.training.settings['environment']}, {spec.floor['mean_return']:g}"
        learner = f"{spec.training.recipe} | {settings_of(spec).steps:,}"
        lines.append(f"| `{name}` | {where} | {learner} | {_cells(own)} | {_ratio(own, other)} |")
        if other and row.counterpart is not None:
            lines.append(f"| | | {THEIRS} {row.counterpart.algorithm} | {row.counterpart.steps:,} | {_cells(other)} | |")
    return "\n".join(lines)


def _cells(runs: dict[int, dict[str, Any]]) -> str:
    reached = sum(run["reached"] for run in runs.values())
    seconds, steps, returns = ([run[key] for run in runs.values()] for key in ("seconds", "steps", "mean_return"))
    return f"{reached} of {len(runs)} | {_spread(seconds, 2)} | {_spread(steps, 0)} | {_spread(returns, 1)}"


def _spread(numbers: list[float], digits: int) -> str:
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return f"{statistics.mean(numbers):,.{digits}f} ± {deviation:,.{digits}f}"


def _ratio(own: dict[int, dict[str, Any]], other: dict[int, dict[str, Any]]) -> str:
    both = own.keys() & other.keys()
    if not both:
        return ""
    ratio = sum(other[seed]["seconds"] for seed in both) / sum(own[seed]["seconds"] for seed in both)
    ours_short, theirs_short = (not all(runs[seed]["reached"] for seed in both) for runs in (own, other))
    bound = "~" if ours_short and theirs_short else "<" * ours_short or ">" * theirs_short
    return f"{bound}{ratio:.1f}"


def picture(rows: list[tuple[str, Spec, Row]], results: Results, path: Path) -> None:
    """Processor seconds per row on a logarithmic axis: a bar for the mean, a dot per seed, hollow where the return wasn't reached."""
    from matplotlib.figure import Figure

    shown = [(name, whose) for name, _, _ in reversed(rows) for whose in (THEIRS, OURS) if results.of(name, whose)]
    figure = Figure(figsize=(9, 1.2 + 0.3 * len(shown)), layout="constrained")
    axes = figure.subplots()
    colours = {OURS: "#0072B2", THEIRS: "#E69F00"}
    place, places, names = 0.0, [], []
    for before, (name, whose) in zip([None, *shown], shown, strict=False):
        place += 1.0 if before and before[0] == name else 1.6
        runs = results.of(name, whose).values()
        seconds = [run["seconds"] for run in runs]
        label = whose if whose not in axes.get_legend_handles_labels()[1] else None
        axes.barh(place, statistics.mean(seconds), color=colours[whose], alpha=0.5, label=label)
        faces = [colours[whose] if run["reached"] else "white" for run in runs]
        axes.scatter(seconds, [place] * len(seconds), s=16, c=faces, edgecolors=colours[whose], zorder=3)
        if whose == OURS:
            places.append(place - 0.5 * bool(results.of(name, THEIRS)))
            names.append(name)
    axes.set_yticks(places, names)
    axes.set_xscale("log")
    axes.set_xlabel("CPU seconds until the return is reached; hollow: not within its steps")
    axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def rows_of(arguments: argparse.Namespace) -> list[tuple[str, Spec, Row]]:
    """The chosen rows with their specs, `--set` on top; with algorithm and environment one row of the recipe's own defaults."""
    overrides = {f"training.{key}": yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in arguments.set)}
    if arguments.every:
        overrides["training.screening_every"] = arguments.every
    if not arguments.algorithm:
        if arguments.threshold is not None or overrides:
            raise CallError("--threshold, --set and --every need a row of your own: marina bench rl ALGORITHM ENVIRONMENT --threshold N")
        found = chosen(arguments.only, arguments.quick)
        if not found:
            known = sorted({row.recipe for row in PLAN} | {row.spec.training.recipe for row in PLAN})
            raise CallError(f"--only {' '.join(arguments.only)}: no such row; known: {', '.join(known)}, and their environments")
        return [(row.recipe, row.spec, row) for row in found]
    if not arguments.environment or arguments.threshold is None:
        raise CallError("one row of your own needs an environment and a threshold: marina bench rl ppo CartPole-v1 --threshold 475")
    name = f"{arguments.algorithm} {arguments.environment}"
    training = {"recipe": arguments.algorithm, "environment": arguments.environment}
    text = yaml.safe_dump({"kind": "policy", "training": training, "floor": {"mean_return": arguments.threshold}})
    alike = {row.spec.training.settings["environment"]: row for row in reversed(chosen([arguments.algorithm], quick=False))}
    return [(name, parse(f"# {name}\n{text}", "own", name, overrides), alike.get(arguments.environment, Row(name)))]


def say(text: str) -> None:
    """A line beside the table."""
    print(text, file=sys.stderr, flush=True)


def main(words: list[str] | None = None) -> None:
    """Read the arguments (default: the command line's), learn in turns, print the table."""
    parser = argparse.ArgumentParser(prog="marina bench rl", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted({row.spec.training.recipe for row in PLAN})
    parser.add_argument("algorithm", nargs="?", choices=known, help="for one row of your own")
    parser.add_argument("environment", nargs="?")
    parser.add_argument("--threshold", type=float, help="the return to be reached in that row")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="settings of our recipe in that row")
    parser.add_argument("--every", type=int, help="environment steps between two looks in that row")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="rows by recipe, algorithm or environment; repeatable")
    parser.add_argument("--quick", action="store_true", help="a few rows, two seeds")
    parser.add_argument("--seeds", type=int, help="how many; 5, or 2 with --quick; 0 prints what --resume has")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help="without stable-baselines3")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what came out there, run by run")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="go on with a file of --json")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the processor time of every row, as FILE.png or .svg")
    arguments = parser.parse_args(words)
    try:
        rows = rows_of(arguments)
        results = Results(arguments.resume or arguments.json, resume=arguments.resume is not None)
        count = arguments.seeds if arguments.seeds is not None else 2 if arguments.quick else 5
        seeds = range(arguments.first_seed, arguments.first_seed + count)
        import torch

        torch.set_num_threads(1)
        try:
            learn(rows, seeds, arguments.alone, results)
        except KeyboardInterrupt:
            say("stopped; what follows is what there is")
        print(table(rows, results))
        if arguments.picture and results.done:
            picture(rows, results, arguments.picture)
    except MarinaError as error:
        say(f"error: {error}")
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
