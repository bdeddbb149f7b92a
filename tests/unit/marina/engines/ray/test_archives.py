"""How a node comes by an archive: from a folder, by HTTP, from a bucket; a wrong checksum is refused."""

import hashlib
import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.protocol.errors import BrokenArchive
from marina.engines.ray import archives
from marina.engines.ray.archives import local_archive

CONTENT = b"an archive" * 100_000
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


class Store(http.server.BaseHTTPRequestHandler):
    """A server of files that counts what is asked; it redirects /moved/ and knows no /gone/."""

    asked: list[str]

    def do_GET(self) -> None:  # http.server calls it so
        self.asked.append(self.path)
        status = {"moved": 302, "gone": 404}.get(self.path.split("/")[1], 200)
        self.send_response(status)
        if status == 302:
            self.send_header("location", "/store/balance-1.0.mar")
        content = CONTENT if status == 200 else b""
        self.send_header("content-length", str(len(content)))
        self.send_header("etag", '"1"')
        self.send_header("last-modified", "Mon, 30 Nov 2026 12:00:00 GMT")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.ThreadingHTTPServer]:
    """A server of files; this node's folder for temporary files is the test's own."""
    Store.asked = []
    monkeypatch.setattr(archives.tempfile, "gettempdir", lambda: str(tmp_path))
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_an_archive_of_a_shared_folder_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "balance-1.0.mar"
    path.write_bytes(CONTENT)

    assert local_archive(str(path), CHECKSUM) == path


def test_a_node_without_the_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BrokenArchive, match=r"mount the model store .*\(ray\.archives in marina\.yaml"):
        local_archive(str(tmp_path / "balance-1.0.mar"), CHECKSUM)


def test_another_file_in_the_folder_is_refused(tmp_path: Path) -> None:
    """A node with an older copy would serve something else than the others."""
    path = tmp_path / "balance-1.0.mar"
    path.write_bytes(CONTENT[1:])

    with pytest.raises(BrokenArchive, match=f"not {CHECKSUM[:12]}"):
        local_archive(str(path), CHECKSUM)


def test_an_archive_is_fetched_once(server: http.server.ThreadingHTTPServer) -> None:
    """The second replica of a node finds it; a file that was damaged there is fetched again."""
    url = f"http://127.0.0.1:{server.server_port}/store/balance-1.0.mar"

    paths = {local_archive(url, CHECKSUM) for _ in range(2)}
    (path,) = paths
    assert path.read_bytes() == CONTENT
    assert Store.asked == ["/store/balance-1.0.mar"]
    path.write_bytes(b"damaged")

    assert local_archive(url, CHECKSUM).read_bytes() == CONTENT
    assert len(Store.asked) == 2


def test_a_fetched_file_with_another_checksum_is_not_kept(
    server: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{server.server_port}/store/balance-1.0.mar"

    with pytest.raises(BrokenArchive, match=f"SHA-256 {CHECKSUM[:12]}"):
        local_archive(url, "0" * 64)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("folder", "reason"), [("moved", "302 Found"), ("gone", "404 Not Found")])
def test_what_is_elsewhere_or_nowhere_is_refused(
    folder: str, reason: str, server: http.server.ThreadingHTTPServer
) -> None:
    """A redirect is not followed: only the project's own address is asked."""
    with pytest.raises(BrokenArchive, match=reason):
        local_archive(f"http://127.0.0.1:{server.server_port}/{folder}/balance-1.0.mar", CHECKSUM)

    assert Store.asked == [f"/{folder}/balance-1.0.mar"]


def test_a_server_that_is_not_there_is_named(server: http.server.ThreadingHTTPServer) -> None:
    with pytest.raises(BrokenArchive, match=r"http://127\.0\.0\.1:1/x\.mar can't be fetched: .*refused"):
        local_archive("http://127.0.0.1:1/x.mar", CHECKSUM)


def test_an_object_of_a_bucket_is_fetched(
    server: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the credentials of the environment, from an endpoint that speaks S3."""
    pytest.importorskip("obstore", reason="pip install marina[s3]")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)

    assert local_archive("s3://models/store/balance-1.0.mar", CHECKSUM).read_bytes() == CONTENT
    assert Store.asked == ["/models/store/balance-1.0.mar"]
    with pytest.raises(BrokenArchive, match=r"s3://gone/store/balance-1\.0\.mar can't be fetched"):
        local_archive("s3://gone/store/balance-1.0.mar", "0" * 64)


def test_without_the_extra_a_bucket_is_refused(
    server: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)

    with pytest.raises(BrokenArchive, match=r"pip install 'marina\[s3\]'"):
        local_archive("s3://models/balance-1.0.mar", CHECKSUM)
