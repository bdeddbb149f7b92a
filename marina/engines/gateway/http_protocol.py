"""uvicorn's HTTP protocol, bounded: a caller that sends headers without an end, slowly, or nothing at all,
holds a connection for so long and no longer; and what is no HTTP is refused in the form of all other
refusals.
"""

import asyncio
import secrets
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from handlers.protocol.errors import BadRequest
from marina.engines.gateway.failures import HeadersTooLarge, RequestTimeout, reply_to

# of the request line, headers and trailers, and of what stands around chunks beyond the size of the body:
# each chunk costs a microsecond, however little is in it
MAX_HEAD_BYTES = 64 * 1024
# until a request has come as a whole; longer than Limits.body_seconds, whose refusal is the app's
REQUEST_SECONDS = 65.0


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_in_head = False
        self._new_count = 0  # requests that began in the data that came last
        self._bytes_left = MAX_HEAD_BYTES  # that the request under way may still send beside its body
        # when the request began that has not come as a whole yet, in the event loop's seconds
        self._since: float | None = None
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As in uvicorn; from now on the first request is awaited."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._watch = self.loop.call_later(REQUEST_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """As in uvicorn."""
        if self._watch:
            self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As in uvicorn, as far as headers, trailers and what stands around chunks are no longer than they
        may be.
        """
        self._new_count = 0
        super().data_received(data)
        if self._since is not None and self._new_count < 2:  # little has come of one behind a whole one
            self._bytes_left -= len(data)
            if self._bytes_left < 0:
                self._end(HeadersTooLarge(MAX_HEAD_BYTES))

    def on_message_begin(self) -> None:
        """As in uvicorn."""
        super().on_message_begin()
        self._is_in_head, self._since = True, self.loop.time()
        self._bytes_left = MAX_HEAD_BYTES
        self._new_count += 1

    def on_headers_complete(self) -> None:
        """As in uvicorn."""
        self._is_in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """As in uvicorn."""
        self._bytes_left += 2 * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """As in uvicorn."""
        self._since = None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(BadRequest(msg))

    def _look(self) -> None:
        """End the connection if its request takes too long; look again when that may be so."""
        waited = self.loop.time() - self._since if self._since is not None else 0.0
        if waited < REQUEST_SECONDS:
            self._watch = self.loop.call_later(REQUEST_SECONDS - waited, self._look)
        else:
            self._end(RequestTimeout(REQUEST_SECONDS))

    def _end(self, error: Exception) -> None:
        """Close the connection, with a refusal where a request is without an answer."""
        if self._is_in_head or (self.cycle and not self.cycle.response_started):
            self._refuse(error)
        else:
            self.transport.close()

    def _refuse(self, error: Exception) -> None:
        """Answer in place of the app, and close."""
        reply = reply_to(error, request_id := secrets.token_hex(8))
        head = (
            f"HTTP/1.1 {reply.status.value} {reply.status.phrase}\r\ncontent-type: {reply.content_type}\r\n"
            f"content-length: {len(reply.content)}\r\nx-request-id: {request_id}\r\nconnection: close\r\n\r\n"
        )
        if not self.transport.is_closing():
            self.transport.write(head.encode() + reply.content)
            self.transport.close()
