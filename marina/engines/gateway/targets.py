"""Paths that ask for an answer -> the model, its version, and the protocol in which they ask.

/predictions/NAME[/VERSION[/...]]     /explanations/NAME[/VERSION[/...]]
/invocations                          /models/NAME/invoke
/v1/models/NAME:predict               /v1/models/NAME:explain
/v2/models/NAME[/versions/VERSION]/infer      .../explain
"""

from dataclasses import dataclass
from functools import lru_cache

ANY_METHOD = frozenset({"POST", "GET", "PUT", "DELETE", "PATCH", "HEAD"})
POST = frozenset({"POST"})
EXPLAINS = (b"explain", b"True")


@dataclass(frozen=True, slots=True)
class Target:
    """What a path asks for. Without a name, the request has to say it.

    `headers` are those that TorchServe adds: whether an explanation is asked for, which no caller's header
    decides, and what stands behind the version.
    """

    name: str
    version: str | None
    headers: tuple[tuple[bytes, bytes], ...]
    is_v2: bool = False
    methods: frozenset[str] = POST

    @property
    def is_for_default(self) -> bool:
        """Whether it asks whatever version is the default one for predictions."""
        return self.version is None and EXPLAINS not in self.headers


@lru_cache(1024)
def target_of(path: str) -> Target | None:
    """The target of a decoded path; None for a path that asks for something else."""
    match path.split("/")[1:]:
        case ["predictions" | "explanations" as api, name, *rest] if name:
            version = rest[0] if rest and rest[0] else None
            headers = _headers(api == "explanations", "/".join(rest[1:]))
            return Target(name, version, headers, methods=ANY_METHOD)
        case ["invocations"]:
            return Target("", None, _headers(), methods=ANY_METHOD)
        case ["models", name, "invoke"] if name:
            return Target(name, None, _headers(), methods=ANY_METHOD)
        case ["v1", "models", call]:
            return _v1_target(call)
        case ["v2", "models", name, *version, "infer" | "explain" as verb] if name:
            return _v2_target(name, version, verb)
    return None


def _v1_target(call: str) -> Target | None:
    name, _, verb = call.rpartition(":")
    is_known = name and verb in ("predict", "explain")
    return Target(name, None, _headers(verb == "explain")) if is_known else None


def _v2_target(name: str, parts: list[str], verb: str) -> Target | None:
    match parts:
        case []:
            return Target(name, None, _headers(verb == "explain"), is_v2=True)
        case ["versions", version] if version:
            return Target(name, version, _headers(verb == "explain"), is_v2=True)
    return None


def _headers(explain: bool = False, rest: str = "") -> tuple[tuple[bytes, bytes], ...]:
    return (EXPLAINS if explain else (b"explain", b"False"), (b"url_path", rest.encode("latin-1", "replace")))
