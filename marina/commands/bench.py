"""The command `bench`: the benchmarks of benchmarks/, by what they measure. Their own options follow."""

import subprocess
import sys

import typer

from marina import paths
from marina.command import guarded
from marina.errors import CallError, WorkError

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer()
bench = typer.Typer(
    no_args_is_help=True,
    help="Measure: a served request (serve), a detected picture (detect), a picture's decoding (decode), policies' training (rl) "
    "and its steps (steps). `--help` behind it lists its options.",
)
app.add_typer(bench, name="bench", rich_help_panel="Look")


@bench.command(context_settings=PASSED_ON)
@guarded
def serve(context: typer.Context) -> None:
    """What a served request costs: rate, latencies, processor time and stages, beside the bare loop."""
    _run("serving", context.args)


@bench.command(context_settings=PASSED_ON)
@guarded
def decode(context: typer.Context) -> None:
    """What a JPEG costs on its way to the graph, by several paths, and how far each is from Pillow's."""
    _run("decoding", context.args)


@bench.command(context_settings=PASSED_ON)
@guarded
def detect(context: typer.Context) -> None:
    """What a detected picture costs, beside TorchServe's own object_detector handler."""
    _run("detection", context.args)


@bench.command(context_settings=PASSED_ON)
@guarded
def rl(context: typer.Context) -> None:
    """Processor time until policies reach their return, beside stable-baselines3: all recipes, some of them, or a row of your own."""
    _run("policies", context.args)


@bench.command(context_settings=PASSED_ON)
@guarded
def steps(context: typer.Context) -> None:
    """What a step of a policy's training costs (environment, rollout, gradient) beside the leanest code for each case."""
    _run("policy_steps", context.args)


def _run(name: str, arguments: list[str]) -> None:
    file = paths.SOURCE / "benchmarks" / f"{name}.py"
    if not file.is_file():
        raise CallError(f"no {file}; benchmarks come with the repository, not with the installed package")
    code = subprocess.run([sys.executable, str(file), *arguments], check=False).returncode
    if code != 0:
        raise WorkError(f"the benchmark ended with exit code {code}")
