"""One live TorchServe with the built-in models, for all tests of this folder."""

from collections.abc import Iterator

import pytest

from marina import server, up
from marina.client import Client
from marina.console import Output
from marina.spec import Spec


@pytest.fixture(scope="session")
def client(built_in: list[Spec]) -> Iterator[Client]:
    """A client of a private server on free ports; the server is stopped by its process id, also after a failure."""
    with up.serving(built_in, server.free_port_base(), Output(as_json=True)) as ready:
        yield ready
