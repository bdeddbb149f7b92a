"""One live server of each engine with the built-in models, for all tests of this folder."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from marina import engines
from marina.client import Client
from marina.core.console import Output
from marina.core.spec import Spec
from marina.engines import server_process as server
from marina.pipeline import steps as up

# Ray comes as an extra, and takes half a minute to start
OF_RAY = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.skipif(not find_spec("ray"), reason="pip install marina[ray]"),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for an engine once on each, unless it names some itself; on Ray what takes a `client`,
    but not what starts a server of its own for a kind of model.
    """
    named = any(mark.args[0] == "engine" for mark in metafunc.definition.iter_markers("parametrize"))
    if "engine" in metafunc.fixturenames and not named:
        names = [name for name in engines.ENGINES if name != "ray" or "client" in metafunc.fixturenames]
        parameters = [pytest.param(name, marks=OF_RAY if name == "ray" else ()) for name in names]
        metafunc.parametrize("engine", parameters, indirect=True, scope="session")


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> str:
    """The name of an engine; see `pytest_generate_tests`."""
    return str(request.param)


@pytest.fixture(scope="module")
def default_engine(engine: str) -> Iterator[str]:
    """The engine, which commands that a test runs take too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARINA_ENGINE", engine)
        yield engine


@pytest.fixture(scope="session")
def client(built_in: list[Spec], engine: str) -> Iterator[Client]:
    """A client of a private server on free ports; the server is stopped by its process id, also after a
    failure.
    """
    port, output = server.free_port_base(), Output(as_json=True)
    with up.serving(built_in, port, output, engines.get(engine)) as ready:
        yield ready
