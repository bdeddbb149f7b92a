"""Shared by all tests: the built-in models, trained once, and small models of a test's own."""

import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

import marina  # noqa: F401  # puts handlers/ on the path
from marina import paths, spec, up
from marina.client import exchange
from marina.console import Output
from marina.spec import Spec
from tests.toy_policies import balance
from training.export import export
from training.trained import Trained

BUILT_IN = spec.names()


class _Apart(LoadScopeScheduling):  # type: ignore[misc]
    """Files are shared out whole; those that use the built-in models or the repository's own home stay in one process."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        alone = file.startswith(("tests/unit/", "tests/deploy/")) and "built_in: list" not in (paths.SOURCE / file).read_text(
            encoding="utf-8"
        )
        return file if alone else "home"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Used with `-n`."""
    return _Apart(config, log)


@pytest.fixture(scope="session")
def built_in() -> list[Spec]:
    """The built-in models, trained to their floors if that has not happened yet, and archived."""
    chosen = up.choose([])
    up.prepare(chosen, Output(as_json=True))
    return chosen


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of one's own, in the place of the repository's."""
    monkeypatch.setenv("MARINA_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    return tmp_path


SPEC = "# Pushes to where the pole falls.\nkind: policy\ntraining: {recipe: dqn}\nfloor: {mean_return: 50}\n"


def write_spec(home: Path, name: str = "balance", more: str = "", version: str = "1.0") -> Spec:
    """The toy's spec, in `home`."""
    (home / "models").mkdir(exist_ok=True)
    (home / "models" / f"{name}.yaml").write_text(f'{SPEC}version: "{version}"\n{more}', encoding="utf-8")
    return spec.load(name)


def export_toy(home: Path, name: str = "balance", more: str = "", trained: Trained | None = None, version: str = "1.0") -> Spec:
    """Write a spec and its export into `home` (which MARINA_HOME names), as training would have left them."""
    one = write_spec(home, name, more, version)
    folder = one.export_dir.parent / ".making"
    (folder / "report").mkdir(parents=True)
    export(one, trained or balance(), folder)
    return one


@pytest.fixture
def exported(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Spec]:
    """`export_toy` into the test's home; what a function of toy_policies.py makes is exported once, and copied for other tests."""

    def made(name: str = "balance", more: str = "", trained: Trained | Callable[[], Trained] = balance, version: str = "1.0") -> Spec:
        if isinstance(trained, Trained):
            return export_toy(home, name, more, trained, version)
        kept = tmp_path_factory.getbasetemp() / f"{trained.__name__}-{name}-{version}-{zlib.crc32(more.encode()):08x}"
        if kept.is_dir():
            one = write_spec(home, name, more, version)
            shutil.copytree(kept, one.export_dir)
        else:
            one = export_toy(home, name, more, trained(), version)
            shutil.copytree(one.export_dir, kept)
        return one

    return made


@pytest.fixture(autouse=True)
def _as_if_alone() -> Iterator[None]:
    """Every test draws the same random numbers, whatever ran before; handlers set torch's threads, the next test gets the old number."""
    torch.manual_seed(0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients wait a tenth between their tries of what they wait elsewhere."""
    monkeypatch.setattr(exchange, "BASE_SECONDS", exchange.BASE_SECONDS / 10)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets beside the repository; tests that use them are skipped without."""
    folder = paths.SOURCE.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no shared/data beside the repository")
    return folder
