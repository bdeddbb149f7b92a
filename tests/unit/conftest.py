"""Shared by several files of unit tests: models from elsewhere, and a home. What makes models is read
when it is asked for: that takes seconds.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.saved_policies import Imported


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A function of a user's own file, as a source; the file imports what lies beside it."""
    from tests.support.foreign_models import OWN

    for name in ("own", "neighbour"):  # another test's
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "neighbour.py").write_text("WIDTH = 32\n")
    return lambda function: f"{tmp_path / 'own.py'}:{function}"


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights have been downloaded, and there is no network to do so."""

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home that a module's tests share."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("MARINA_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    """Gymnasium knows the environments of `tests/support/saved_policies.py`."""
    from tests.support import toy_environments
    from tests.support.saved_policies import ENVIRONMENTS

    with toy_environments.registered(*ENVIRONMENTS):
        yield


@pytest.fixture(scope="module")
def imported(registered: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], "Imported"]:
    """The model of a case, trained for a few hundred steps, saved and imported once."""
    from tests.support.saved_policies import CASES, make

    known: dict[str, Imported] = {}

    def get(name: str) -> "Imported":
        if name not in known:
            known[name] = make(CASES[name], tmp_path_factory.mktemp(name))
        return known[name]

    return get


@pytest.fixture(scope="module")
def rcnn_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A user's own file with two-stage detectors."""
    from tests.support.two_stage_models import OWN

    file = tmp_path_factory.mktemp("own") / "rcnn.py"
    file.write_text(OWN)
    return str(file)


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures with discs and boards, and their outlines."""
    from tests.support.two_stage_models import people

    return people(tmp_path_factory.mktemp("data") / "discs")
