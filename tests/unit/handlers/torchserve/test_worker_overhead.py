"""The overhead of a worker: processor time of a batch from socket to answer, beside a bare loop.

Both are measured in turns in one process, so that a busy machine slows both. benchmarks/serving.py measures
whole servers.
"""

import json
import struct
from collections.abc import Callable
from time import thread_time
from types import SimpleNamespace
from typing import Any

import numpy as np

from handlers.kinds import predictor_of
from handlers.torchserve.codec import MessageReader, written
from marina.core.spec import Spec

BATCH, ROUNDS = 32, 200
MOST_TIMES = 4.0  # measured: 2.5
OBSERVATIONS = [{"observation": [round(0.01 * number, 2), -0.02, 0.1, 0.2]} for number in range(BATCH)]
END = struct.pack("!i", -1)


def field(content: bytes) -> bytes:
    return struct.pack("!i", len(content)) + content


def message() -> bytes:
    """A full batch as the front end writes it, with the headers that a client of HTTP sends."""
    headers = {
        "Host": "127.0.0.1:8080",
        "Accept": "*/*",
        "Authorization": "Bearer abcdefgh",
        "Content-Type": "application/json",
    }
    named = b"".join(field(name.encode()) + field(value.encode()) for name, value in headers.items()) + END
    bodies = [json.dumps(one).encode() for one in OBSERVATIONS]
    parameters = [field(b"body") + field(b"application/json") + field(body) + END for body in bodies]
    return (
        b"I" + b"".join(field(b"%036d" % number) + named + one for number, one in enumerate(parameters)) + END
    )


def worker(one: Spec) -> Callable[[], bytes]:
    """One batch through a worker's own loop: our reader, our handler, our writer."""
    handler = predictor_of(one.kind)
    handler.load(one.export_dir, {"handler": {"threads": 1}})
    content = message()
    reader = MessageReader(SimpleNamespace(recv=lambda _size: content))  # type: ignore[arg-type]

    def serve() -> bytes:
        _, batch = reader.message()
        ids = [request_id for request_id, _, _ in batch]
        rows = [(fields, headers) for _, headers, fields in batch]
        replies = handler.reply(rows, ids)
        handler.report(rows, ids, replies)
        return written(ids, replies)

    return serve


def bare(weight: np.ndarray) -> Callable[[], list[bytes]]:
    """The same answers with nothing around them: parse, compute, write."""
    bodies = [json.dumps(one).encode() for one in OBSERVATIONS]

    def answer() -> list[bytes]:
        values = np.array([json.loads(body)["observation"] for body in bodies], np.float32) @ weight
        actions = values.argmax(1).tolist()
        rows = zip(actions, values.tolist(), strict=True)
        return [
            json.dumps({"action": action, "q_values": row}, separators=(",", ":")).encode()
            for action, row in rows
        ]

    return answer


def times(first: Callable[[], Any], second: Callable[[], Any]) -> float:
    """How much more processor time `first` takes: of each the least of all rounds, which nobody disturbed."""
    least = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        for index, work in enumerate((first, second)):
            started = thread_time()
            work()
            least[index] = min(least[index], thread_time() - started)
    return least[0] / least[1]


def test_a_worker_costs_no_more_than_a_few_times_the_bare_loop(exported: Callable[..., Spec]) -> None:
    serve = worker(exported())
    # of tests/toy_policies.py
    weight = np.array([[0.0, 0.0], [0.0, 0.0], [-2.0, 2.0], [-1.0, 1.0]], np.float32)
    answer = bare(weight)
    served = serve()

    found = times(serve, answer)

    assert all(body in served for body in answer())
    assert found < MOST_TIMES, f"a worker took {found:.1f} times the bare loop"
