"""Calls between the controller and a worker, as lines of JSON over a socket."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

LONGEST_LINE = 64 * 2**20  # bytes: a description holds the schemas and the labels of a model

Actions = Mapping[str, Callable[..., Awaitable[Any]]]


class ActionFailed(Exception):
    """The other side could not do it; the message says why."""


class Disconnected(ConnectionError):
    """The other side has ended, or has closed the socket."""


class Channel:
    """One end. `call` asks the other end for an action; `serve` answers its calls until it is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._next = 0
        self._is_closed = False

    @classmethod
    async def open(cls, end: socket.socket) -> "Channel":
        """A channel over one end of a socket pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LONGEST_LINE))

    async def call(self, action: str, **arguments: Any) -> Any:
        """What the action returns at the other end. Raises ActionFailed or Disconnected."""
        if self._is_closed:
            raise Disconnected(f"{action}: the process has ended")
        self._next += 1
        number = self._next
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._write({"call": number, "action": action, "arguments": arguments})
            return await answer
        finally:
            self._waiting.pop(number, None)

    async def serve(self, actions: Actions) -> None:
        """Answer calls by `actions` until the other end closes; calls run beside each other."""
        try:
            while line := await self._reader.readline():
                message = json.loads(line)
                if "call" in message:
                    task = asyncio.create_task(self._run(actions, message))
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
                elif waiting := self._waiting.get(message["answer"]):
                    if "error" in message:
                        waiting.set_exception(ActionFailed(message["error"]))
                    else:
                        waiting.set_result(message["result"])
        except (ConnectionError, ValueError):  # ValueError: a line that was cut off
            pass
        finally:
            self.close()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(Disconnected("the process has ended"))

    def close(self) -> None:
        """Close this end."""
        self._is_closed = True
        self._writer.close()

    async def _run(self, actions: Actions, message: dict[str, Any]) -> None:
        try:
            outcome = {"result": await actions[message["action"]](**message["arguments"])}
        except Exception as error:  # whatever it is, the caller is told
            outcome = {"error": str(error) or type(error).__name__}
        self._write({"answer": message["call"], **outcome})

    def _write(self, message: dict[str, Any]) -> None:
        self._writer.write(json.dumps(message, separators=(",", ":"), default=str).encode() + b"\n")
