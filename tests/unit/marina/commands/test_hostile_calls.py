"""Whatever a command is given: it ends, in bounded time, with exit code 0, 1 or 2 and words; no traceback.

Every command of the application is driven, with every parameter that it has.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from marina import cli
from marina.commands import bench
from marina.core import paths
from marina.core.console import Output
from marina.core.errors import ServerError, WorkError
from marina.core.spec import Spec
from marina.engines import supervisor
from marina.engines.ray.local_cluster import LocalCluster
from marina.engines.server_process import ServerProcess
from marina.packaging import stock_check
from marina.pipeline import steps
from tests.support import damaged_exports, hostile_files
from tests.support.every_command import COMMANDS
from training.policies.loops import learning
from training.runs import fitting

SECONDS = 60.0  # of one call on a busy machine

WORDS = ["", "-", "..", "/proc/none", "~nobody-here", "\udcff", "x" * 5000, "%s {0}*", "file.py:x", "timm:"]
NUMBERS = ["-1", "1e999", "nan", "9" * 30]
SETTINGS = [
    "",
    "=1",
    "a=[",
    "a=" + "[" * 5000,
    "a=&x [*x]",
    "a=!!python/name:os.system",
    "a=2020-99-99",
    "training=1",
    "training.recipe.x=1",
    "training.seed=1e999",
    "floor={mean_return: .nan}",
    "version=1",
    "serving.workers=x",
    "training.data={a: 1}",
    "a..b=1",
    "top_k=\udcff",
]
PAIRS = {"setting", "option", "header", "shares"}


@pytest.fixture
def archived(exported: Callable[..., Spec], home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An archived policy in the test's home; it is packed once, and copied for other tests."""
    spec, kept = exported(), tmp_path_factory.getbasetemp() / "hostile-model_store"
    if not kept.is_dir():
        steps.pack(spec, Output(as_json=True))
        shutil.copytree(spec.archive_path.parent, kept)
    shutil.copytree(kept, home / "model_store", dirs_exist_ok=True)


@pytest.fixture
def project(archived: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with an archived policy and the spec of a classifier; no call in it starts a server or learns
    anything.
    """

    def refuse(error: Exception) -> Callable[..., Any]:
        def raises(*_: Any, **__: Any) -> Any:
            raise error

        return raises

    folder = tmp_path / "inner" / "folder"  # what is written to its parents stays in the test's own
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    (tmp_path / "models" / "pictures.yaml").write_text(
        "# Reads.\nkind: classifier\ntraining: {recipe: classifier, epochs: 1}\nfloor: {accuracy: 0}\n"
    )
    (folder / "file.json").write_text('{"observation": [0, 0, 0, 0]}')
    (tmp_path / "benchmarks").mkdir()
    for file in (paths.SOURCE / "benchmarks").glob("*.py"):
        (tmp_path / "benchmarks" / file.name).write_text("")
    monkeypatch.setattr(ServerProcess, "start", refuse(ServerError("no server in this test")))
    monkeypatch.setattr(LocalCluster, "start", refuse(ServerError("no cluster in this test")))
    monkeypatch.setattr(supervisor, "detach", refuse(ServerError("no server in this test")))
    monkeypatch.setattr(stock_check, "check", refuse(WorkError("no installation in this test")))
    monkeypatch.setattr(learning, "learn", refuse(WorkError("no training in this test")))
    monkeypatch.setattr("training.train.export", refuse(WorkError("no export in this test")))
    monkeypatch.setattr(bench, "paths", SimpleNamespace(SOURCE=tmp_path))
    monkeypatch.setattr(fitting, "fit", refuse(WorkError("no training in this test")))
    monkeypatch.setenv("MARINA_PORT_BASE", "1999")
    monkeypatch.chdir(folder)
    return tmp_path


def sane(name: str, parameter: Any) -> list[str]:
    """What a required parameter gets beside the one that is tried."""
    values = {"names": "balance", "name": "balance", "file": "file.json", "source": "torchvision:resnet18"}
    value = {**values, "version": "1.0"}.get(parameter.name, "x")
    if name == "import" and parameter.name == "name":
        value = "new"
    return [value] if parameter.param_type_name == "argument" else [parameter.opts[0], value]


def calls(name: str) -> Iterator[list[str]]:
    """The words of each hostile value of each parameter of a command."""
    command = COMMANDS[name]
    required = [parameter for parameter in command.params if parameter.required]
    for parameter in command.params:
        if getattr(parameter, "is_flag", False):
            continue
        values = SETTINGS if parameter.name in PAIRS else [*WORDS, *NUMBERS]
        for value in values:
            words = [word for other in required if other is not parameter for word in sane(name, other)]
            if parameter.param_type_name == "argument":
                yield [*words, "--", value]
            else:
                yield [*words, f"{parameter.opts[0]}={value}"]


def problem(name: str, words: list[str]) -> str:
    """Run a command; in which way it does not end as it should, empty where it does."""
    started = time.monotonic()
    done = CliRunner().invoke(cli.app, [*name.split(), "--json", *words])
    seconds = time.monotonic() - started
    *_, last = done.stdout.splitlines() or [""]
    faults = {
        f"exit code {done.exit_code}": done.exit_code not in (0, 1, 2),
        "not foreseen": "not foreseen" in done.stderr,
        "a traceback": "Traceback" in done.stderr,
        f"raised {done.exception!r}": not isinstance(done.exception, SystemExit | None),
        f"{last[:80]!r} is no object": not last.startswith("{") or not isinstance(json.loads(last), dict),
        "no words": done.exit_code != 0 and len(done.stderr.strip()) < 10,
        f"{seconds:.0f} s": seconds > SECONDS,
    }
    found = ", ".join(fault for fault, is_there in faults.items() if is_there)
    shown = [word[:80] for word in words]
    return f"{name} {shown}: {found}\n{done.stderr[-800:]}\n{_newest_report()}" if found else ""


def _newest_report() -> str:
    files = sorted(paths.errors().glob("*.txt")) if paths.errors().is_dir() else []
    return files[-1].read_text()[-3000:] if files else ""


@pytest.mark.parametrize("name", COMMANDS)
def test_hostile_words(name: str, project: Path) -> None:
    problems = [problem(name, words) for words in calls(name)]

    assert not any(problems), "\n".join(filter(None, problems))


FILES = {  # command -> its words, with FILE in the place of a file or folder
    "train": [["pictures", "--data", "FILE"], ["pictures", "--set", "training.weights=FILE"]],
    "import": [
        ["new", "--from", "FILE"],
        ["new", "--from", "FILE:f"],
        ["new", "--from", "torchvision:resnet18", "--weights", "FILE"],
        ["new", "--from", "torchvision:resnet18", "--weights", "FILE", "--trust-pickle"],
        ["new", "--from", "torchvision:resnet18", "--classes", "FILE"],
        ["new", "--from", "torchvision:resnet18", "--data", "FILE"],
    ],
    "report": [["balance", "--out", "FILE"]],
    "predict": [["balance", "FILE"], ["balance", "file.json", "--draw", "FILE"]],
    "explain": [["balance", "FILE"], ["balance", "file.json", "--draw", "FILE"]],
    "play": [["balance", "--gif", "FILE"], ["balance", "--mp4", "FILE"]],
    "openapi": [["balance", "--output", "FILE"]],
    "evaluate": [["pictures", "--data", "FILE"]],
    "loadtest": [["balance", "--report", "FILE"]],
    "tune": [["balance", "--picture", "FILE"]],
    "search": [["balance", "--out", "FILE"]],
    "init": [["FILE"]],
    "bench serve": [["--out", "FILE"]],
}
SUFFIXES = {"import": (".pth", ".pt2", ".zip", ".safetensors", ".py"), "predict": (".json", ".png")}


@pytest.mark.slow
@pytest.mark.parametrize("file", hostile_files.NAMES)
@pytest.mark.parametrize("name", FILES)
def test_hostile_files(name: str, file: str, project: Path) -> None:
    problems = []
    for suffix in SUFFIXES.get(name, (".json",)):
        for number, words in enumerate(FILES[name]):
            path = hostile_files.write(file, project / "hostile" / f"{number}{suffix}")
            problems.append(problem(name, [word.replace("FILE", str(path)) for word in words]))

    assert not any(problems), "\n".join(filter(None, problems))


PLACES = [
    "models/balance.yaml",
    "models/other model.yaml",
    "models",
    "model_store/other-x.mar",
    "releases/balance.yaml",
    "releases",
    "run/1999/state.json",
    "run/1999/split/split.yaml",
    "run",
    "cache",
    "marina.yaml",
    "kinds/own/predictor.py",
    "kinds/own/kind.py",
]
TRIED = 1  # hostile files of each command in each place
# these read no export and no archive
WITHOUT_MODELS = {"init", "import", "token", "stop", *(name for name in COMMANDS if "bench" in name)}
MORE = {"release": ["--version", "1.0"], "train": ["--set", "training.seed=3"], "token": ["metrics"]}


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_hostile_projects(place: str, project: Path) -> None:
    """A file of the project is something else, as if it were damaged or somebody else's."""
    path = project / place
    problems = []
    for index, name in enumerate(COMMANDS):
        for turn in range(TRIED):
            file = hostile_files.NAMES[(index * TRIED + turn) % len(hostile_files.NAMES)]
            _remove(path)
            hostile_files.write(file, path)
            required = [parameter for parameter in COMMANDS[name].params if parameter.required]
            words = [word for parameter in required for word in sane(name, parameter)]
            problems.append(
                f"{file}: {told}" if (told := problem(name, [*words, *MORE.get(name, [])])) else ""
            )

    assert not any(problems), "\n".join(filter(None, problems))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in WITHOUT_MODELS])
def test_damaged_exports(name: str, project: Path) -> None:
    """An export is cut off, changed, or another thing, also where its checksums say that it is right."""
    problems = damaged(name, project / "exports/balance/1.0", damaged_exports.EXPORTS)

    assert not any(problems), "\n".join(filter(None, problems))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in WITHOUT_MODELS])
def test_damaged_archives(name: str, project: Path) -> None:
    """An archive is cut off, changed, another thing, or one that leads out of its folder."""
    problems = damaged(name, project / "model_store/balance-1.0.mar", damaged_exports.ARCHIVES)

    assert not any(problems), "\n".join(filter(None, problems))
    assert not (project.parent / "out").exists()


def damaged(name: str, path: Path, damages: dict[str, damaged_exports.Damage]) -> list[str]:
    """The problems of a command with a third of these damages; another command has the next ones."""
    sound = path.with_name("sound")
    path.rename(sound)
    copy = shutil.copytree if sound.is_dir() else shutil.copy2
    required = [parameter for parameter in COMMANDS[name].params if parameter.required]
    words = [word for parameter in required for word in sane(name, parameter)] + MORE.get(name, [])
    problems = []
    for damage, do in list(damages.items())[[*COMMANDS].index(name) % 3 :: 3]:
        _remove(path)
        copy(sound, path)
        do(path)
        told = problem(name, words)
        problems.append(f"{damage}: {told}" if told else "")
    return problems


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
