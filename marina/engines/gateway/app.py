"""The inference API over ASGI: TorchServe's paths, KServe v1 and the Open Inference Protocol v2.

Calls that ask for an answer go straight from the ASGI scope to the model, since a router in front would cost
as much as a small model; all others are routes in `routes`.
"""

import asyncio
import itertools
import logging
import re
import secrets
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from handlers.protocol.errors import BadRequest, ModelError, TooLarge
from handlers.protocol.events import wants_events
from handlers.protocol.replies import Reply
from handlers.protocol.requests import Row
from marina.engines.gateway.answer_streams import AnswerStream
from marina.engines.gateway.bodies import (
    ENCODING,
    LARGE_BYTES,
    HeaderReader,
    Headers,
    HungUp,
    Limits,
    Message,
    Receive,
    Send,
    hung_up,
    read_body,
    read_large_row,
    read_row,
)
from marina.engines.gateway.event_streams import send_events
from marina.engines.gateway.failures import (
    FAILED,
    Failure,
    InvalidKey,
    MethodNotAllowed,
    NotAcceptable,
    Refused,
    RequestTimeout,
    reply_to,
)
from marina.engines.gateway.jobs.service import Jobs, prefers_async
from marina.engines.gateway.metrics import Metrics
from marina.engines.gateway.models import Models
from marina.engines.gateway.open_inference import Outputs, with_error
from marina.engines.gateway.routes import make_routes
from marina.engines.gateway.served_model import ServedModel
from marina.engines.gateway.shadow import Shadow
from marina.engines.gateway.targets import Target, target_of
from marina.engines.gateway.tokens import Tokens

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
ERROR_STATUS = 400
UNREAD = (InvalidKey, MethodNotAllowed, RequestTimeout, TooLarge)  # refused before the body had come
LINGER_SECONDS = 2.0
CLOSING = (b"connection", b"close")


class Gateway:
    """The ASGI app of one process. `models` may change while it runs."""

    def __init__(
        self, models: Models, tokens: Tokens, limits: Limits, metrics: Metrics, jobs: Jobs | None = None
    ) -> None:
        self.models, self.tokens, self.limits, self.metrics = models, tokens, limits, metrics
        self.jobs = jobs  # without them, the preference for one is ignored, as RFC 7240 has it
        models.observer = metrics.count_batches
        self.is_ready = True  # said by /ping and v2's ready; an engine that stops says no
        self.shadows: dict[str, Shadow] = {}  # by the model's name
        self._headers = HeaderReader()
        self._prefix, self._numbers = f"{secrets.token_hex(8)}-", itertools.count(1)
        self._routes = make_routes(self)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        target = target_of(scope["path"]) if scope["type"] == "http" else None
        if target is None or scope["method"] == "OPTIONS":
            await self._routes(scope, receive, send)
            return
        request_id = ""
        more: tuple[tuple[bytes, bytes], ...] = ()
        try:
            headers = self._headers.read(scope["headers"], target.headers)
            request_id = self.request_id(headers)
            reply, more = await self._infer(target, scope, headers, receive, request_id)
            if isinstance(reply, AnswerStream):
                await send_events(reply, request_id, receive, send)
                return
        except HungUp:
            return
        except Refused as error:
            request_id = request_id or self.request_id({})
            reply = reply_to(error, request_id)
            more = error.headers if isinstance(error, Failure) else ()
            if isinstance(error, UNREAD):
                more = (*more, CLOSING)
        except Exception:  # unforeseen: logged with its traceback, and the caller gets a 500 without it
            logger.exception("a request to %s failed", target.name)
            reply = reply_to(ModelError(FAILED), request_id)
        if reply.status >= ERROR_STATUS:
            self.metrics.count_error(reply.status)
            if target.is_v2:
                reply = with_error(reply)
        await _respond(reply, request_id, more, receive, send)

    def request_id(self, headers: Headers) -> str:
        """The caller's x-request-id where it can stand in a log, otherwise one of this process."""
        sent = headers.get("x-request-id")
        return sent if sent and REQUEST_ID.fullmatch(sent) else f"{self._prefix}{next(self._numbers)}"

    async def _infer(
        self, target: Target, scope: Message, headers: Headers, receive: Receive, request_id: str
    ) -> tuple[Reply | AnswerStream, tuple[tuple[bytes, bytes], ...]]:
        """The reply to a request, and its headers beside type and length; or its answers one after another.

        Raises HungUp, and one of Refused for what reaches no predictor.
        """
        self.tokens.check(headers.get("authorization", ""), "inference")
        if scope["method"] not in target.methods:
            raise MethodNotAllowed(", ".join(sorted(target.methods)))
        if self.jobs and not target.is_v2 and prefers_async(headers):
            return await self.jobs.submit(target, headers, receive)
        has_events = wants_events(headers)
        if has_events and target.is_v2:
            raise NotAcceptable(
                f"tensors are not answered one after another; call /predictions/{target.name}, or leave "
                "Accept: text/event-stream out"
            )
        body = await read_body(receive, headers, self.limits)
        is_large = len(body) >= LARGE_BYTES
        if is_large or ENCODING in headers:
            row = await read_large_row(body, headers, self.limits)
        else:
            row = read_row(body, headers)
        name, outputs = target.name, None
        if not name:
            name, row = self._named(row)
        elif target.is_v2:
            asked_by = Outputs.asked_by
            outputs, row = await asyncio.to_thread(asked_by, row) if is_large else asked_by(row)
        model = self.models.get(name, target.version)
        if has_events:
            return await _open_stream(model, row, request_id, receive), ()
        if is_large or model.in_thread:
            reply = await _unless_gone(model.answer(row, request_id, is_large), receive)
        else:
            reply = await model.answer(row, request_id)
        if outputs is None:
            self._show_shadow(target, name, row, request_id, reply)
            return reply, ()
        if len(reply.content) >= LARGE_BYTES:
            return await asyncio.to_thread(outputs.written, reply)
        return outputs.written(reply)

    def _show_shadow(self, target: Target, name: str, row: Row, request_id: str, reply: Reply) -> None:
        """Let the model's shadow, if there is one, answer the request too."""
        if self.shadows and target.is_for_default and (shadow := self.shadows.get(name)):
            shadow.take(row, request_id, reply)

    def _named(self, row: Row) -> tuple[str, Row]:
        """The model that a call of /invocations names, in its form or in a header, or the only one; and the
        row without that field.
        """
        fields, headers = row
        name = fields.get("model_name") or headers.get("model_name")
        if name:
            rest = {key: value for key, value in fields.items() if key != "model_name"}
            return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name), (rest, headers)
        names = self.models.names()
        if len(names) != 1:
            raise BadRequest("Parameter model_name is required: send it as a header or a field of the form")
        return names[0], row


async def _open_stream(
    model: ServedModel, row: Row, request_id: str, receive: Receive
) -> Reply | AnswerStream:
    """The stream of a request once it is read, or the reply that refuses it. Raises HungUp."""
    stream = await _unless_gone(model.stream(row, request_id), receive)
    return stream.stream.refusal or stream


async def _unless_gone(answer: Coroutine[Any, Any, Answer], receive: Receive) -> Answer:
    """What the model gives; a caller that hangs up meanwhile leaves the queue. Raises HungUp."""
    answering = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(hung_up(receive))
    try:
        await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise HungUp
    finally:
        answering.cancel()
        gone.cancel()


async def _respond(
    reply: Reply, request_id: str, more: tuple[tuple[bytes, bytes], ...], receive: Receive, send: Send
) -> None:
    headers = [
        (b"content-type", reply.content_type.encode()),
        (b"content-length", b"%d" % len(reply.content)),
        (b"x-request-id", request_id.encode()),
        *more,
    ]
    await send({"type": "http.response.start", "status": int(reply.status), "headers": headers})
    if CLOSING not in more:
        await send({"type": "http.response.body", "body": reply.content})
        return
    # who still sends would not read the answer if the connection were closed under it
    await send({"type": "http.response.body", "body": reply.content, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b""})
