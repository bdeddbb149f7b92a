"""uvicorn as this engine runs it: several servers in one process, none of which takes signals."""

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from marina.engines.gateway.http_protocol import HttpProtocol

CLOSING = (b"connection", b"close")


class HttpServer(uvicorn.Server):
    """Ends when `should_exit` is set, when it has answered what it has accepted."""

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=HttpProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                **options,
            )
        )

    def end_connections(self) -> None:
        """End each connection behind its next answer, in which its caller is told so."""
        # the default headers of answers are these, made again every second
        self.config.encoded_headers.append(CLOSING)
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSING]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none: they concern the process."""
        yield


def allow_connections() -> None:
    """Let this process hold as many connections as the system allows it; by default it is often 1024, which
    callers that say nothing could use up.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS says that there is no limit, and has one
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def runner() -> asyncio.Runner:
    """A runner with the fastest event loop that there is."""
    return asyncio.Runner(loop_factory=auto_loop_factory())
