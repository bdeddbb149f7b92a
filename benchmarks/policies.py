"""Measures the processor time until a policy reaches its return, beside stable-baselines3 on the same core.

    marina bench rl                          all recipes of the plan, five seeds each: hours
    marina bench rl --quick                  a few of them, two seeds: minutes
    marina bench rl --only ppo --only Pendulum-v1 --out FILE
    marina bench rl --resume FILE            resumes, and prints the table
    marina bench rl ppo CartPole-v1 --threshold 475 --set gae_lambda=0.95     one row of your own

Every run trains until 100 episodes without exploration have the mean return of the recipe's floor, evaluated
every `eval_freq` environment steps; evaluation time doesn't count. Both take turns, so that other load on the
machine affects both. For stable-baselines3 the settings are those of rl-baselines3-zoo
(benchmarks/policy_plan.py).
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

from benchmarks.policy_plan import PLAN, Row, select_rows
from marina.core.errors import CallError, MarinaError
from marina.core.files import write_atomic
from marina.core.spec import Spec, parse

OURS, THEIRS = "ours", "stable-baselines3"
Done = dict[tuple[str, str, int], dict[str, Any]]  # (row, whose, seed) -> result


class Results:
    """The runs so far, in a file that is replaced after every run; without one only in memory."""

    def __init__(self, path: Path | None, resume: bool) -> None:
        self.path, self.done = path, Done()
        if path is None:
            return
        if resume:
            self.done = {(run["row"], run["whose"], run["seed"]): run for run in _read(path)["runs"]}
        elif path.exists():
            raise CallError(f"{path} exists; resume it with --resume {path}, or name another file")

    def add(self, **run: Any) -> None:
        """Add a run."""
        self.done[run["row"], run["whose"], run["seed"]] = run
        if self.path is not None:
            self.write(self.path)

    def write(self, path: Path) -> None:
        """Write all runs to `path`."""
        content = {**_machine(), "runs": [*self.done.values()]}
        write_atomic(path, json.dumps(content, indent=1) + "\n")

    def of(self, row: str, whose: str) -> dict[int, dict[str, Any]]:
        """The runs of one line of the table, by their seed."""
        return {
            seed: run for (name, who, seed), run in sorted(self.done.items()) if (name, who) == (row, whose)
        }


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        assert all({"row", "whose", "seed", "seconds"} <= run.keys() for run in content["runs"])
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise CallError(
            f"--resume {path} is no file of results ({error!r}); begin one with --out FILE"
        ) from error
    return content  # type: ignore[no-any-return]


def _machine() -> dict[str, str]:
    import gymnasium
    import stable_baselines3
    import torch

    versions = {
        "stable_baselines3": stable_baselines3.__version__,
        "torch": torch.__version__,
        "gymnasium": gymnasium.__version__,
    }
    return {
        "machine": platform.machine(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        **versions,
    }


def learn(rows: list[tuple[str, Spec, Row]], seeds: range, alone: bool, results: Results) -> None:
    """Do all missing runs, row by row, ours and theirs in turns.

    A row whose packages are missing is left out, with a message.
    """
    from benchmarks.policy_runs import ours, theirs

    todo = [
        (name, spec, row, whose, seed)
        for name, spec, row in rows
        for seed in seeds
        for whose in _sides(row, seed - seeds[0], alone)
    ]
    missing: set[str] = set()
    for place, (name, spec, row, whose, seed) in enumerate(todo, 1):
        if name in missing or (name, whose, seed) in results.done:
            continue
        say(f"{place} of {len(todo)}: {name}, {whose}, seed {seed}")
        try:
            if whose == OURS:
                run = ours(spec, seed)
            else:
                assert row.counterpart is not None
                run = theirs(spec, row.counterpart, seed)
        except CallError as error:
            if len(rows) == 1:
                raise
            missing.add(name)
            say(f"left out: {error}")
            continue
        results.add(row=name, whose=whose, seed=seed, **asdict(run))
        reached = "reached" if run.reached else "not reached"
        say(
            f"  {reached} after {run.steps:,} steps and {run.seconds:.2f} CPU seconds, return "
            f"{run.mean_return:.1f}"
        )


def _sides(row: Row, place: int, alone: bool) -> tuple[str, ...]:
    beside = row.counterpart is not None and not alone and place < row.counterpart.seeds
    return (OURS, THEIRS) if beside else (OURS,)


def table(rows: list[tuple[str, Spec, Row]], results: Results) -> str:
    """Markdown: per row a line of ours and one of theirs, with a budget of environment steps.

    The ratio is of mean seconds on the seeds that both have. It is a bound where some didn't reach the
    threshold within their steps: > where those are theirs, < where they are ours.
    """
    from benchmarks.policy_runs import settings_of

    lines = [
        "| recipe | environment, return | learner | budget | reached | CPU seconds | environment steps | "
        "return | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, spec, row in rows:
        own, other = results.of(name, OURS), results.of(name, THEIRS)
        if not own:
            continue
        where = f"{spec.training.settings['environment']}, {spec.floor['mean_return']:g}"
        learner = f"{spec.training.recipe} | {settings_of(spec).total_timesteps:,}"
        lines.append(f"| `{name}` | {where} | {learner} | {_cells(own)} | {_ratio(own, other)} |")
        if other and row.counterpart is not None:
            lines.append(
                f"| | | {THEIRS} {row.counterpart.algorithm} | {row.counterpart.steps:,} | "
                f"{_cells(other)} | |"
            )
    return "\n".join(lines)


def _cells(runs: dict[int, dict[str, Any]]) -> str:
    reached = sum(run["reached"] for run in runs.values())
    seconds, steps, returns = (
        [run[key] for run in runs.values()] for key in ("seconds", "steps", "mean_return")
    )
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
    """Plot processor seconds per row on a logarithmic axis.

    A bar is the mean, a dot a seed, hollow if the return wasn't reached.
    """
    from matplotlib.figure import Figure

    shown = [
        (name, whose) for name, _, _ in reversed(rows) for whose in (THEIRS, OURS) if results.of(name, whose)
    ]
    figure = Figure(figsize=(9, 1.2 + 0.3 * len(shown)), layout="constrained")
    axes = figure.subplots()
    colors = {OURS: "#0072B2", THEIRS: "#E69F00"}
    place, places, names = 0.0, [], []
    for before, (name, whose) in zip([None, *shown], shown, strict=False):
        place += 1.0 if before and before[0] == name else 1.6
        runs = results.of(name, whose).values()
        seconds = [run["seconds"] for run in runs]
        label = whose if whose not in axes.get_legend_handles_labels()[1] else None
        axes.barh(place, statistics.mean(seconds), color=colors[whose], alpha=0.5, label=label)
        faces = [colors[whose] if run["reached"] else "white" for run in runs]
        axes.scatter(seconds, [place] * len(seconds), s=16, c=faces, edgecolors=colors[whose], zorder=3)
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
    """The selected rows with their specs, `--set` on top.

    With an algorithm and an environment it is one row of the recipe's defaults.
    """
    overrides = {
        f"training.{key}": yaml.safe_load(value)
        for key, _, value in (pair.partition("=") for pair in arguments.set)
    }
    if arguments.every:
        overrides["training.eval_freq"] = arguments.every
    if not arguments.algorithm:
        if arguments.threshold is not None or overrides:
            raise CallError(
                "--threshold, --set and --every need a row of your own: marina bench rl ALGORITHM "
                "ENVIRONMENT --threshold N"
            )
        selected = select_rows(arguments.only, arguments.quick)
        if not selected:
            known = sorted({row.recipe for row in PLAN} | {row.spec.training.recipe for row in PLAN})
            raise CallError(
                f"--only {' '.join(arguments.only)}: no such row; known: {', '.join(known)}, and their "
                "environments"
            )
        return [(row.recipe, row.spec, row) for row in selected]
    return [_own_row(arguments, overrides)]


def _own_row(arguments: argparse.Namespace, overrides: dict[str, Any]) -> tuple[str, Spec, Row]:
    """One row of the recipe's defaults; the counterpart is that of the plan, if it has one."""
    if not arguments.environment or arguments.threshold is None:
        raise CallError(
            "one row of your own needs an environment and a threshold: marina bench rl ppo CartPole-v1 "
            "--threshold 475"
        )
    name = f"{arguments.algorithm} {arguments.environment}"
    training = {"recipe": arguments.algorithm, "environment": arguments.environment}
    text = yaml.safe_dump(
        {"kind": "policy", "training": training, "floor": {"mean_return": arguments.threshold}}
    )
    planned = {
        row.spec.training.settings["environment"]: row
        for row in reversed(select_rows([arguments.algorithm], quick=False))
    }
    spec = parse(f"# {name}\n{text}", "own", name, overrides)
    return name, spec, planned.get(arguments.environment, Row(name))


def say(text: str) -> None:
    """A line beside the table."""
    print(text, file=sys.stderr, flush=True)


def build_parser() -> argparse.ArgumentParser:
    """The options of `marina bench rl`."""
    parser = argparse.ArgumentParser(
        prog="marina bench rl", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = sorted({row.spec.training.recipe for row in PLAN})
    parser.add_argument("algorithm", nargs="?", choices=known, help="for one row of your own")
    parser.add_argument("environment", nargs="?")
    parser.add_argument("--threshold", type=float, help="the return to be reached in that row")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="key=value", help="settings of our recipe in that row"
    )
    parser.add_argument("--every", type=int, help="environment steps between two looks in that row")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="rows by recipe, algorithm or environment; repeatable",
    )
    parser.add_argument("--quick", action="store_true", help="a few rows, two seeds")
    parser.add_argument(
        "--seeds", type=int, help="how many; 5, or 2 with --quick; 0 prints what --resume has"
    )
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help="without stable-baselines3")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the results there, run by run, as JSON"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="continue with the results of an earlier --out"
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="draw the processor time of every row, as FILE.png or .svg",
    )
    return parser


def main(words: list[str] | None = None) -> None:
    """Read the arguments (default: the command line's), train in turns, print the table."""
    arguments = build_parser().parse_args(words)
    try:
        rows = rows_of(arguments)
        results = Results(arguments.resume or arguments.out, resume=arguments.resume is not None)
        count = arguments.seeds if arguments.seeds is not None else 2 if arguments.quick else 5
        seeds = range(arguments.first_seed, arguments.first_seed + count)
        import torch

        torch.set_num_threads(1)
        try:
            learn(rows, seeds, arguments.alone, results)
        except KeyboardInterrupt:
            say("stopped; what follows is what there is")
        print(table(rows, results))
        if arguments.out:
            results.write(arguments.out)
        if arguments.picture and results.done:
            picture(rows, results, arguments.picture)
    except MarinaError as error:
        say(f"error: {error}")
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
