"""The benchmark of more nodes: how rows are compared, and that a cap holds."""

import subprocess
import sys
import time

import pytest

from benchmarks import scale


def row(engine: str, nodes: int, clients: int, rate: float) -> dict[str, object]:
    return {"model": "policy", "engine": engine, "nodes": nodes, "clients": clients, "rate": rate}


def test_nodes_are_compared_with_one_under_as_many_clients_each() -> None:
    rows = [
        row("standalone", 1, 8, 900.0),
        row("ray", 1, 8, 100.0),
        row("ray", 1, 32, 200.0),
        row("ray", 3, 24, 270.0),
    ]

    scale.compare_nodes(rows)

    assert [one.get("of_n") for one in rows] == [None, 1.0, 1.0, pytest.approx(0.9)]


def test_a_cap_holds_for_a_whole_tree_and_ends_with_the_block() -> None:
    """A process that would take a core gets a tenth of one, and its child is counted with it."""
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with subprocess.Popen([sys.executable, "-c", program], start_new_session=True) as busy:
        try:
            deadline = time.monotonic() + 30
            while len(scale.families([busy.pid])) == 1:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            try:
                with scale.capped([busy.pid], 0.1):
                    before, started = scale.processor_seconds([busy.pid]), time.monotonic()
                    time.sleep(1)
                    spent = scale.processor_seconds([busy.pid]) - before
                    share = spent / (time.monotonic() - started)
            except OSError as error:
                pytest.skip(f"no cgroups of our own: {error}")
            assert 0.02 < share < 0.3
            assert scale.processor_seconds([busy.pid + 1_000_000]) == 0
        finally:
            for process in scale.families([busy.pid]):
                process.kill()
