"""A client of TorchServe's inference and management API over requests: one for all threads, over kept connections.

Every call has a deadline, its token, and is repeated where that is safe: `marina.client.exchange` has the rules, `marina.errors` the
errors. `marina.client.async_client` has the same for asyncio, `marina.client.grpc_client` for gRPC.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from http.cookiejar import DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import requests
from urllib3.exceptions import NewConnectionError
from urllib3.util import Timeout

from marina.client import wire
from marina.client.deadline_adapter import DeadlineAdapter
from marina.client.exchange import Deadline, Endpoint, Send, Steps, Wait
from marina.client.wire import Lost, Reply, Slice
from marina.errors import RequestError

A = TypeVar("A")
T = TypeVar("T")
POOL = 64  # connections that are kept at most; more threads than that open and close their own


class Client(Endpoint):
    """Talks to the server whose inference API is at `port` on this machine, or to the one at `url`; see `Endpoint`.

    `timeout` is the deadline of a call in seconds, repetitions included; `retries=0` switches these off. Errors: RequestRefused
    (the sender's fault), ServerUnavailable (try later), ServerFault (the server's fault), all of them RequestErrors; CallError for
    what can't be sent; ServerError where there are no tokens.
    """

    def _open(self) -> None:
        self.session = requests.Session()
        self.session.trust_env = not self.is_local  # a proxy of the environment has no business with this machine's own address
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # a jar is nothing for many threads
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, DeadlineAdapter(pool_maxsize=POOL))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the kept connections."""
        self.session.close()

    def predict(
        self,
        name: str,
        body: Any,
        version: str | None = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """The answer to one request. `body`: bytes, a Path, a PIL image, an array, or JSON (`wire.encoded`); options like top_k=3."""
        return self._run(self.steps(wire.prediction(name, body, version, content_type, headers, options), timeout))

    def predict_many(
        self,
        name: str,
        bodies: Iterable[Any],
        version: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
        in_flight: int = 4,
        **options: Any,
    ) -> list[Any]:
        """The answers to many bodies in their order, sent in slices, `in_flight` of them at a time; the first error ends it.

        `timeout` bounds the whole; without it each slice has the client's. A `seed` counts from the first body of each slice, which
        gets seed + its position.
        """
        deadline = Deadline(timeout) if timeout is not None else None

        def send(part: Slice) -> list[Any]:
            return self._run(self.many_steps(name, part, version, headers, options, deadline))

        with ThreadPoolExecutor(in_flight) as pool:
            return [answer for found in _in_order(pool, send, wire.slices(bodies), in_flight) for answer in found]

    def explain(
        self,
        name: str,
        body: Any,
        version: str | None = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Why a request is answered as it is; with format="png" the bytes of a picture, where there is one."""
        return self._run(self.steps(wire.prediction(name, body, version, content_type, headers, options, "explanations"), timeout))

    def ping(self) -> str:
        """TorchServe's own word for its health; it says Healthy with dead workers too, so ask `marina ready` instead."""
        return str(self._run(self.steps(wire.ping())))

    def models(self) -> dict[str, str]:
        """Registered models: name -> file of the default version."""
        found: dict[str, str] = self._run(self.steps(wire.models()))
        return found

    def describe(self, name: str, version: str = "all", customized: bool = False) -> list[dict[str, Any]]:
        """What the server knows of one version, of "all", or of the default one (""); workers and their states among it."""
        described: list[dict[str, Any]] = self._run(self.steps(wire.describe(name, version, customized)))
        return described

    def register(self, name: str, version: str, archive: str, timeout: float = 180.0, settings: Mapping[str, int] | None = None) -> bool:
        """Register an archive of the model store by its file name, and wait for its workers.

        True when it was registered, False when this version already was. Worker numbers and batching come from the archive,
        unless `settings` says otherwise: initial_workers, batch_size, max_batch_delay (milliseconds).
        """
        if version in self.versions(name):
            return False
        query = {"url": archive, "model_name": name, "initial_workers": 1, "synchronous": "true", **(settings or {})}
        self._run(self.steps(wire.management("POST", "", query, repeatable=False), timeout))
        return True

    def versions(self, name: str) -> list[str]:
        """Registered versions of a model; none when it is not registered."""
        try:
            return [entry["modelVersion"] for entry in self.describe(name)]
        except RequestError as error:
            if error.status == 404:
                return []
            raise

    def scale(self, name: str, version: str, workers: int, timeout: float = 180.0, most: int | None = None) -> None:
        """Set the number of workers of a version, `most` if it may grow, and wait for them."""
        query = {"min_worker": workers, "max_worker": workers if most is None else most, "synchronous": "true"}
        self._run(self.steps(wire.management("PUT", _path(name, version), query), timeout))

    def set_default(self, name: str, version: str) -> None:
        """Let requests without a version go to this one."""
        self._run(self.steps(wire.management("PUT", f"{_path(name, version)}/set-default")))

    def unregister(self, name: str, version: str | None = None) -> bool:
        """Remove a version, or all of them with the default last. True when there was something to remove."""
        registered = self.versions(name)
        default = self.describe(name, "")[0]["modelVersion"] if registered else None
        chosen = [one for one in registered if version in (None, one)]
        for one in sorted(chosen, key=lambda one: one == default):
            self._run(self.steps(wire.management("DELETE", _path(name, one), repeatable=False), 120.0))
        return bool(chosen)

    def token(self, api: str) -> str:
        """The token of "inference" or "management", renewed when it is about to expire."""
        return self._run(self.token_steps(api, Deadline(self.timeout)))

    def _run(self, steps: Steps[T]) -> T:
        """Carry out the steps of a call one by one."""
        came: Reply | Lost | None = None
        try:
            while True:
                step = steps.send(came)
                came = self._send(step) if isinstance(step, Send) else None
                if isinstance(step, Wait):
                    time.sleep(step.seconds)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            steps.close()

    def _send(self, send: Send) -> Reply | Lost:
        """One request and its whole answer."""
        within: Any = Timeout(total=send.seconds)  # which requests takes too, though its types don't say so
        try:
            answer = self.session.request(
                send.call.method, send.url, data=send.call.body or None, headers=send.headers, timeout=within, allow_redirects=False
            )
        except requests.RequestException as error:
            reason = getattr(error.args[0], "reason", None) if error.args else None
            return Lost("unconnected" if isinstance(reason, NewConnectionError) else "broken", wire.cause_of(error))
        return Reply(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, answer.content)


def _in_order(pool: ThreadPoolExecutor, work: Callable[[A], T], items: Iterable[A], ahead: int) -> Iterator[T]:
    """Results in the order of the items, of which at most `ahead` are taken before their turn."""
    waiting: deque[Future[T]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _path(name: str, version: str) -> str:
    return f"/{quote(name, safe='')}/{quote(version, safe='')}"
