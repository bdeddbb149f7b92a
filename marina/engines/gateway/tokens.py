"""Who may call: keys with scopes, sent as `Authorization: Bearer KEY` and in no other way."""

import hmac
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from marina.core.errors import CallError
from marina.engines.gateway.failures import InvalidKey

SCOPES = ("inference", "management")


class Tokens:
    """The keys of a server. Several may be valid at once, so that servers behind a load balancer share some,
    and a key is changed without a moment in which callers are refused.
    """

    def __init__(self, keys: Iterable[tuple[str, Iterable[str]]] | None) -> None:
        """`keys` are pairs of a key and its scopes; None lets everybody in."""
        self._keys = None if keys is None else [(key.encode(), frozenset(scopes)) for key, scopes in keys]

    @classmethod
    def open(cls) -> "Tokens":
        """Nobody needs a key."""
        return cls(None)

    @classmethod
    def from_file(cls, path: Path) -> "Tokens":
        """The keys in a key file: {"inference": {"key"}, "management": {"key"}, "keys": [{"name", "key",
        "scopes"}]}, each of which may be left out.

        Raises CallError for a file that can't be read as that, or that names an unknown scope.
        """
        try:
            return cls.from_content(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            form = '{"inference": {"key": "..."}, "keys": [{"name": "...", "key": "...", "scopes": [...]}]}'
            raise CallError(f"{path} is no key file like {form}: {error!r}") from error

    @classmethod
    def from_content(cls, content: Mapping[str, Any] | None) -> "Tokens":
        """The keys in a key file's content; None lets everybody in."""
        if content is None:
            return cls.open()
        return cls([*_of_scopes(content), *(_listed(entry) for entry in content.get("keys", []))])

    def check(self, authorization: str, scope: str) -> None:
        """Raise InvalidKey unless the header's key has the scope. Takes as long for every key of one length,
        right or wrong.
        """
        if self._keys is None:
            return
        scheme, _, key = authorization.partition(" ")
        sent, allowed = key.strip().encode(), False
        for known, scopes in self._keys:
            allowed |= hmac.compare_digest(known, sent) and scope in scopes
        if not allowed or scheme.lower() != "bearer":
            raise InvalidKey(scope)


def _of_scopes(content: Mapping[str, Any]) -> list[tuple[str, tuple[str]]]:
    return [(_key(content[scope]), (scope,)) for scope in SCOPES if scope in content]


def _listed(entry: Mapping[str, Any]) -> tuple[str, list[str]]:
    scopes = list(entry["scopes"])
    if not scopes or not set(scopes) <= set(SCOPES):
        raise ValueError(f"scopes must be some of {', '.join(SCOPES)}, not {scopes}")
    return _key(entry), scopes


def _key(entry: Mapping[str, Any]) -> str:
    key = entry["key"]
    if not isinstance(key, str) or len(key) < 8:
        raise ValueError("a key must be a text of at least 8 characters")
    return key
