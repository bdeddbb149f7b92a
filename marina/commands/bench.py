"""The command `bench`: the benchmarks of benchmarks/, by what they measure. Their own options follow."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from marina.commands.session import LOOK, Result, Session, command
from marina.core import paths
from marina.core.child_process import run_child
from marina.core.errors import CallError, WorkError
from marina.core.scratch import scratch_folder

Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the results there, as JSON.")]
STDERR = 2  # its file descriptor
RUNNER = paths.SOURCE / "benchmarks" / "__main__.py"
GRACE_SECONDS = 8.0  # for a benchmark to stop its server, after a signal
SUMMARIES = {  # of each command
    "serve": "Measure a served request: rate, latencies, CPU time and stages, beside the bare model.",
    "stop": "Count the accepted requests that each engine answers when it is stopped.",
    "scale": "Measure what more nodes of a Ray cluster serve, and what the cluster costs.",
    "generation": "Measure texts made token by token beside Hugging Face's transformers.",
    "images": "Add up the packages of the container images, with torch and without.",
    "decode": "Measure several ways from a JPEG to the model's input, and how far each is from Pillow's.",
    "data": "Measure training pictures from disk, beside torchvision's loaders.",
    "detect": "Measure a detector beside TorchServe's own object_detector handler.",
    "rl": "Measure the CPU time until policies reach their return, beside stable-baselines3.",
    "tables": "Measure regressors and classifiers of rows over folds, beside trees and ridge.",
    "rows": "Measure the memory and time that a million rows of a table take in training.",
    "series": "Measure forecasters and classifiers of signals over seeds, beside simple ways.",
    "sounds": "Measure classifiers of spoken digits with each speaker left out, beside an SVM.",
    "tensors": "Measure a request of named tensors beside the bare loop.",
    "texts": "Measure a request of a text beside the bare loop, and mixed lengths.",
    "steps": "Measure a step of a policy's training (environment, rollout, gradient) beside the leanest "
    "code.",
}
SCRIPTS = {  # in benchmarks/
    "serve": "serving.py",
    "stop": "shutdown.py",
    "scale": "scale.py",
    "generation": "generation.py",
    "images": "image_sizes.py",
    "decode": "decoding.py",
    "data": "data_loading.py",
    "detect": "detection.py",
    "rl": "policies.py",
    "tables": "tables.py",
    "rows": "table_rows.py",
    "series": "series.py",
    "sounds": "sounds.py",
    "tensors": "tensors.py",
    "texts": "texts.py",
    "steps": "policy_steps.py",
}
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer()
bench = typer.Typer(
    no_args_is_help=True,
    help="Measure a served request (serve), a stop under load (stop), more nodes of a cluster (scale), a "
    "detector (detect), the decoding of pictures (decode), the loading of training pictures (data), models "
    "of rows (tables), the memory that many rows take (rows), forecasts (series), requests of texts (texts) "
    "and of named tensors (tensors), texts that are made token by token (generation), the training of "
    "policies (rl) and its steps (steps), and the packages of the images (images). "
    "`marina bench serve --help` lists the options of serve.",
)
app.add_typer(bench, name="bench", rich_help_panel=LOOK)


def _add(name: str, script: str, summary: str) -> None:
    """Add the command `name`, which runs benchmarks/`script`."""

    @command(bench, name, help=summary, context_settings=PASS_ON)
    def measure(session: Session, context: typer.Context, out: Out = None) -> Result:
        return _run(script, context.args, out, session)


for _name, _script in SCRIPTS.items():
    _add(_name, _script, SUMMARIES[_name])


def _run(script_name: str, arguments: list[str], out: Path | None, session: Session) -> Result:
    """Run a benchmark; with --json its tables go to stderr, and its --out file is the result."""
    script = paths.SOURCE / "benchmarks" / script_name
    if not script.is_file():
        raise CallError(f"no {script}; benchmarks come with the repository, not with the installed package")
    with scratch_folder("marina-bench-") as folder:
        file = out or folder / "results.json"
        stdout = STDERR if session.output.as_json else None
        call = [sys.executable, str(RUNNER), str(script), *arguments, "--out", str(file)]
        code = run_child(call, GRACE_SECONDS, stdout=stdout).returncode
        if code != 0:
            raise WorkError(f"the benchmark ended with exit code {code}")
        # there is none after --help
        try:
            results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        except (ValueError, RecursionError) as error:
            raise WorkError(f"{file} holds no results of the benchmark: {error}") from error
    return {"ok": True, "results": results}
