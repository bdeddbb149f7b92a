"""How a call is carried out: its token, its deadline, and what is sent again when. Nothing here waits or sends.

The steps of a call are a generator: it yields what is to be done next - `Send` or `Wait` - and is handed what came of it, until
it returns the answer or raises the error. Whoever drives it brings the I/O: `marina.client` with requests,
`marina.client.async_client` with httpx, `marina.client.grpc_client` with gRPC; so there is one set of rules for all.

Sent again, at most `retries` times and never beyond the deadline, after a random wait that doubles ("full jitter": Brooker,
Exponential Backoff And Jitter, AWS Architecture Blog 2015), to which the server's Retry-After is added:

    what happened                                  a prediction, GET, PUT   POST, DELETE
    no connection: nothing was sent                yes                      yes
    the connection broke before a whole answer     yes                      no
    502, 503 (queue full, no worker), 504, 507     yes                      no
    a worker died under the request                once: it may be what killed it        no
    503 "Prediction failed", other 5xx, any 4xx    no                       no
    the deadline passed                            no                       no

Beside that, a token that another client has renewed is read again from the key file.
"""

import json
import random
import re
import time
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from marina import paths
from marina.client import wire
from marina.client.keys import Key, Keys
from marina.client.wire import Call, Lost, Reply, Slice
from marina.errors import CallError, RequestError, RequestRefused, ServerError, ServerUnavailable

BASE_SECONDS, LONGEST_SECONDS = 0.1, 5.0


@dataclass(frozen=True)
class Send:
    """Send `call` to `url` within `seconds`, with these headers; answered with a Reply or Lost."""

    call: Call
    url: str
    headers: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class Wait:
    """Do nothing for `seconds`."""

    seconds: float


T = TypeVar("T")
Steps = Generator[Send | Wait, Reply | Lost | None, T]


class Deadline:
    """The moment `seconds` from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds; negative once it has passed."""
        return self._end - time.monotonic()


def _is_open(port: int) -> bool:
    """Whether the server of this home at `port` was started without tokens."""
    try:
        state = json.loads((paths.run(port) / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and state.get("tokens") is False


class Endpoint:
    """Where a server is and how it is spoken to: what all clients have in common.

    By default the one at `port` on this machine (management at port + 1), with the key file that `marina serve` keeps; or the one
    at `url` and `management_url`, with a `token` for both APIs, with another `key_file`, or without any token.
    """

    def __init__(
        self,
        port: int = 8080,
        *,
        url: str | None = None,
        management_url: str | None = None,
        key_file: Path | None = None,
        token: str | None = None,
        timeout: float = 30.0,
        retries: int = 3,
    ) -> None:
        if token and key_file:
            raise CallError("give either a token or a key_file")
        if url is None:
            management_url = management_url or f"http://127.0.0.1:{port + 1}"
            key_file = key_file or (None if token or _is_open(port) else paths.run(port) / "key_file.json")
        self.inference = (url or f"http://127.0.0.1:{port}").rstrip("/")
        self.management = management_url.rstrip("/") if management_url else None
        self.is_local = re.match(r"http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?($|/)", self.inference) is not None
        self.key_file = key_file
        self.timeout, self.retries = timeout, retries
        self._fixed, self._keys = token, Keys(key_file) if key_file else None
        self._open()

    def _open(self) -> None:
        """Prepare whatever sends."""
        raise NotImplementedError

    def steps(self, call: Call, timeout: float | None = None, deadline: Deadline | None = None) -> Steps[Any]:
        """Carry out one call within `timeout` seconds (or the deadline). Raises a RequestError."""
        deadline = deadline or Deadline(self.timeout if timeout is None else timeout)
        url = self._url(call)
        happened: Counter[str] = Counter()
        while True:
            token = yield from self.token_steps(call.api, deadline)
            outcome = yield from _sent(call, url, token, deadline)
            error = wire.failure_of(call, url, outcome, deadline.seconds)
            if error is None:
                return wire.answer_of(call, outcome)  # type: ignore[arg-type]  # only a Reply is no failure
            if is_refused_token(error) and (yield from self._has_another(call.api, token, deadline, first=not happened["token"])):
                happened["token"] += 1
                continue
            sort, most = _repeats(call, outcome, error)
            repeated = happened.total() - happened["token"]
            pause = _backoff(repeated, outcome)
            happened[sort] += 1
            if happened[sort] > most or repeated + 1 > self.retries or pause >= deadline.left():
                raise error
            yield Wait(pause)

    def token_steps(self, api: str, deadline: Deadline) -> Steps[str]:
        """The token of an API, renewed when it is about to expire; empty where none is used."""
        if self._keys is None:
            return self._fixed or ""
        key = self._keys.get(api)
        if time.time() < key.renew_at or not self.management or not self._keys.renewing.acquire():
            return key.token  # also while another call renews it: should it be void by then, the new one is read after the refusal
        try:
            key = self._keys.get(api)
            return key.token if time.time() < key.renew_at else (yield from self._renewed(api, key, deadline))
        finally:
            self._keys.renewing.release()

    def many_steps(
        self,
        name: str,
        part: Slice,
        version: str | None,
        headers: Mapping[str, str] | None,
        options: Mapping[str, Any],
        deadline: Deadline | None,
    ) -> Steps[list[Any]]:
        """The answers to one slice of many bodies; it is halved where it, or its answer, is too large for the server."""
        start, bodies = part
        own = {**options, "seed": options["seed"] + start} if start and isinstance(options.get("seed"), int) else options
        if len(bodies) == 1:
            content, content_type = bodies[0]
            return [(yield from self.steps(wire.prediction(name, content, version, content_type, headers, own), deadline=deadline))]
        try:
            answers: list[Any] = yield from self.steps(wire.predictions(name, bodies, version, headers, own), deadline=deadline)
            return answers
        except RequestRefused as error:
            if error.status != 413:
                raise
        half = len(bodies) // 2
        first = yield from self.many_steps(name, (start, bodies[:half]), version, headers, options, deadline)
        rest = yield from self.many_steps(name, (start + half, bodies[half:]), version, headers, options, deadline)
        return first + rest

    def _url(self, call: Call) -> str:
        if call.api == "inference":
            return self.inference + call.path
        if not self.management:
            raise CallError("this client knows no management API; give it a management_url")
        return self.management + call.path

    def _renewed(self, api: str, old: Key, deadline: Deadline) -> Steps[str]:
        """A new token. TorchServe writes it to the key file; the old one is void from now on."""
        assert self._keys
        call = Call("GET", "management", f"/token?type={api}")
        outcome = yield from _sent(call, self._url(call), self._keys.get("API").token, deadline)
        if error := wire.failure_of(call, self._url(call), outcome, deadline.seconds):
            if time.time() < old.expires:
                return old.token
            raise type(error)(f"the {api} token has expired and can't be renewed: {error}", error.status, message=error.message) from error
        if not (yield from self._is_replaced(api, old.token, deadline)):
            raise ServerError(f"the {api} token was renewed, but {self._keys.path} has the old one: it is not that server's key file")
        return self._keys.get(api).token

    def _has_another(self, api: str, token: str, deadline: Deadline, first: bool) -> Steps[bool]:
        """Whether there is another token than the refused one now; one is asked for, `first` time in a call, where the file has none.

        That happens where two machines' clients, or others than ours, renewed it at one moment. Nothing but one more renewal ends it.
        """
        if (yield from self._is_replaced(api, token, deadline)):
            return True
        if not (first and self._keys and self.management):
            return False
        if not self._keys.renewing.acquire():  # somebody asks for one, which may take a while
            return (yield from self._is_replaced(api, token, deadline))
        try:
            if self._keys.get(api, fresh=True).token != token:
                return True
            call = Call("GET", "management", f"/token?type={api}")
            outcome = yield from _sent(call, self._url(call), self._keys.get("API").token, deadline)
            if wire.failure_of(call, self._url(call), outcome, deadline.seconds):
                return False
            return (yield from self._is_replaced(api, token, deadline))
        finally:
            self._keys.renewing.release()

    def _is_replaced(self, api: str, token: str, deadline: Deadline) -> Steps[bool]:
        """Whether the key file has another token than the refused one, now or very soon: another client may just renew it."""
        for _ in range(10 if self._keys else 0):
            assert self._keys
            if self._keys.get(api, fresh=True).token != token:
                return True
            if deadline.left() < 0.05:
                return False
            yield Wait(0.05)
        return False


def is_refused_token(error: RequestError) -> bool:
    """TorchServe answers 400 to a token that is wrong, expired or replaced by a newer one."""
    return error.status == 400 and error.type == "InvalidKeyException"


def _sent(call: Call, url: str, token: str, deadline: Deadline) -> Steps[Reply | Lost]:
    if deadline.left() <= 0:
        return Lost("late")
    headers = {"authorization": f"Bearer {token}", **call.headers} if token else dict(call.headers)
    outcome = yield Send(call, url, headers, deadline.left())
    assert outcome
    return Lost("late") if isinstance(outcome, Lost) and deadline.left() <= 0 else outcome


def _repeats(call: Call, outcome: Reply | Lost, error: RequestError) -> tuple[str, int]:
    """(what happened, how often it may happen before it is an error)."""
    many = 1_000_000  # then `retries` is what counts
    if isinstance(outcome, Lost):
        allowed = outcome.how == "unconnected" or (outcome.how == "broken" and call.repeatable)
        return outcome.how, many if allowed else 0
    if error.message == wire.DIED:
        return "died", 1 if call.repeatable else 0
    allowed = call.repeatable and isinstance(error, ServerUnavailable) and error.status >= 500
    return "busy", many if allowed else 0


def _backoff(repeated: int, outcome: Reply | Lost) -> float:
    """Seconds until the next try."""
    drawn = random.uniform(0, min(LONGEST_SECONDS, BASE_SECONDS * 2**repeated))
    return drawn + (_retry_after(outcome.headers.get("retry-after", "")) if isinstance(outcome, Reply) else 0.0)


def _retry_after(text: str) -> float:
    """Seconds of a Retry-After header: a number or a date (RFC 9110, section 10.2.3); 0 for what is neither."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
