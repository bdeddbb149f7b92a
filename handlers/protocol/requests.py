"""Requests: from TorchServe's rows to the instances that a kind decodes, and answers back in the protocol
that was used.

    body                                   instances        answer
    raw bytes, multipart field, own JSON   one              the kind's own answer
    what a kind takes apart (CSV)          one per row      {"rows": [answer or {"error": ...}, ...]}
    {"instances": [...]} (KServe v1)       one per element  {"predictions": [answer, ...]}
    {"inputs": [...]} (KServe v2)          one per row      {"model_name", "outputs": [tensor, ...], ...}
        (protocol.kserve)

Options come as header, form field, JSON key, v2 parameter, or key of one instance; the nearest to the
instance counts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from .bodies import read_body
from .errors import BadRequest, RequestError, TooLarge, quoted
from .kserve import BINARY_HEADER, TensorRequest, read_tensors
from .options import Option, nearest

MAX_INSTANCES = 10_000

Options = Mapping[str, Option]


class Repeated(tuple[Any, ...]):
    """What a form has under one name, where that is more than one thing."""


def form_fields(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a form by their names; what came under one name more than once is `Repeated`."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name not in fields:
            fields[name] = value
        elif isinstance(fields[name], Repeated):
            fields[name] = Repeated((*fields[name], value))
        else:
            fields[name] = Repeated((fields[name], value))
    return fields


# what TorchServe gives: the body's fields, and the headers by lower-case name
Row = tuple[Mapping[str, Any], Mapping[str, str]]


@dataclass(slots=True)
class Instance:
    """One thing to answer: bytes, text, parsed JSON or the row of a tensor; its options; its position in the
    request; and the slot of the batch that it is to be written into, where there is one
    (`inputs.batch_buffer`).
    """

    payload: Any
    options: dict[str, Any] = field(default_factory=dict)
    position: int = 0
    slot: np.ndarray | None = None


@dataclass(slots=True)
class Prepared:
    """One instance, ready for the batch: the graph's inputs (without batch dimension) and what
    postprocessing needs of it.
    """

    arrays: tuple[np.ndarray, ...]
    options: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)  # width and height of the picture that was sent, for boxes
    truncated: bool = False  # whether the graph gets the beginning of what was sent alone
    basis: Any = None  # what the outputs are relative to, as the last value is of a forecast


@dataclass(slots=True)
class Request:
    """One request: its instances and the protocol in which they came."""

    instances: list[Instance]
    protocol: Literal["own", "rows", "v1", "v2"] = "own"
    tensors: TensorRequest | None = None  # v2's own


def lower_case(headers: Mapping[str, Any]) -> dict[str, str]:
    """Headers by lower-case name; TorchServe puts a mapping of its own there for every field of the body."""
    return {name.lower(): value for name, value in headers.items() if isinstance(value, str)}


@dataclass(slots=True)
class Call:
    """What the headers of a request say, by lower-case name; many requests of a batch share theirs."""

    headers: Mapping[str, str]
    options: dict[str, Any]  # as they came
    describe: bool = False
    explain: bool = False


def read_call(headers: Mapping[str, str], options: Options) -> Call:
    """What `headers` ask for; `options` are those that the kind knows. Raises BadRequest for a flag
    that is neither true nor false.
    """
    if not options:
        return Call(headers, {}, _flag(headers, "describe"), _flag(headers, "explain"))
    # a format that it names counts more
    asked = {"format": "png", **headers} if "image/png" in headers.get("accept", "") else headers
    found = {name: value for header, value in asked.items() if (name := header.replace("-", "_")) in options}
    return Call(headers, found, _flag(headers, "describe"), _flag(headers, "explain"))


def read_request(
    row: Mapping[str, Any],
    call: Call,
    options: Options,
    max_instances: int = MAX_INSTANCES,
    *,
    takes_text: bool = False,
) -> Request:
    """One row of TorchServe as a `Request`. A kind that `takes_text` may get texts that begin like JSON.

    Raises BadRequest for rows without exactly one payload and for options that are out of bounds, TooLarge
    for more than `max_instances`.
    """
    if Repeated in map(type, row.values()):
        name, value = next((name, value) for name, value in row.items() if isinstance(value, Repeated))
        raise BadRequest(
            f"the form has {name[:40]!r} {len(value)} times; send it once, and several files as JSON "
            '{"instances": [...]}'
        )
    found = call.options
    fields = row
    if options.keys() & row.keys():
        found = {**found, **{name: value for name, value in row.items() if name in options}}
        fields = {name: value for name, value in row.items() if name not in options}
    is_v2 = BINARY_HEADER in call.headers
    try:
        payload, binary = read_body(_only_field(fields, options), call.headers, takes_text)
        is_v2 = isinstance(payload, dict) and "inputs" in payload
        if is_v2:
            return _of_tensors(read_tensors(payload, binary, max_instances), found, options)
    except RequestError as refusal:
        refusal.is_v2 = is_v2
        raise
    if isinstance(payload, dict) and "instances" in payload:
        found = {**found, **{name: payload[name] for name in options if name in payload}}
        return Request(_instances(_listed(payload, options, max_instances), found, options), "v1")
    has_options = found or (options and isinstance(payload, dict))
    return Request(_instances([payload], found, options) if has_options else [Instance(payload)])


def by_rows(request: Request, rows: list[Any]) -> Request:
    """A request whose one payload holds these `rows`: an instance for each, with the same options. A row that
    is refused costs the others nothing.
    """
    options = request.instances[0].options
    return Request([Instance(row, options, place) for place, row in enumerate(rows)], "rows")


def _of_tensors(tensors: TensorRequest, found: dict[str, Any], options: Options) -> Request:
    ignored = tuple(sorted(tensors.parameters.keys() - options.keys()))
    for name in ignored:
        if meant := nearest(name, options):
            raise BadRequest(f"there is no parameter {name[:40]!r}; did you mean {meant}?")
    own = {name: value for name, value in tensors.parameters.items() if name in options}
    payloads = [_plain_options(_single(row), options) for row in tensors.instances]
    instances = _instances(payloads, {**found, **own}, options)
    return Request(instances, "v2", replace(tensors, ignored=ignored))


def _only_field(fields: Mapping[str, Any], options: Options) -> Any:
    if not fields:
        ways = (
            "the bytes as they are (curl -T FILE), JSON as application/json, or the form field 'data' "
            "(curl -F data=@FILE)"
        )
        raise BadRequest(f"the request has no body; send {ways}")
    if len(fields) > 1:
        known = ", ".join(["data", *options])
        raise BadRequest(
            f"the form has the fields {quoted(sorted(fields))}; send one payload, and several files "
            f'as JSON {{"instances": [...]}}; known fields: {known}'
        )
    return next(iter(fields.values()))


def _listed(payload: dict[str, Any], options: Options, max_instances: int) -> list[Any]:
    unknown = sorted(payload.keys() - {"instances", *options})
    if unknown:
        raise BadRequest(f"unknown keys beside 'instances': {quoted(unknown)}")
    listed = payload["instances"]
    if not isinstance(listed, list) or not listed:
        raise BadRequest("'instances' must be a list with at least one element")
    if len(listed) > max_instances:
        raise TooLarge(f"{len(listed):,} instances in one request; send at most {max_instances:,}")
    return listed


def _single(row: dict[str, Any]) -> Any:
    """The one tensor's row by itself, whatever its name; several stay under their names."""
    return next(iter(row.values())) if len(row) == 1 else row


def _plain_options(row: Any, options: Options) -> Any:
    """Options that came as tensors, as plain values; a single tensor beside them stands alone."""
    if not isinstance(row, dict):
        return row
    plain = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in row.items()
        if name in options
    }
    rest = {name: value for name, value in row.items() if name not in options}
    return {**({"data": next(iter(rest.values()))} if len(rest) == 1 else rest), **plain}


def _instances(payloads: list[Any], found: dict[str, Any], options: Options) -> list[Instance]:
    common = {name: options[name].read(name, value) for name, value in found.items()}
    return [_instance(payload, common, options, position) for position, payload in enumerate(payloads)]


def _instance(payload: Any, common: dict[str, Any], options: Options, position: int) -> Instance:
    if not isinstance(payload, dict) or not options.keys() & payload.keys():
        return Instance(payload, common, position)
    own = {name: options[name].read(name, payload[name]) for name in options if name in payload}
    rest = {key: value for key, value in payload.items() if key not in options}
    return Instance(rest, {**common, **own}, position)


def _flag(headers: Mapping[str, Any], name: str) -> bool:
    if name not in headers:
        return False
    value = str(headers[name]).lower()
    if value not in ("true", "false"):
        raise BadRequest(f"the header {name} must be true or false, not {value[:40]!r}")
    return value == "true"
