"""The front: a frontend beside Serve's own in the same HAProxy, which knows Marina's paths.

A request for an answer goes straight to a replica of the version that it names, or of the model's default
version; its path gets the version's route prefix in front, as Serve's replicas want it. All else goes to the
catalog. After a reload, what still comes on a connection of the old HAProxy process goes through the new one.
"""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from marina.engines.ray.routes import CATALOG, backends

MARK = "frontend marina"
ADMIN_SOCKET = "a.sock"  # short, as is all of its path
PATHS = re.compile(r"^    acl is_(\S+) path (/\S*)$", re.MULTILINE)
# of statistics; that of Serve's own frontend stays, by which nodes read each other's routes
OPEN_BINDS = re.compile(r"^((?:frontend|listen) (?!http_frontend)\S+\n)( +bind) (?:\*)?:(\d+)$", re.MULTILINE)
ERROR_FILES = re.compile(r"^    errorfile (\d+) \S+$", re.MULTILINE)
CATALOG_BACKEND = f"http-{CATALOG}"

# what HAProxy answers by itself: status -> type and message
ERRORS = {
    400: ("BadRequest", "the request is no HTTP that can be read"),
    408: ("RequestTimeoutException", "the request did not arrive in time; send it again"),
    502: ("ServiceUnavailableException", "the worker ended while it answered; send the request again"),
    503: ("ServiceUnavailableException", "no worker can be reached; try again in a second"),
    504: ("GatewayTimeoutException", "nobody answered in time; send the request again later"),
}

FRONT = """
frontend marina
    bind {address}
    no log
    timeout http-request 65s
    timeout client 75s
    timeout http-keep-alive 75s
{error_files}
    acl plain path_reg ^/(predictions|explanations)/[^/]+(/.*)?$
    acl invoke path_reg ^/models/[^/]+/invoke$
    acl v1 path_reg ^/v1/models/[^/:]+:(predict|explain)$
    acl v2 path_reg ^/v2/models/[^/]+(/versions/[^/]+)?/(infer|explain)$
    acl v2_version path_reg ^/v2/models/[^/]+/versions/
    acl has_version var(txn.version) -m reg .
    http-request set-var(txn.name) path,field(3,/) if plain or invoke
    http-request set-var(txn.name) path,field(4,/),field(1,:) if v1
    http-request set-var(txn.name) path,field(4,/) if v2
    http-request set-var(txn.version) path,field(4,/) if plain
    http-request set-var(txn.version) path,field(6,/) if v2_version
    http-request set-var(txn.version) var(txn.name),map_str({defaults}) if !has_version
    http-request set-var(txn.route) var(txn.name),concat(/,txn.version)
    http-request set-var(txn.backend) var(txn.route),map_str({versions})
    acl direct var(txn.backend),nbsrv gt 0
    http-request set-path /%[var(txn.route)]%[path] if direct !{{ stopping }}
    http-request set-header x-request-disconnect-disabled ?1 if direct !{{ stopping }}
    # what the replica's HTTP server refuses by itself
    acl plain_refusal res.hdr(content-type) -m beg text/plain
    http-response set-var(txn.id) uuid() if plain_refusal
    http-response return status 400 {json} lf-file {folder}/400.json hdr x-request-id %[var(txn.id)] \
if {{ status 400 }} plain_refusal
    http-response del-header server
    http-response set-header x-request-id %[res.fhdr(x-request-id)] if {{ res.fhdr(x-request-id) -m found }}
    use_backend marina-successor if {{ stopping }}
    use_backend %[var(txn.backend)] if direct
    default_backend {otherwise}
backend marina-successor
    server successor {successor}
backend marina-starting
    http-request set-var(txn.id) uuid()
    http-request return status 503 {json} lf-file {folder}/503.json hdr x-request-id %[var(txn.id)]
"""


def with_front(configuration: str, address: str, folder: Path) -> str:
    """Serve's configuration with the front, which listens at `address`; what the front looks up is written
    into `folder`. Listeners of HAProxy's own statistics become Unix sockets in there.

    Raises ValueError for a configuration that isn't as Serve writes it.
    """
    if MARK in configuration:
        return configuration
    if "\nfrontend http_frontend\n" not in configuration:
        raise ValueError("Serve's HAProxy configuration has no http_frontend; use a release of Ray that has")
    prefixes = {prefix: backend for backend, prefix in PATHS.findall(configuration)}
    by_version, defaults = backends(prefixes)
    error_files = "\n".join(f"    errorfile {status} {_write_error(folder, status)}" for status in ERRORS)
    closed = OPEN_BINDS.sub(lambda bind: f"{bind[1]}{bind[2]} unix@{folder}/{bind[3]}.s", configuration)
    closed = ERROR_FILES.sub(lambda line: f"    errorfile {line[1]} {folder}/{line[1]}.http", closed)
    return closed + FRONT.format(
        address=address,
        successor=_reachable(address),
        folder=folder,
        json="content-type application/json",
        error_files=error_files,
        versions=_write_map(folder / "versions.map", by_version),
        defaults=_write_map(folder / "defaults.map", defaults),
        otherwise=CATALOG_BACKEND if CATALOG_BACKEND in prefixes.values() else "marina-starting",
    )


def _reachable(address: str) -> str:
    """An address at which this machine reaches who listens at `address`."""
    host, _, port = address.rpartition(":")
    every = ("", "*", "0.0.0.0")  # noqa: S104  # compared, not bound
    return f"127.0.0.1:{port}" if host in every else address


def _write_map(path: Path, content: Mapping[str, str]) -> Path:
    path.write_text("".join(f"{key} {value}\n" for key, value in sorted(content.items())), encoding="utf-8")
    return path


def _write_error(folder: Path, status: int) -> Path:
    """Write what HAProxy answers, in the form of all other refusals."""
    kind, message = ERRORS[status]
    content = {"code": status, "type": kind, "message": message}
    body = json.dumps({**content, "request_id": ""})
    head = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(["retry-after: 1"] if status == HTTPStatus.SERVICE_UNAVAILABLE else []),
        "connection: close",
    ]
    path = folder / f"{status}.http"
    path.write_text("\r\n".join([*head, "", body]), encoding="utf-8")
    (folder / f"{status}.json").write_text(json.dumps({**content, "request_id": "%[var(txn.id)]"}))
    return path
