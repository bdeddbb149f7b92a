"""Callbacks: a POST to a URL of the caller's when a job has ended, with what `GET /jobs/ID` shows.

Whoever may send jobs could have the server call other machines for them (server-side request forgery). So a
URL must name a host that the configuration allows; its address is looked up once and must be public, unless
private ones are allowed too; the call goes to that very address; redirects are not followed, and of the
answer the status alone is read.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from handlers.protocol.errors import BadRequest
from marina.engines.gateway.jobs.limits import JobLimits

SECONDS = 10.0
PORTS = {"http": 80, "https": 443}
LONGEST_URL = 2000


class CallbackFailed(Exception):
    """The host did not take the callback; the message says why."""


def check_callback(url: str, limits: JobLimits) -> SplitResult:
    """The parts of a URL that may be called. Raises BadRequest with the reason."""
    if len(url) > LONGEST_URL:
        raise BadRequest(f"the callback has more than {LONGEST_URL} characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadRequest("the callback is no URL; send one like https://host/path") from None
    if parts.scheme not in PORTS or not parts.hostname:
        raise BadRequest("the callback must be a URL with http or https, like https://host/path")
    if parts.username or parts.password:
        raise BadRequest("the callback must have no user name and no password")
    own = f"{parts.hostname}:{port or PORTS[parts.scheme]}"
    is_default = port in (None, PORTS[parts.scheme])
    if own not in limits.callback_hosts and not (is_default and parts.hostname in limits.callback_hosts):
        raise BadRequest(
            f"callbacks to {own} are not allowed; poll the job, or add the host to jobs.callback_hosts in "
            "the server's marina.yaml"
        )
    return parts


async def send_callback(url: str, content: Mapping[str, Any], limits: JobLimits) -> None:
    """Send `content`. Raises CallbackFailed."""
    import httpx  # 5 MB, which a server without callbacks does without

    try:
        parts = check_callback(url, limits)  # the configuration may have changed
    except BadRequest as error:
        raise CallbackFailed(str(error)) from error
    port = parts.port or PORTS[parts.scheme]
    address = await _address(str(parts.hostname), port, limits.callback_private_addresses)
    netloc = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    target = parts._replace(netloc=netloc, fragment="").geturl()
    try:
        async with asyncio.timeout(SECONDS), httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client:
            request = client.build_request(
                "POST",
                target,
                json=dict(content),
                headers={"host": parts.netloc, "user-agent": "marina"},
                extensions={"sni_hostname": parts.hostname},  # whose certificate is checked
            )
            response = await client.send(request, stream=True, follow_redirects=False)
            await response.aclose()
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
        raise CallbackFailed(f"{type(error).__name__}: {error}") from error
    if not response.is_success:
        raise CallbackFailed(f"it answered {response.status_code}")


async def _address(host: str, port: int, private: bool) -> str:
    """An address of the host; all of them must be public, unless private ones are allowed."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise CallbackFailed(f"{host} is not found: {error}") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not private:
        for address in addresses:
            if not _is_public(address):
                raise CallbackFailed(
                    f"{host} is at {address}, which is not public (jobs.callback_private_addresses)"
                )
    return addresses[0]


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None) or getattr(parsed, "sixtofour", None)
    return parsed.is_global and not parsed.is_multicast and (mapped is None or _is_public(str(mapped)))
