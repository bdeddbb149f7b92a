"""The key file of a server: its tokens, when they are to be renewed, and who does so."""

import fcntl
import json
import math
import os
import random
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from marina.errors import ServerError

TOKEN_MARGIN_SECONDS = 60.0
TOKEN_SPREAD_SECONDS = 30.0  # clients of one key file don't all renew it at the same moment


class Key(NamedTuple):
    """A token, when it is to be renewed and when it expires; seconds of the epoch."""

    token: str
    renew_at: float
    expires: float


class Renewing:
    """A lock on the renewal of a key file's tokens, for all clients and processes of this machine; nobody waits for it.

    Of two renewals at one moment TorchServe knows the later token and may write the earlier one last, which locks everybody out.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._own, self._held = path, threading.Lock(), -1

    def acquire(self) -> bool:
        """Whether nobody else has it."""
        if not self._own.acquire(blocking=False):
            return False
        try:
            self._held = os.open(self.path, os.O_RDONLY)  # TorchServe writes the file in place, so that all open the same one
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            return False
        return True

    def release(self) -> None:
        """Let others have it."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1
        self._own.release()


class Keys:
    """The tokens in a server's key file; read again when it was written since."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.renewing = Renewing(path)
        self._margin = TOKEN_MARGIN_SECONDS + random.uniform(0, TOKEN_SPREAD_SECONDS)
        self._read: tuple[int, dict[str, Key]] = (-1, {})

    def get(self, name: str, fresh: bool = False) -> Key:
        """The token of "inference", "management" or "API". Raises ServerError when there is no such file or token in it."""
        try:
            written = os.stat(self.path).st_mtime_ns  # noqa: PTH116  # at every call: half the time of Path.stat
            if fresh or written != self._read[0]:
                self._read = (written, self._tokens(written / 1e9))
        except FileNotFoundError:
            raise ServerError(f"no tokens at {self.path}: no server of this home runs there; start one with: marina serve") from None
        if name not in self._read[1]:
            raise ServerError(f"{self.path} has no token for {name!r}; is it TorchServe's key_file.json?")
        return self._read[1][name]

    def _tokens(self, written: float) -> dict[str, Key]:
        """TorchServe writes the file in place, so that it can be met half-written."""
        for _ in range(20):
            try:
                found = json.loads(self.path.read_text(encoding="utf-8"))
                return {name: self._key(key["key"], key.get("expiration time"), written) for name, key in found.items()}
            except (ValueError, KeyError, TypeError, AttributeError):
                time.sleep(0.005)
        raise ServerError(f"{self.path} can't be read as TorchServe's key_file.json")

    def _key(self, token: str, expiry: str | None, written: float) -> Key:
        if expiry is None:
            return Key(token, math.inf, math.inf)
        expires = datetime.fromisoformat(expiry.replace("Z", "+00:00")).timestamp()
        return Key(token, expires - min(self._margin, max(0.0, expires - written) / 2), expires)
