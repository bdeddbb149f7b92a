"""A client of TorchServe's inference and management APIs over requests, with keep-alive connections.

Every call has a deadline and a token, and is retried where that is safe; `marina.client.exchange` has the
rules.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from http.cookiejar import DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack
from urllib.parse import quote

import requests
from urllib3.exceptions import NewConnectionError
from urllib3.util import Timeout

from marina.client import wire
from marina.client.deadline_adapter import DeadlineAdapter
from marina.client.exchange import Deadline, Send, Steps, Wait
from marina.client.later_answers import StreamsAndJobs
from marina.client.request_options import CallOptions, SlicedOptions
from marina.client.wire import NoResponse, Reply
from marina.core.errors import RequestError

A = TypeVar("A")
T = TypeVar("T")
SHADOW_SECONDS = 120.0  # for all processes to start or stop a shadow
POOL = 64  # kept connections; more threads than that open and close their own


class Client(StreamsAndJobs):
    """A thread-safe client of the server at `port` on this machine, or of the one at `url`; see `Endpoint`.

    `timeout` is the deadline of a call in seconds, including retries; `retries=0` disables them.

    Raises RequestRefused (the sender's fault), ServerUnavailable (try later) and ServerFault (the server's
    fault), all of them RequestErrors; CallError for a body or an option that can't be sent; ServerError
    without tokens.
    """

    def _open(self) -> None:
        self.session = requests.Session()
        # proxies of the environment are not for this machine's own address
        self.session.trust_env = not self.is_local
        # a cookie jar is not thread-safe
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, DeadlineAdapter(pool_maxsize=POOL))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the kept connections."""
        self.session.close()
        self.close_streams()

    def predict(
        self, name: str, body: Any, version: str | None = None, **options: Unpack[CallOptions]
    ) -> Any:
        """Answer one request.

        `body` is bytes, a Path, a PIL image, an array, or JSON; see `encoding.encode_body`. `options` are
        those of `CallOptions`, like top_k=3 or timeout=1.5.
        """
        return self.run(self.steps(*wire.timed_call(name, body, version, options)))

    def predict_many(
        self, name: str, bodies: Iterable[Any], version: str | None = None, **options: Unpack[SlicedOptions]
    ) -> list[Any]:
        """Answer many bodies, in their order.

        They are sent in slices, `in_flight` (4) at a time. The first error ends it.

        `timeout` is for all of them; without it each slice has the client's. With a `seed`, each slice has
        that seed plus the position of its first body.
        """
        slices, in_flight = self.sliced_steps(name, bodies, version, options)
        with ThreadPoolExecutor(in_flight) as pool:
            answered = _map_in_order(pool, self.run, slices, in_flight)
            return [answer for answers in answered for answer in answers]

    def explain(
        self, name: str, body: Any, version: str | None = None, **options: Unpack[CallOptions]
    ) -> Any:
        """Explain the answer to a request; format="png" gives the bytes of a picture, where there is one."""
        return self.run(self.steps(*wire.timed_call(name, body, version, options, "explanations")))

    def ping(self) -> str:
        """TorchServe's health, in its own words: "Healthy" even with dead workers, unlike `marina ready`."""
        return str(self.run(self.steps(wire.ping_call())))

    def models(self) -> dict[str, str]:
        """Registered models: name -> file of the default version."""
        models: dict[str, str] = self.run(self.steps(wire.models_call()))
        return models

    def describe(self, name: str, version: str = "all", customized: bool = False) -> list[dict[str, Any]]:
        """Describe one version, "all", or the default one (""): settings, workers and their states."""
        described: list[dict[str, Any]] = self.run(self.steps(wire.describe_call(name, version, customized)))
        return described

    def register(
        self,
        name: str,
        version: str,
        archive: str,
        timeout: float = 180.0,
        settings: Mapping[str, int] | None = None,
    ) -> bool:
        """Register an archive of the model store by its file name, and wait for its workers.

        Returns False if this version is registered already. `settings` override the archive's:
        initial_workers, batch_size, max_batch_delay (milliseconds).
        """
        if version in self.versions(name):
            return False
        query = {
            "url": archive,
            "model_name": name,
            "initial_workers": 1,
            "synchronous": "true",
            **(settings or {}),
        }
        self.run(self.steps(wire.management_call("POST", "", query, repeatable=False), timeout))
        return True

    def versions(self, name: str) -> list[str]:
        """Registered versions of a model; none when it is not registered."""
        try:
            return [entry["modelVersion"] for entry in self.describe(name)]
        except RequestError as error:
            if error.status == 404:
                return []
            raise

    def scale(
        self, name: str, version: str, workers: int, timeout: float = 180.0, max_workers: int | None = None
    ) -> None:
        """Set the number of workers of a version, and `max_workers` if it may grow; wait for them."""
        query = {
            "min_worker": workers,
            "max_worker": workers if max_workers is None else max_workers,
            "synchronous": "true",
        }
        self.run(self.steps(wire.management_call("PUT", _path(name, version), query), timeout))

    def set_default(self, name: str, version: str) -> None:
        """Send requests without a version to this one."""
        self.run(self.steps(wire.management_call("PUT", f"{_path(name, version)}/set-default")))

    def set_shadow(self, name: str, version: str, percent: float) -> dict[str, Any]:
        """Have a version answer so many of the model's requests beside the default one; 0 ends it.

        Nobody gets its answers; they are compared. Returns the tally, as `shadow`. Not on TorchServe.
        """
        path = f"{_path(name, version)}/shadow"
        call = wire.management_call("PUT", path, {"percent": percent})
        tally: dict[str, Any] = self.run(self.steps(call, SHADOW_SECONDS))
        return tally

    def shadow(self, name: str, version: str) -> dict[str, Any]:
        """What came of the requests that a version answered too: percent, and how many were answered the
        same, differently, not at all (failed), or had no room (skipped).
        """
        path = f"{_path(name, version)}/shadow"
        tally: dict[str, Any] = self.run(self.steps(wire.management_call("GET", path)))
        return tally

    def unregister(self, name: str, version: str | None = None) -> bool:
        """Remove a version, or all of them with the default last. Returns False if there was none."""
        registered = self.versions(name)
        default = self.describe(name, "")[0]["modelVersion"] if registered else None
        versions = [known for known in registered if version in (None, known)]
        for known in sorted(versions, key=lambda known: known == default):
            self.run(self.steps(wire.management_call("DELETE", _path(name, known), repeatable=False), 120.0))
        return bool(versions)

    def token(self, api: str) -> str:
        """The token of "inference" or "management", renewed when it is about to expire."""
        return self.run(self.token_steps(api, Deadline(self.timeout)))

    def run(self, steps: Steps[T], send: Callable[[Send], Reply | NoResponse] | None = None) -> T:
        """Carry out the steps of a call; `send` is another way to send one request."""
        outcome: Reply | NoResponse | None = None
        try:
            while True:
                step = steps.send(outcome)
                outcome = (send or self._send)(step) if isinstance(step, Send) else None
                if isinstance(step, Wait):
                    time.sleep(step.seconds)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            steps.close()

    def _send(self, send: Send) -> Reply | NoResponse:
        """Send one request and read its whole reply."""
        timeout: Any = Timeout(total=send.seconds)  # requests takes it too, though its types don't say so
        try:
            response = self.session.request(
                send.call.method,
                send.url,
                data=send.call.body or None,
                headers=send.headers,
                timeout=timeout,
                allow_redirects=False,
                stream=True,
            )
            content = _content(response)
        except requests.RequestException as error:
            reason = getattr(error.args[0], "reason", None) if error.args else None
            return NoResponse(
                "unconnected" if isinstance(reason, NewConnectionError) else "broken", wire.root_cause(error)
            )
        if content is None:
            return NoResponse("endless")
        return Reply(
            response.status_code, {name.lower(): value for name, value in response.headers.items()}, content
        )


def _content(response: requests.Response) -> bytes | None:
    """The whole body; None for one that is too long."""
    parts, size = [], 0
    for part in response.iter_content(wire.READ_BYTES):
        parts.append(part)
        size += len(part)
        if size > wire.MAX_REPLY_BYTES:
            response.close()
            return None
    return b"".join(parts)


def _map_in_order(
    pool: ThreadPoolExecutor, work: Callable[[A], T], items: Iterable[A], ahead: int
) -> Iterator[T]:
    """Results in the order of the items, of which at most `ahead` are under way."""
    waiting: deque[Future[T]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _path(name: str, version: str) -> str:
    return f"/{quote(name, safe='')}/{quote(version, safe='')}"
