"""Tuning: choosing the best trial, the search from there, what is written; and the load generator."""

import http.server
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from marina.core import spec
from marina.core.console import Output
from marina.core.errors import WorkError
from marina.core.spec import Spec
from marina.load import tuning
from marina.load.load_generator import LoadResult, closed_loop, open_loop, request
from marina.load.tuning import Trial


def trial(rate: float, alone: float = 5.0, p95: float = 20.0, failed: int = 0, workers: int = 1) -> Trial:
    settings = {"workers": workers, "threads": 1, "batch_size": 8, "max_batch_delay_ms": 1}
    return Trial(settings, rate, p95 / 2, p95, alone, failed)


def test_best_trial_has_the_highest_rate_then_the_lowest_latency() -> None:
    """The highest rate within the service level wins; among equals, the one that is fastest for a single
    request.
    """
    fast, quick, slow = trial(1000, alone=9), trial(980, alone=4), trial(500, alone=1)
    late, broken = trial(2000, p95=600), trial(3000, failed=1)

    assert tuning.rank([slow, broken, late, fast, quick], p95_ms=500)[:3] == [quick, fast, slow]


def test_each_question_is_asked_with_what_was_best_before(
    monkeypatch: pytest.MonkeyPatch, exported: Callable[..., Spec]
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))

    def tried(settings: dict[str, int]) -> Trial:
        rate = 100 * settings["workers"] + settings["batch_size"] - settings["max_batch_delay_ms"]
        return Trial(settings, rate, 1, 2, 1, 0)

    best, *others = tuning.search(exported(), tried, time.monotonic() + 60, Output(as_json=True))

    assert best.settings == {"workers": 4, "threads": 1, "batch_size": 32, "max_batch_delay_ms": 1}
    assert all(one.settings["workers"] == 4 for one in others if one.settings["batch_size"] == 16)


def test_time_that_is_up_ends_the_search_with_what_there_is(exported: Callable[..., Spec]) -> None:
    assert (
        len(
            tuning.search(
                exported(), lambda settings: Trial(settings, 1, 1, 1, 1, 0), 0.0, Output(as_json=True)
            )
        )
        == 1
    )


def test_a_model_that_fails_requests_is_not_tuned(exported: Callable[..., Spec]) -> None:
    with pytest.raises(WorkError, match="3 requests failed; look at it with: marina loadtest balance"):
        tuning.search(exported(), lambda settings: Trial(settings, 1, 1, 1, 1, 3), 0.0, Output(as_json=True))


@pytest.mark.parametrize(
    "more",
    [
        "",
        "serving:\n  workers: 3   # of old\n  # a remark\n  queue_size: 99\nsamples: {held_out: 3}\n",
        "serving:\n  threads: 1\n",
    ],
    ids=["none", "some", "last"],
)
def test_settings_are_written_into_the_spec_and_the_rest_stays(
    more: str, exported: Callable[..., Spec]
) -> None:
    one = exported(more=more)
    path = tuning.write_settings(one, {"workers": 2, "threads": 1, "batch_size": 16, "max_batch_delay_ms": 1})

    again, text = spec.load(one.name), path.read_text()
    assert (
        again.serving.workers,
        again.serving.threads,
        again.serving.batch_size,
        again.serving.max_batch_delay_ms,
    ) == (2, 1, 16, 1)
    assert text.startswith("# Pushes to where the pole falls.\n")
    if "remark" in more:
        assert "# a remark" in text
        assert again.serving.queue_size == 99
        assert again.samples.held_out == 3


SPEC = """\
# Reads digits.
version: "1.0"
kind: classifier   # one of five

serving:   # measured
  # a remark
  workers: 1
  queue_size: 99   # requests

# what must come back
samples:
  requests:
    - name: seven
      json: [1, 2]
"""


def test_an_edit_changes_its_own_lines_alone() -> None:
    edited = tuning.edit_serving(SPEC, {"workers": 2, "threads": 1})

    assert edited == SPEC.replace("  workers: 1\n", "  workers: 2\n  threads: 1\n")
    assert "serving: {workers: 2}" in tuning.edit_serving("kind: b\nserving: {workers: 1}\n", {"workers": 2})
    assert tuning.edit_serving("kind: b\n", {"workers": 2}) == "kind: b\n\nserving:\n  workers: 2\n"


def test_the_trials_are_drawn(tmp_path: Path) -> None:
    tuning.plot([trial(100), trial(50, workers=2)], tmp_path / "deep" / "trials.png")

    assert (tmp_path / "deep" / "trials.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def stalling() -> Iterator[int]:
    """A server that answers at once, but for half a second in which nobody is answered; every tenth
    request gets a 503.
    """
    started: list[float] = []
    lock, counted = threading.Lock(), iter(range(1_000_000))

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                started.append(time.monotonic())
                waits = 0.3 <= started[-1] - started[0] <= 0.8
            if waits:
                time.sleep(max(0.0, started[0] + 0.8 - time.monotonic()))
            body = b"{}"
            self.send_response(503 if next(counted) % 10 == 9 else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_open_loop_counts_what_a_closed_one_never_sends(stalling: int) -> None:
    content = request(stalling, "/", b"{}", {"X": "y"})

    found = open_loop(stalling, content, rate=60, seconds=1.2)

    assert len(found.milliseconds) + found.failed == 72
    assert found.failed == 7
    # all that were due in the half second waited for its end
    assert sum(late > 100 for late in found.milliseconds) > 10


def test_a_closed_loop_sees_one_slow_answer_per_client(stalling: int) -> None:
    found = closed_loop(stalling, request(stalling, "/", b"{}", {}), clients=2, seconds=1.2)

    assert sum(late > 100 for late in found.milliseconds) <= 2
    assert found.rate > 10


@pytest.mark.parametrize("says", [b"connection: close\r\n", b""])
def test_a_server_that_closes_connections_is_asked_on_new_ones(says: bytes) -> None:
    """No request fails if the server announced the close; otherwise those on closed connections do."""

    class Closing(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line[15:])
            self.rfile.read(length)
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + says + b"content-length: 2\r\n\r\n{}")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Closing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = closed_loop(server.server_address[1], request(1, "/", b"{}", {}), clients=1, seconds=0.3)
        server.shutdown()

    assert len(found.milliseconds) > 5
    assert (found.failed == 0) == bool(says)


def test_percentiles_of_nothing_are_no_number() -> None:
    assert LoadResult().percentile(0.5) != LoadResult().percentile(0.5)
    assert LoadResult([3.0, 1.0, 2.0], seconds=1.5).percentile(0.5) == 2.0
    assert LoadResult([3.0, 1.0, 2.0], seconds=1.5).rate == 2.0
