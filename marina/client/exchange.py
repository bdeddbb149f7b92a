"""How a call is carried out: its token, its deadline and its retries, without any I/O.

The steps of a call are a generator. It yields the next step, `Send` or `Wait`, receives the outcome, and ends
with the answer or an error. The clients do the I/O: `marina.client` with requests,
`marina.client.async_client` with httpx, `marina.client.grpc_client` with gRPC. So all of them follow the same
rules.

A call is retried at most `retries` times and never beyond its deadline, with exponential backoff and full
jitter (Brooker, Exponential Backoff And Jitter, AWS Architecture Blog 2015), to which the server's
Retry-After is added:

    what happened                                  a prediction, GET, PUT   POST, DELETE
    no connection: nothing was sent                yes                      yes
    the connection broke before a whole answer     yes                      no
    502, 503 (queue full, no worker), 504, 507     yes                      no
    a worker died under the request                once: it may have killed the worker   no
    503 "Prediction failed", other 5xx, any 4xx    no                       no
    the deadline passed                            no                       no

Of several hosts the next try goes to another, which counts as no retry where nothing was sent
(`marina.client.hosts`). A try that takes longer than `try_seconds` counts as a broken connection.

A token that another client has renewed is read again from the key file; that counts as no retry.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from marina.client import wire
from marina.client.encoding import Slice, slice_bodies
from marina.client.hosts import PROBE_SECONDS, SETTLE_SECONDS, Hosts
from marina.client.keys import Key, Keys
from marina.client.request_options import RequestOptions, SlicedOptions
from marina.client.wire import Call, NoResponse, Reply
from marina.core import paths
from marina.core.errors import CallError, RequestError, RequestRefused, ServerError, ServerUnavailable

BASE_SECONDS, LONGEST_SECONDS = 0.1, 5.0


@dataclass(frozen=True)
class Send:
    """Send `call` to `url` within `seconds`; the outcome is a Reply or NoResponse."""

    call: Call
    url: str
    headers: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class Wait:
    """Wait for `seconds`."""

    seconds: float


T = TypeVar("T")
Steps = Generator[Send | Wait, Reply | NoResponse | None, T]


class Deadline:
    """The moment `seconds` from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds; negative once it has passed."""
        return self._end - time.monotonic()


def _is_open(folder: Path) -> bool:
    """Whether the server with its files in `folder` was started without tokens."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and state.get("tokens") is False


class Endpoint:
    """The base of all clients: where a server is, and its tokens.

    By default it is the server at `port` on this machine (management at port + 1), with the key file of
    `marina serve` in the project `home` (default: `paths.find_home`). Or it is the server at `url`, which may
    be several addresses of the same one (the nodes of a cluster), and `management_url`, with a `token` for
    both APIs, another `key_file`, or no token.
    """

    def __init__(
        self,
        port: int = 8080,
        *,
        url: str | Sequence[str] | None = None,
        management_url: str | None = None,
        key_file: Path | None = None,
        token: str | None = None,
        timeout: float = 30.0,
        retries: int = 3,
        try_seconds: float | None = None,
        home: Path | None = None,
    ) -> None:
        if token and key_file:
            raise CallError("give either a token or a key_file")
        if url is None:
            management_url = management_url or f"http://127.0.0.1:{port + 1}"
            if not (token or key_file or _is_open(folder := paths.run(port, home))):
                key_file = folder / "key_file.json"
        urls = [url] if isinstance(url, str) else list(url or [f"http://127.0.0.1:{port}"])
        self.hosts = Hosts([one.rstrip("/") for one in urls])
        self.inference = self.hosts.urls[0]
        self.management = management_url.rstrip("/") if management_url else None
        self.is_local = self.hosts.are_local()
        self.key_file = key_file
        self.timeout, self.retries, self.try_seconds = timeout, retries, try_seconds
        self._fixed, self._keys = token, Keys(key_file) if key_file else None
        self._open()

    def _open(self) -> None:
        """Prepare the transport."""
        raise NotImplementedError

    def steps(self, call: Call, timeout: float | None = None, deadline: Deadline | None = None) -> Steps[Any]:
        """Carry out one call within `timeout` seconds (or the deadline). Raises a RequestError."""
        deadline = deadline or Deadline(self.timeout if timeout is None else timeout)
        counts: Counter[str] = Counter()
        tried: set[str] = set()
        while True:
            token = yield from self.token_steps(call.api, deadline)
            host = (yield from self._host(tried, deadline)) if call.api == "inference" else ""
            url = self._url(call, host)
            outcome = yield from _send_once(call, url, token, deadline, self.try_seconds)
            if self._note(host, tried, outcome):
                continue
            error = wire.find_error(call, url, outcome, deadline.seconds)
            if error is None:
                return wire.parse_answer(call, outcome)  # type: ignore[arg-type]  # no failure is a Reply
            if is_refused_token(error) and (
                yield from self._has_another(call.api, token, deadline, first=not counts["token"])
            ):
                counts["token"] += 1
                continue
            reason, limit = _retry_limit(call, outcome, error)
            retries = counts.total() - counts["token"]
            pause = _backoff(retries, None if host and self.hosts.has_another(tried) else outcome)
            counts[reason] += 1
            if counts[reason] > limit or retries + 1 > self.retries or pause >= deadline.left():
                raise error
            yield Wait(pause)

    def token_steps(self, api: str, deadline: Deadline) -> Steps[str]:
        """The token of an API, renewed when it is about to expire; empty where none is used."""
        if self._keys is None:
            return self._fixed or ""
        key = self._keys.get(api)
        if time.time() < key.renew_at or not self.management or not self._keys.renewal_lock.acquire():
            # also while another call renews it: if it is void by then, the new one is read after the error
            return key.token
        try:
            key = self._keys.get(api)
            return key.token if time.time() < key.renew_at else (yield from self._renewed(api, key, deadline))
        finally:
            self._keys.renewal_lock.release()

    def sliced_steps(
        self, name: str, bodies: Iterable[Any], version: str | None, options: SlicedOptions
    ) -> tuple[Iterator[Steps[list[Any]]], int]:
        """The steps of each slice of many bodies, and how many slices are to be sent at a time."""
        own = options.copy()
        headers, timeout = own.pop("headers", None), own.pop("timeout", None)
        in_flight = own.pop("in_flight", 4)
        deadline = Deadline(timeout) if timeout is not None else None
        parts = slice_bodies(bodies)
        return (self.many_steps(name, part, version, headers, own, deadline) for part in parts), in_flight

    def many_steps(
        self,
        name: str,
        part: Slice,
        version: str | None,
        headers: Mapping[str, str] | None,
        options: RequestOptions,
        deadline: Deadline | None,
    ) -> Steps[list[Any]]:
        """The answers to one slice of many bodies; a slice that is too large for the server is halved."""
        start, bodies = part
        own, seed = options, options.get("seed")
        if start and isinstance(seed, int):
            own = {**options, "seed": seed + start}
        if len(bodies) == 1:
            content, content_type = bodies[0]
            return [
                (
                    yield from self.steps(
                        wire.predict_call(name, content, version, content_type, headers, own),
                        deadline=deadline,
                    )
                )
            ]
        try:
            answers: list[Any] = yield from self.steps(
                wire.predict_many_call(name, bodies, version, headers, own), deadline=deadline
            )
            return answers
        except RequestRefused as error:
            if error.status != 413:
                raise
        half = len(bodies) // 2
        first = yield from self.many_steps(name, (start, bodies[:half]), version, headers, options, deadline)
        rest = yield from self.many_steps(
            name, (start + half, bodies[half:]), version, headers, options, deadline
        )
        return first + rest

    def _host(self, tried: Collection[str], deadline: Deadline) -> Steps[str]:
        """The host to send to: one that answers, as far as is known or a probe says."""
        best = ""
        for host in self.hosts.in_turn(tried):
            best = best or host
            if not self.hosts.is_doubtful(host):
                return host
            probe = wire.ping_call()
            outcome = yield from _send_once(probe, host + probe.path, "", deadline, PROBE_SECONDS)
            if isinstance(outcome, Reply) and outcome.status == HTTPStatus.OK:
                self.hosts.set_answered(host)
                return host
            self.hosts.set_failed(host)
        return best  # none answers a probe: the call itself will say why

    def _note(self, host: str, tried: set[str], outcome: Reply | NoResponse) -> bool:
        """Remember how a host did; whether to try another at once, since nothing was sent."""
        tried.add(host)
        if not host or not isinstance(outcome, NoResponse) or outcome.how == "endless":
            return False
        self.hosts.set_failed(host)
        return outcome.how == "unconnected" and self.hosts.has_another(tried)

    def _url(self, call: Call, host: str = "") -> str:
        if call.api == "inference":
            return (host or self.inference) + call.path
        if not self.management:
            raise CallError("this client knows no management API; give it a management_url")
        return self.management + call.path

    def _renewed(self, api: str, old: Key, deadline: Deadline) -> Steps[str]:
        """A new token. TorchServe writes it to the key file and accepts the old one no longer."""
        assert self._keys
        call = Call("GET", "management", f"/token?type={api}")
        outcome = yield from _send_once(call, self._url(call), self._keys.get("API").token, deadline)
        if error := wire.find_error(call, self._url(call), outcome, deadline.seconds):
            if time.time() < old.expires:
                return old.token
            raise type(error)(
                f"the {api} token has expired and can't be renewed: {error}",
                error.status,
                message=error.message,
            ) from error
        if not (yield from self._is_replaced(api, old.token, deadline)):
            raise ServerError(
                f"the {api} token was renewed, but {self._keys.path} has the old one: it is not that "
                "server's key file"
            )
        return self._keys.get(api).token

    def _has_another(self, api: str, token: str, deadline: Deadline, first: bool) -> Steps[bool]:
        """Whether there is another token than the refused one.

        The `first` time in a call it is renewed if necessary.

        The key file has a void token when clients of two machines, or other programs, renewed it at the same
        time. Only another renewal ends that.
        """
        if (yield from self._is_replaced(api, token, deadline)):
            return True
        if not (first and self._keys and self.management and self._keys.can_renew()):
            return False
        if not self._keys.renewal_lock.acquire():  # another call renews it
            return (yield from self._is_replaced(api, token, deadline))
        try:
            if self._keys.get(api, fresh=True).token != token:
                return True
            call = Call("GET", "management", f"/token?type={api}")
            outcome = yield from _send_once(call, self._url(call), self._keys.get("API").token, deadline)
            if wire.find_error(call, self._url(call), outcome, deadline.seconds):
                return False
            return (yield from self._is_replaced(api, token, deadline))
        finally:
            self._keys.renewal_lock.release()

    def _is_replaced(self, api: str, token: str, deadline: Deadline) -> Steps[bool]:
        """Whether the key file gets another token than the refused one within half a second."""
        for _ in range(10 if self._keys else 0):
            assert self._keys
            if self._keys.get(api, fresh=True).token != token:
                return True
            if deadline.left() < 0.05:
                return False
            yield Wait(0.05)
        return False


def is_refused_token(error: RequestError) -> bool:
    """Whether the token is wrong, expired or replaced by a newer one: TorchServe answers 400, others 401."""
    return error.status in (400, 401) and error.type == "InvalidKeyException"


def _send_once(
    call: Call, url: str, token: str, deadline: Deadline, try_seconds: float | None = None
) -> Steps[Reply | NoResponse]:
    """Send it, for at most the time that is left, or `try_seconds`."""
    if deadline.left() <= 0:
        return NoResponse("late")
    headers = {"authorization": f"Bearer {token}", **call.headers} if token else dict(call.headers)
    seconds = min(deadline.left(), try_seconds or deadline.seconds)
    outcome = yield Send(call, url, headers, seconds)
    assert outcome
    if isinstance(outcome, NoResponse) and deadline.left() <= 0:
        return NoResponse("late")
    if isinstance(outcome, NoResponse) and outcome.how == "late":  # of this try
        return NoResponse("broken", f"no answer within {seconds:g} s")
    return outcome


def _retry_limit(call: Call, outcome: Reply | NoResponse, error: RequestError) -> tuple[str, int]:
    """(reason of a retry, how often this reason is retried)."""
    unlimited = 1_000_000  # but for `retries`
    if isinstance(outcome, NoResponse):
        allowed = outcome.how == "unconnected" or (outcome.how == "broken" and call.repeatable)
        return outcome.how, unlimited if allowed else 0
    if error.message == wire.DIED:
        return "died", 1 if call.repeatable else 0
    allowed = call.repeatable and isinstance(error, ServerUnavailable) and error.status >= 500
    return "busy", unlimited if allowed else 0


def _backoff(retries: int, outcome: Reply | NoResponse | None) -> float:
    """Seconds until the next try; without an outcome where another host is tried."""
    pause = random.uniform(0, min(LONGEST_SECONDS, BASE_SECONDS * 2**retries))
    if isinstance(outcome, Reply):
        pause += wire.retry_after(outcome)
    return pause if outcome else pause + SETTLE_SECONDS
