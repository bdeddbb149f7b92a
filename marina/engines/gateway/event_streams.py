"""Answers one after another over HTTP: server-sent events, in the form of `handlers.protocol.events`."""

import asyncio
import logging
from contextlib import suppress

from handlers.protocol.errors import ModelError
from handlers.protocol.events import CONTENT_TYPE, KEEP_ALIVE, done_event, event_of
from handlers.protocol.replies import reply_of
from marina.engines.gateway.answer_streams import AnswerStream
from marina.engines.gateway.bodies import Receive, Send, hung_up

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 15.0  # proxies close connections on which nothing is sent for longer than about a minute
STALL_SECONDS = 60.0  # a reader who takes nothing for so long is given up


async def send_events(stream: AnswerStream, request_id: str, receive: Receive, send: Send) -> None:
    """Send the answers of an opened stream as they come; end it when its reader hangs up or stalls."""
    headers = [
        (b"content-type", CONTENT_TYPE.encode()),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),  # nginx would keep the events back until it has many
        (b"x-request-id", request_id.encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    writing = asyncio.ensure_future(_write(stream, send))
    gone = asyncio.ensure_future(hung_up(receive))
    try:
        await asyncio.wait((writing, gone), return_when=asyncio.FIRST_COMPLETED)
        if writing.done():
            writing.result()
    except TimeoutError:
        logger.warning("request %s: its reader took nothing for %.0f s", request_id, STALL_SECONDS)
    finally:
        stream.end()
        for task in (writing, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, TimeoutError):
                await task


async def _write(stream: AnswerStream, send: Send) -> None:
    """Send all events. Raises TimeoutError for a reader who stalls."""
    key, count, errors = stream.stream.key, 0, 0
    while True:
        try:
            async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                items = await stream.next_items()
        except TimeoutError:
            await _send(KEEP_ALIVE, send)
            continue
        except ModelError as error:  # no `done`: what was sent is not all
            content = reply_of(error, stream.stream.request_id).content
            await _send(b"event: error\ndata: " + content + b"\n\n", send, more=False)
            return
        count += len(items)
        errors += sum(bool(item.reply.error) for item in items)
        if not items:
            await _send(done_event(count, errors), send, more=False)
            return
        await _send(b"".join(event_of(item, key) for item in items), send)


async def _send(content: bytes, send: Send, more: bool = True) -> None:
    async with asyncio.timeout(STALL_SECONDS):
        await send({"type": "http.response.body", "body": content, "more_body": more})
