"""Batches gathered in the process, queues and their limits, and archives loaded into it."""

import asyncio
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handlers.protocol.errors import BrokenArchive
from handlers.protocol.replies import Reply
from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.engines.gateway.failures import ServiceUnavailable, WaitedTooLong
from marina.engines.gateway.served_model import Batch, ServedModel
from marina.packaging import archive
from tests.support.gateways import Recorder, load, recorded

ROW = ({"body": {"observation": [0.0, 0.0, 0.1, 0.2]}}, {"explain": "False"})


def asked(model: ServedModel, body: Any, is_large: bool = False) -> "asyncio.Task[Reply]":
    return asyncio.ensure_future(model.answer(({"body": body}, {}), str(body), is_large))


def test_a_lone_request_waits_for_nobody() -> None:
    """Requests that come one after the other are batches of one, whatever maxBatchDelay says."""
    recorder = Recorder()
    model = recorded(recorder, maxBatchDelay=60_000)

    async def run() -> list[Reply]:
        return [await asked(model, number) for number in range(3)]

    replies = asyncio.run(asyncio.wait_for(run(), 5))

    assert [reply.content for reply in replies] == [b"0", b"1", b"2"]
    assert recorder.batches == [[0], [1], [2]]


def test_what_arrives_together_is_one_batch() -> None:
    """Requests of one turn of the loop share batches of at most batchSize; each gets its own answer."""
    recorder = Recorder()
    model = recorded(recorder)

    async def run() -> list[Reply]:
        return await asyncio.gather(*(asked(model, number) for number in range(10)))

    replies = asyncio.run(run())

    assert [reply.content for reply in replies] == [str(number).encode() for number in range(10)]
    assert recorder.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("is_large", [False, True])
def test_what_arrives_meanwhile_is_the_next_batch(is_large: bool) -> None:
    """A large model computes in a thread, as a large body does, while the loop collects the next batch."""
    recorder = Recorder()
    model = recorded(recorder, in_thread=not is_large)
    recorder.gate.clear()
    reported: list[Batch] = []
    model.observer = lambda _, batches: reported.extend(batches)

    async def run() -> None:
        first = asked(model, "first", is_large)
        await asyncio.sleep(0.02)
        assert model.busy_since is not None
        rest = [asked(model, number) for number in range(3)]
        await asyncio.sleep(0.02)
        assert model.pending == 4
        recorder.gate.set()
        await asyncio.gather(first, *rest)
        await model.drain()

    asyncio.run(run())

    assert recorder.batches == [["first"], [0, 1, 2]]
    assert [len(batch.replies) for batch in reported] == [1, 3]
    assert (model.pending, model.busy_since) == (0, None)


def test_a_full_queue_says_when_to_come_back() -> None:
    """With jobQueueSize waiting the next is refused with Retry-After; those that wait are answered."""
    recorder = Recorder()
    model = recorded(recorder, in_thread=True, jobQueueSize=2)
    recorder.gate.clear()

    async def run() -> list[Any]:
        tasks = [asked(model, "computing")]
        await asyncio.sleep(0.02)
        tasks += [asked(model, number) for number in range(3)]
        await asyncio.sleep(0.02)
        recorder.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    *answered, refused = asyncio.run(run())

    assert [reply.content for reply in answered] == [b"computing", b"0", b"1"]
    assert isinstance(refused, ServiceUnavailable)
    assert refused.headers == ((b"retry-after", b"1"),)
    assert "2 requests wait" in str(refused)


def test_a_caller_that_is_gone_leaves_its_place() -> None:
    """A cancelled request is not computed, and its place in a full queue is another's."""
    recorder = Recorder()
    model = recorded(recorder, in_thread=True, jobQueueSize=1)
    recorder.gate.clear()

    async def run() -> None:
        first = asked(model, "first")
        await asyncio.sleep(0.02)
        gone = asked(model, "gone")
        await asyncio.sleep(0.02)
        gone.cancel()
        await asyncio.sleep(0.02)
        next_one = asked(model, "next")
        await asyncio.sleep(0.02)
        recorder.gate.set()
        await asyncio.gather(first, next_one)

    asyncio.run(run())

    assert recorder.batches == [["first"], ["next"]]


def test_who_waits_too_long_is_told() -> None:
    """After clientTimeoutInMills in the queue: 504, and the request is never computed."""
    recorder = Recorder()
    model = recorded(recorder, in_thread=True, clientTimeoutInMills=50)
    recorder.gate.clear()

    async def run() -> list[Any]:
        first = asked(model, "first")
        await asyncio.sleep(0.02)
        late = asked(model, "late")
        await asyncio.sleep(0.04)
        later = asked(model, "later")
        errors = await asyncio.gather(late, later, return_exceptions=True)
        recorder.gate.set()
        await first
        await model.drain()
        return errors

    errors = asyncio.run(run())

    assert [type(error) for error in errors] == [WaitedTooLong, WaitedTooLong]
    assert recorder.batches == [["first"]]


def test_a_handler_that_raises_costs_one_request(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a predictor raises, the neighbors in the batch get their answers."""
    recorder = Recorder()
    model = recorded(recorder)

    async def run() -> list[Reply]:
        return await asyncio.gather(*(asked(model, body) for body in ("one", "broken", "two")))

    one, broken, two = asyncio.run(run())

    assert (one.content, two.content) == (b"one", b"two")
    assert broken.status == 500
    assert b"ModelError" in broken.content
    assert "a handler's own fault" in caplog.text


@pytest.mark.parametrize(
    "config", [{"batchSize": 0.5}, {"jobQueueSize": -1}, {"clientTimeoutInMills": "1"}, {"batchSize": True}]
)
def test_settings_that_count_are_whole_numbers(config: dict[str, Any]) -> None:
    """A setting that can't be is named."""
    with pytest.raises(CallError, match=f"{next(iter(config))} must be a whole number"):
        recorded(Recorder(), **config)


def test_an_archive_answers_here(balance_archive: Path, tmp_path: Path) -> None:
    """`load` unpacks, checks and starts; `settings` override the archive's; `close` leaves nothing."""
    model = load(balance_archive, tmp_path / "balance", batchSize=3)
    package = type(model.predictor).__module__.partition(".")[0]

    reply = asyncio.run(model.answer(ROW, "a-1"))

    assert (model.name, model.version, model.archive) == ("balance", "1.0", "balance-1.0.mar")
    assert (model.batch_size, model.config["responseTimeout"]) == (3, 30)
    assert (model.ready["golden_samples"], model.in_thread) == (3, False)
    assert reply.content.startswith(b'{"action":1')

    model.close()

    assert not (tmp_path / "balance").exists()
    assert [name for name in sys.modules if name.startswith(package)] == []


def test_two_versions_answer_side_by_side(exported: Callable[..., Spec], tmp_path: Path) -> None:
    """One is closed, the other goes on answering with its own modules."""
    paths = [archive.build(exported(version=version)).path for version in ("1.0", "1.1")]
    first, second = [load(path, tmp_path / path.stem) for path in paths]

    first.close()

    assert asyncio.run(second.answer(ROW, "a")).status == 200
    second.close()


def rewritten(source: Path, target: Path, name: str, content: bytes) -> Path:
    """A copy of an archive with one file changed or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, content if entry == name else old.read(entry))
        if name not in old.namelist():
            new.writestr(name, content)
    return target


@pytest.mark.parametrize(
    ("file", "content", "error", "reason"),
    [
        ("../evil.py", b"", CallError, "outside of its folder"),
        ("/evil.py", b"", CallError, "outside of its folder"),
        ("model.pt2", b"x", BrokenArchive, r"model\.pt2"),
        (
            "handlers_balance_1_0/kinds/policy.py",
            b"raise ValueError('no')",
            BrokenArchive,
            "does not come up",
        ),
    ],
)
def test_a_changed_archive_does_not_come_up(
    balance_archive: Path, tmp_path: Path, file: str, content: bytes, error: type[Exception], reason: str
) -> None:
    """What can't be trusted is refused with the reason, and leaves no files behind."""
    changed = rewritten(balance_archive, tmp_path / "balance-1.0.mar", file, content)

    with pytest.raises(error, match=reason):
        load(changed, tmp_path / "served")

    assert [path.name for path in tmp_path.iterdir()] == ["balance-1.0.mar"]


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_what_is_no_archive_is_named(tmp_path: Path, content: bytes | None) -> None:
    """A missing file and one that is no zip."""
    file = tmp_path / "x.mar"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(CallError, match="archive"):
        load(file, tmp_path / "served")
