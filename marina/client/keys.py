"""The key file of a server: its tokens, when they are renewed, and by which client."""

import json
import math
import os
import random
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from filelock import lock_descriptor

from marina.core.errors import ServerError

SCOPES = ("inference", "management", "API")  # API renews the others, on TorchServe
TOKEN_MARGIN_SECONDS = 60.0
TOKEN_SPREAD_SECONDS = 30.0  # so that not all clients of a key file renew at the same moment


class Key(NamedTuple):
    """A token, when to renew it and when it expires, in seconds since the epoch."""

    token: str
    renew_at: float
    expires: float


class RenewalLock:
    """Lets one client of a key file renew its tokens at a time, among all processes of this machine.

    Of two renewals at the same moment TorchServe knows the later token but may write the earlier one last,
    which locks everybody out. The lock is on the key file itself, opened for reading, so that it also works
    where the folder is mounted read-only.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._own, self._held = path, threading.Lock(), -1

    def acquire(self) -> bool:
        """Take the lock without waiting; False when somebody else has it or there is no key file."""
        if not self._own.acquire(blocking=False):
            return False
        try:
            # TorchServe writes the file in place, so that everybody opens the same inode
            self._held = os.open(self.path, os.O_RDONLY)
            is_locked = lock_descriptor(self._held, blocking=False)
        except OSError:
            is_locked = False
        if not is_locked:
            self.release()
        return is_locked

    def release(self) -> None:
        """Let others renew."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1
        self._own.release()


class Keys:
    """The tokens in a server's key file; read again after a change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.renewal_lock = RenewalLock(path)
        self._margin = TOKEN_MARGIN_SECONDS + random.uniform(0, TOKEN_SPREAD_SECONDS)
        self._read: tuple[int, dict[str, Key]] = (-1, {})

    def get(self, name: str, fresh: bool = False) -> Key:
        """The token of "inference", "management" or "API". Raises ServerError if there is none."""
        try:
            # at every call, and in half the time of Path.stat
            written = os.stat(self.path).st_mtime_ns  # noqa: PTH116
            if fresh or written != self._read[0]:
                self._read = (written, self._tokens(written / 1e9))
        except FileNotFoundError:
            raise ServerError(
                f"no tokens at {self.path}: no server of this home runs there; start one with: marina serve"
            ) from None
        if name not in self._read[1]:
            raise ServerError(f"{self.path} has no token for {name!r}; is it a server's key_file.json?")
        return self._read[1][name]

    def can_renew(self) -> bool:
        """Whether the file has the key that renews tokens; only TorchServe's expire."""
        return "API" in self._read[1]

    def _tokens(self, written: float) -> dict[str, Key]:
        """Read the file, again while it is incomplete: TorchServe writes it in place."""
        for _ in range(20):
            try:
                tokens = {}
                for name, key in json.loads(self.path.read_text(encoding="utf-8")).items():
                    if name in SCOPES:  # a server may have further keys, for other callers
                        tokens[name] = self._key(key["key"], key.get("expiration time"), written)
                return tokens
            except (ValueError, KeyError, TypeError, AttributeError):
                time.sleep(0.005)
        raise ServerError(f"{self.path} can't be read as a server's key_file.json")

    def _key(self, token: str, expiry: str | None, written: float) -> Key:
        if expiry is None:
            return Key(token, math.inf, math.inf)
        expires = datetime.fromisoformat(expiry.replace("Z", "+00:00")).timestamp()
        return Key(token, expires - min(self._margin, max(0.0, expires - written) / 2), expires)
