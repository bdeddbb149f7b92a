"""Tuning: which trial is the best, how the search goes on from it, what is written; and the load that it rests on."""

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from marina import spec, tune
from marina.console import Output
from marina.errors import WorkError
from marina.load import Measured, closed, opened, request
from marina.spec import Spec
from marina.tune import Trial


def trial(rate: float, alone: float = 5.0, p95: float = 20.0, failed: int = 0, workers: int = 1) -> Trial:
    settings = {"workers": workers, "threads": 1, "batch_size": 8, "max_batch_delay_ms": 1}
    return Trial(settings, rate, p95 / 2, p95, alone, failed)


def test_the_highest_rate_within_the_service_level_is_best_and_among_equals_the_quickest_alone() -> None:
    fast, quick, slow = trial(1000, alone=9), trial(980, alone=4), trial(500, alone=1)
    late, broken = trial(2000, p95=600), trial(3000, failed=1)

    assert tune.ordered([slow, broken, late, fast, quick], p95_ms=500)[:3] == [quick, fast, slow]


def test_each_question_is_asked_with_what_was_best_before(monkeypatch: pytest.MonkeyPatch, exported: Callable[..., Spec]) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))

    def tried(settings: dict[str, int]) -> Trial:
        rate = 100 * settings["workers"] + settings["batch_size"] - settings["max_batch_delay_ms"]
        return Trial(settings, rate, 1, 2, 1, 0)

    best, *others = tune._search(exported(), tried, time.monotonic() + 60, Output(as_json=True))

    assert best.settings == {"workers": 4, "threads": 1, "batch_size": 32, "max_batch_delay_ms": 1}
    assert all(one.settings["workers"] == 4 for one in others if one.settings["batch_size"] == 16)


def test_time_that_is_up_ends_the_search_with_what_there_is(exported: Callable[..., Spec]) -> None:
    assert len(tune._search(exported(), lambda settings: Trial(settings, 1, 1, 1, 1, 0), 0.0, Output(as_json=True))) == 1


def test_a_model_that_fails_requests_is_not_tuned(exported: Callable[..., Spec]) -> None:
    with pytest.raises(WorkError, match="3 requests failed; look at it with: marina loadtest balance"):
        tune._search(exported(), lambda settings: Trial(settings, 1, 1, 1, 1, 3), 0.0, Output(as_json=True))


@pytest.mark.parametrize(
    "more",
    ["", "serving:\n  workers: 3   # of old\n  # a remark\n  queue_size: 99\nsamples: {held_out: 3}\n", "serving:\n  threads: 1\n"],
    ids=["none", "some", "last"],
)
def test_settings_are_written_into_the_spec_and_the_rest_stays(more: str, exported: Callable[..., Spec]) -> None:
    one = exported(more=more)
    path = tune.written(one, {"workers": 2, "threads": 1, "batch_size": 16, "max_batch_delay_ms": 1})

    again, text = spec.load(one.name), path.read_text()
    assert (again.serving.workers, again.serving.threads, again.serving.batch_size, again.serving.max_batch_delay_ms) == (2, 1, 16, 1)
    assert text.startswith("# Pushes to where the pole falls.\n")
    if "remark" in more:
        assert "# a remark" in text
        assert again.serving.queue_size == 99
        assert again.samples.held_out == 3


def test_the_trials_are_drawn(tmp_path: Path) -> None:
    tune.draw([trial(100), trial(50, workers=2)], tmp_path / "deep" / "trials.png")

    assert (tmp_path / "deep" / "trials.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def stalling() -> Iterator[int]:
    """A server that answers at once, but for half a second in which nobody is answered; every tenth request gets a 503."""
    begun: list[float] = []
    lock, counted = threading.Lock(), iter(range(1_000_000))

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                begun.append(time.monotonic())
                waits = 0.3 <= begun[-1] - begun[0] <= 0.8
            if waits:
                time.sleep(max(0.0, begun[0] + 0.8 - time.monotonic()))
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

    found = opened(stalling, content, rate=60, seconds=1.2)

    assert len(found.milliseconds) + found.failed == 72
    assert found.failed == 7
    assert sum(late > 100 for late in found.milliseconds) > 10  # all that were due in the half second waited for its end


def test_a_closed_loop_sees_one_slow_answer_per_client(stalling: int) -> None:
    found = closed(stalling, request(stalling, "/", b"{}", {}), clients=2, seconds=1.2)

    assert sum(late > 100 for late in found.milliseconds) <= 2
    assert found.rate > 10


def test_percentiles_of_nothing_are_no_number() -> None:
    assert Measured().percentile(0.5) != Measured().percentile(0.5)
    assert Measured([3.0, 1.0, 2.0], seconds=1.5).percentile(0.5) == 2.0
    assert Measured([3.0, 1.0, 2.0], seconds=1.5).rate == 2.0
