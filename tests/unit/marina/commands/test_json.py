"""With --json every command prints one JSON object as the last line of stdout, whether it succeeds or not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from marina import cli
from marina.core import paths
from marina.core.console import Output
from marina.core.spec import Spec
from marina.load import tuning
from marina.load.tuning import Trial
from marina.pipeline import importing, steps
from tests.support.every_command import COMMANDS

# command -> its words, and the exit code where no server runs
CASES: dict[str, tuple[list[str], int]] = {
    "up": (["nothing"], 2),
    "init": (["project"], 0),
    "data": (["nothing"], 2),
    "train": (["balance"], 0),
    "import": (["new", "--from", "torchvision:resnet18"], 0),
    "report": (["balance", "--out", "page.html"], 0),
    "archive": (["balance"], 0),
    "search": (["balance"], 2),
    "serve": (["nothing"], 2),
    "stop": ([], 0),
    "register": (["balance"], 1),
    "unregister": (["balance"], 1),
    "ready": (["balance"], 1),
    "list": ([], 1),
    "token": (["metrics"], 2),
    "predict": (["balance", "missing.json"], 2),
    "explain": (["balance", "missing.json"], 2),
    "play": (["nothing"], 2),
    "openapi": (["balance"], 0),
    "evaluate": (["balance", "--sampled"], 2),
    "loadtest": (["nothing"], 2),
    "tune": (["balance", "--write"], 0),
    "bench serve": (["--quick"], 0),
    "bench decode": ([], 0),
    "bench detect": ([], 0),
    "bench rl": ([], 0),
    "bench steps": ([], 0),
    "bench stop": ([], 0),
    "bench tables": ([], 0),
    "bench rows": ([], 0),
    "bench series": ([], 0),
    "bench tensors": ([], 0),
    "bench texts": ([], 0),
    "bench generation": ([], 0),
    "bench sounds": ([], 0),
    "bench scale": ([], 0),
    "bench data": ([], 0),
    "bench images": ([], 0),
    "release": (["balance", "--version", "1.0"], 1),
    "rollback": (["balance"], 1),
    "history": (["balance"], 0),
    "split": (["balance"], 2),
    "shadow": (["balance", "1.0"], 1),
    "cluster up": (["--port-base", "80"], 2),
    "cluster status": ([], 1),
    "cluster down": ([], 0),
    "cluster environment": (["--token", "missing"], 2),
}
BENCHMARK = """
import json, pathlib, sys
print("a table")
pathlib.Path(sys.argv[sys.argv.index("--out") + 1]).write_text(json.dumps([{"rate": 1}]))
"""


def test_every_command_is_in_the_table_and_takes_json() -> None:
    assert COMMANDS.keys() == CASES.keys()
    for command in COMMANDS.values():
        assert "--json" in [option for parameter in command.params for option in parameter.opts]


@pytest.mark.parametrize("name", CASES)
def test_json_is_one_object_and_the_last_line(
    name: str,
    exported: Callable[..., Spec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = exported()
    steps.pack(spec, Output(as_json=True))
    (tmp_path / "benchmarks").mkdir()
    for file in (paths.SOURCE / "benchmarks").glob("*.py"):
        (tmp_path / "benchmarks" / file.name).write_text(BENCHMARK)
    trial = Trial({"workers": 2, "threads": 1, "batch_size": 8, "max_batch_delay_ms": 1}, 1, 1, 1, 1, 0)
    if name.startswith("bench"):
        monkeypatch.setattr(paths, "SOURCE", tmp_path)
    monkeypatch.setattr(tuning, "tune", lambda *_: [trial])
    monkeypatch.setattr(steps, "train", lambda *_: None)
    monkeypatch.setattr(importing, "make_spec", lambda *_: (spec, False))
    monkeypatch.setattr(importing, "import_and_export", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    words, code = CASES[name]

    done = CliRunner().invoke(cli.app, [*name.split(), *words, "--json"], env={"MARINA_PORT_BASE": "1999"})

    assert done.exit_code == code, done.output
    *_, last = done.stdout.splitlines()
    assert done.stdout == last + "\n"
    content = json.loads(last)
    assert isinstance(content, dict)
    if name != "openapi":  # its object is the document
        assert content["ok"] is (code == 0)
    if name.startswith("bench"):
        assert content["results"] == [{"rate": 1}]
