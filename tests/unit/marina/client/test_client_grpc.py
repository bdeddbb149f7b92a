"""The client of the gRPC API: its bytes, and the same rules as over HTTP."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from marina.client import grpc_client, wire
from marina.client.grpc_client import GrpcClient
from marina.core import paths
from marina.core.errors import CallError, RequestError, RequestRefused, ServerFault, ServerUnavailable
from tests.support.misbehaving_server import free_port

pytestmark = pytest.mark.usefixtures("quick_retries")


def test_a_grpc_request_has_the_bytes_of_torchserves_message() -> None:
    body = b"\x1a\xd1\x01" + b"\x0a\x04data" + b"\x12\xc8\x01" + b"x" * 200

    plain = grpc_client.request_message(wire.predict_call("m", b"x" * 200, "1.0"))
    assert plain.SerializeToString() == b"\x0a\x01m" + b"\x12\x031.0" + body

    with_options = grpc_client.request_message(wire.predict_call("m", b"x" * 200, options={"top_k": 3}))
    assert with_options.input == {"top_k": b"3", "data": b"x" * 200}
    assert with_options.model_version == ""


def test_a_grpc_response_is_read_among_unknown_fields() -> None:
    others = b"\x10\x96\x01" + b"\x1d1234" + b"\x2112345678" + b"\x2a\x02ab"

    response = others + b"\x0a\xac\x02" + b"y" * 300 + others
    assert grpc_client.reply_from(response) == wire.Reply(200, {}, b"y" * 300)
    assert grpc_client.reply_from(b"") == wire.Reply(200, {}, b"")
    for broken in (b"\x0a", b"\x0a\x05ab", b"\xff" * 12, b"\x0b", b"\x1d12"):
        reply = grpc_client.reply_from(broken)
        assert isinstance(reply, wire.NoResponse)
        assert reply.how == "broken"


def test_the_generated_messages_are_those_of_the_proto_files(tmp_path: Path) -> None:
    """After an edit of a .proto file: make proto."""
    folder = paths.SOURCE / "marina/third_party"
    files = sorted(map(str, folder.glob("*.proto")))
    call = ["-m", "grpc_tools.protoc", f"--proto_path={paths.SOURCE}", *files]
    subprocess.run([sys.executable, *call, f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"], check=True)

    generated = sorted((tmp_path / "marina/third_party").iterdir())
    assert len(generated) == 2 * len(files) > 0
    for module in generated:
        assert (folder / module.name).read_text() == module.read_text()


@contextmanager
def grpc_serving(*tricks: tuple[str, str] | bytes) -> Iterator[tuple[GrpcClient, list[bytes]]]:
    """A gRPC server that answers with bytes, or with (status, details); the last of them for ever."""
    import grpc

    left, arrived = list(tricks), list[bytes]()

    def predictions(request: bytes, context: Any) -> bytes:
        arrived.append(request)
        trick = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(trick, bytes):
            return trick
        if trick[0] == "silent":
            time.sleep(float(trick[1]))
            return b""
        return context.abort(getattr(grpc.StatusCode, trick[0]), trick[1])

    service, method = grpc_client.METHOD.strip("/").split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(predictions)}
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with GrpcClient(target=f"127.0.0.1:{port}", token="t", timeout=0.5) as client:
        yield client, arrived
    server.stop(None).wait()


GOOD = b'\x0a\x0d{"fine":true}'
JAVA = "\norg.pytorch.serve.http."


@pytest.mark.parametrize(
    ("trick", "kind", "status", "times"),
    [
        (("INTERNAL", f"Worker died.{JAVA}InternalServerException"), None, 200, 2),
        (
            (
                "INTERNAL",
                'Model "m" has no worker to serve inference request. Please\nInternalServerException.()',
            ),
            None,
            200,
            2,
        ),
        (("INTERNAL", f"Out of resources{JAVA}InternalServerException"), None, 200, 2),
        (("UNAVAILABLE", "Socket closed"), None, 200, 2),
        (("UNAVAILABLE", f"Prediction failed{JAVA}InternalServerException"), ServerFault, 503, 1),
        (
            ("INTERNAL", "Model not found: m\norg.pytorch.serve.archive.model.ModelNotFoundException"),
            RequestRefused,
            404,
            1,
        ),
        (("PERMISSION_DENIED", "Token Authorization failed."), RequestRefused, 400, 1),
        (("CANCELLED", ""), RequestRefused, 413, 1),
        (("UNKNOWN", "what"), ServerFault, 500, 1),
        (("silent", "1"), ServerUnavailable, 0, 1),
        (
            b'\x0a\x40{"code":400,"type":"BadRequest","message":"no","request_id":"a"}',
            RequestRefused,
            400,
            1,
        ),
        (b"\x0a\xff", ServerUnavailable, 0, 4),
    ],
    ids=[
        "died",
        "full",
        "memory",
        "broken",
        "failed",
        "unknown",
        "token",
        "too large",
        "other",
        "late",
        "refusal",
        "garbage",
    ],
)
def test_over_grpc_the_same_rules_and_errors_hold(
    trick: Any, kind: type[RequestError] | None, status: int, times: int
) -> None:
    with grpc_serving(trick, *([GOOD] if kind is not ServerUnavailable else [])) as (client, arrived):
        if kind is None:
            assert client.predict("m", [1]) == {"fine": True}
        else:
            with pytest.raises(kind) as caught:
                client.predict("m", [1])
            assert (type(caught.value), caught.value.status) == (kind, status)

        assert len(arrived) == times


def test_a_grpc_server_that_is_not_there_is_named() -> None:
    target = f"127.0.0.1:{free_port()}"
    with (
        GrpcClient(target=target, token="t") as client,
        pytest.raises(ServerUnavailable, match=f"grpc://{target}/predictions/m: no connection"),
    ):
        client.predict("m", [1])


def test_without_grpcio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "grpc", None)

    with pytest.raises(CallError, match=r"pip install marina\[grpc\]"):
        GrpcClient()
