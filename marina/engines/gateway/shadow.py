"""Shadow traffic: a share of a model's requests that another version answers too, for comparison alone.

Nobody gets those answers, and nobody waits for them. The kind says whether two answers lead to the same
decision. Not compared: explanations, streams, jobs, tensors of the Open Inference Protocol, requests that
name a version, and those that the default version refuses.
"""

import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from handlers.protocol.replies import JSON, Reply
from handlers.protocol.requests import Row
from marina.core import kinds
from marina.engines.gateway.bodies import LARGE_BYTES
from marina.engines.gateway.failures import Refused
from marina.engines.gateway.management import SHADOW_RESULTS

logger = logging.getLogger(__name__)

MOST_WAITING = 32  # of a process; what comes meanwhile is skipped

Ask = Callable[[Row, str], Awaitable[Reply]]
Count = Callable[[str], None]


class Shadow:
    """A `version` that answers `percent` of a model's requests too; `ask` gives its replies."""

    def __init__(self, version: str, percent: float, kind: str, ask: Ask, count: Count) -> None:
        """Raises CallError for a kind that can't be compared here."""
        self.version, self.percent = version, percent
        self.tally: Counter[str] = Counter(dict.fromkeys(SHADOW_RESULTS, 0))
        self._same_decision = kinds.get(kind).same_decision
        self._ask, self._count = ask, count
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, row: Row, request_id: str, reply: Reply) -> None:
        """Have the version answer the request too, if it is one of the share."""
        if random.random() * 100 >= self.percent or reply.status != HTTPStatus.OK:
            return
        if len(self._tasks) >= MOST_WAITING:
            self._note("skipped")
            return
        task = asyncio.create_task(self._compare(row, request_id, reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(self, row: Row, request_id: str, reply: Reply) -> None:
        try:
            other = await self._ask(row, request_id)
            if other.status != HTTPStatus.OK:
                self._note("failed")
            elif max(len(reply.content), len(other.content)) >= LARGE_BYTES:
                self._note(await asyncio.to_thread(self._result, reply, other))
            else:
                self._note(self._result(reply, other))
        except Refused:
            self._note("failed")
        except Exception:  # nobody waits for it: the log is the only place to say it
            logger.exception("the shadow %s failed on request %s", self.version, request_id)
            self._note("failed")

    def _result(self, reply: Reply, other: Reply) -> str:
        if reply.content == other.content:
            return "same"
        if not reply.content_type == other.content_type == JSON:
            return "different"
        answers, others = _answers(reply.content), _answers(other.content)
        is_same = len(answers) == len(others) and all(map(self._same_decision, answers, others))
        return "same" if is_same else "different"

    def _note(self, result: str) -> None:
        self.tally[result] += 1
        self._count(result)


def _answers(content: bytes) -> list[Any]:
    """The answers in a body: those of several instances, or the only one."""
    answer = json.loads(content)
    if isinstance(answer, dict) and isinstance(answer.get("predictions"), list):
        return list(answer["predictions"])
    return answer if isinstance(answer, list) else [answer]
