"""Shared by all tests: the built-in models, trained once, and small models of a test's own."""

import logging
import shutil
import signal
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from marina.client import exchange
from marina.core.console import Output
from marina.core.signals import STOPPING
from marina.core.spec import Spec
from marina.pipeline import steps as up
from tests.support.repository import ROOT, SHARED_DATA
from tests.support.toy_exports import export_toy, write_spec
from tests.support.toy_policies import balance
from training.export.trained import Trained

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # it leaves version.txt open
    import ts  # noqa: F401

LONG = {"scenes"}  # the built-in models that learn for minutes: only slow tests have them


def pytest_configure() -> None:
    """Children of tests get the default handling of signals; a shell's background job ignores some."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is asked of a built-in model that learns for minutes is slow."""
    for item in items:
        called, fixtures = getattr(item, "callspec", None), getattr(item, "fixturenames", ())
        if called and "built_in" in fixtures and LONG & set(map(str, called.params.values())):
            item.add_marker(pytest.mark.slow)


def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Say where a process of xdist was interrupted, which it does not by itself."""
    print(excinfo.getrepr(style="short"), file=sys.__stderr__, flush=True)


class _Apart(LoadScopeScheduling):  # type: ignore[misc]
    """Files are shared out whole; those that start servers or use the built-in models stay in one process:
    two servers that look for free ports at the same time may find the same ones.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        alone = file.startswith(("tests/unit/", "tests/deploy/")) and "built_in: list" not in (
            ROOT / file
        ).read_text(encoding="utf-8")
        return file if alone else "home"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Used with `-n`."""
    return _Apart(config, log)


@pytest.fixture(autouse=True)
def log_left_on() -> Iterator[None]:
    """A test that left Marina's log off would fail others, which look for its warnings."""
    yield
    log = logging.getLogger("marina")
    assert log.isEnabledFor(logging.WARNING), "this test left logging off"
    assert log.propagate, "this test left the log without its handlers"


@pytest.fixture(autouse=True)
def signals_left_as_they_were() -> Iterator[None]:
    """A test that left a handler would raise a signal of its own in another."""
    before = [signal.getsignal(number) for number in STOPPING]
    yield
    assert [signal.getsignal(number) for number in STOPPING] == before, "this test left a signal's handler"


@pytest.fixture(scope="session")
def built_in(request: pytest.FixtureRequest) -> list[Spec]:
    """The built-in models, trained to their floors if that has not happened yet, and archived; those that
    learn for minutes only where a slow test runs.
    """
    is_slow = any(item.get_closest_marker("slow") for item in request.session.items)
    chosen = [one for one in up.choose([]) if is_slow or one.name not in LONG]
    up.prepare(chosen, Output(as_json=True))
    return chosen


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of one's own, in the place of the repository's."""
    monkeypatch.setenv("MARINA_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    return tmp_path


@pytest.fixture
def exported(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Spec]:
    """`export_toy` into the test's home; what a function of toy_policies.py makes is exported once, and
    copied for other tests.
    """

    def made(
        name: str = "balance",
        more: str = "",
        trained: Trained | Callable[[], Trained] = balance,
        version: str = "1.0",
    ) -> Spec:
        if isinstance(trained, Trained):
            return export_toy(home, name, more, trained, version)
        kept = (
            tmp_path_factory.getbasetemp()
            / f"{trained.__name__}-{name}-{version}-{zlib.crc32(more.encode()):08x}"
        )
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
    """Every test draws the same random numbers, whatever ran before; handlers set torch's threads, the
    next test gets the old number.
    """
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
    if not SHARED_DATA.is_dir():
        pytest.skip("no shared/data beside the repository")
    return SHARED_DATA
