"""Shared by several files of unit tests: models from elsewhere. What makes them is read when it is asked for: that takes seconds."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium
import pytest

if TYPE_CHECKING:
    from tests.saved_policies import Imported


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A function of a user's own file, as a source; the file imports what lies beside it."""
    from tests.foreign_models import OWN

    for name in ("own", "neighbour"):  # another test's
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "neighbour.py").write_text("WIDTH = 32\n")
    return lambda function: f"{tmp_path / 'own.py'}:{function}"


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    """Gymnasium knows the environments of `tests/saved_policies.py`."""
    from tests.saved_policies import ENVIRONMENTS

    with pytest.MonkeyPatch.context() as patch:
        for kind in ENVIRONMENTS:
            spec = gymnasium.envs.registration.EnvSpec(f"{kind.__name__}-v0", entry_point=kind)
            patch.setitem(gymnasium.registry, spec.id, spec)
        yield


@pytest.fixture(scope="module")
def imported(registered: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], "Imported"]:
    """The model of a case, trained for a few hundred steps, saved and imported once."""
    from tests.saved_policies import CASES, make

    known: dict[str, Imported] = {}

    def get(name: str) -> "Imported":
        if name not in known:
            known[name] = make(CASES[name], tmp_path_factory.mktemp(name))
        return known[name]

    return get


@pytest.fixture(scope="module")
def rcnn_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A user's own file with two-stage detectors."""
    from tests.two_stage_models import OWN

    file = tmp_path_factory.mktemp("own") / "rcnn.py"
    file.write_text(OWN)
    return str(file)


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures with discs and boards, and their outlines."""
    from tests.two_stage_models import people

    return people(tmp_path_factory.mktemp("data") / "discs")
