"""Weights that are fetched: a server that says nothing, and one that never ends, are left in time."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from marina.core.errors import CallError
from training.imports import fetching
from training.imports.fetching import fetched

Trick = Callable[[socket.socket], None]


def says_nothing(connection: socket.socket) -> None:
    time.sleep(5)


def never_ends(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where a server listens that does the trick of the test."""

    def serve() -> None:
        try:
            connection, _ = listening.accept()
            with connection:
                request.param(connection)
        except OSError:
            return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/weights.pth"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (says_nothing, "can't be had: .*timed out"),
        (never_ends, "had not come after 1 s. Offline, put the file weights.pth into"),
    ],
    indirect=["address"],
)
def test_a_download_ends_in_time(
    address: str, words: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetching, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(fetching, "DOWNLOAD_SECONDS", 1.0)
    weights = SimpleNamespace(name="V1", url=address)

    def build() -> nn.Module:
        torch.hub.load_state_dict_from_url(address, progress=False)
        return nn.Identity()

    with pytest.raises(CallError, match=words):
        fetched(build, weights, "resnet")

    assert socket.getdefaulttimeout() is None
