"""A client of TorchServe's inference and management API: one small class over requests.

Every call has a deadline and is sent with the token of its API, read from the server's key file. An answer that is no
success raises RequestError with its status and the server's own words. Only what is safe to repeat is repeated: a
connection that was refused, before the request was sent.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from marina import paths
from marina.errors import RequestError, ServerError

TOKEN_MARGIN_SECONDS = 60.0


class Client:
    """Talks to the server whose inference API is at `port` (management at port + 1) on this machine.

    `key_file` holds the tokens; by default the one that `marina serve` keeps. `timeout` is the deadline of a call in seconds.
    """

    def __init__(self, port: int = 8080, key_file: Path | None = None, timeout: float = 30.0) -> None:
        self.inference = f"http://127.0.0.1:{port}"
        self.management = f"http://127.0.0.1:{port + 1}"
        self.key_file = key_file or paths.run(port) / "key_file.json"
        self.timeout = timeout
        self._read: tuple[int, dict[str, Any]] = (0, {})
        self.session = requests.Session()
        self.session.trust_env = False  # a proxy of the environment has no business with this machine's own address
        retry = Retry(total=None, connect=3, read=0, status=0, other=0, redirect=0, backoff_factor=0.2, allowed_methods=None)
        self.session.mount("http://", HTTPAdapter(max_retries=retry, pool_maxsize=32))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def predict(
        self,
        name: str,
        body: Any,
        version: str | None = None,
        content_type: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """The answer to one request. `body` is bytes (an image), or anything that JSON can say."""
        return self._infer("predictions", name, body, version, content_type, headers)

    def explain(
        self,
        name: str,
        body: Any,
        version: str | None = None,
        content_type: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Why a request is answered as it is; with {"format": "png"} among `headers` the bytes of a picture, where there is one."""
        return self._infer("explanations", name, body, version, content_type, headers)

    def _infer(self, what: str, name: str, body: Any, version: str | None, content_type: str | None, headers: dict[str, str] | None) -> Any:
        if not isinstance(body, bytes):
            body, content_type = json.dumps(body).encode(), "application/json"
        own = {"Content-Type": content_type or "application/octet-stream", **(headers or {})}
        path = f"/{what}/{name}" + (f"/{version}" if version else "")
        return self._call("POST", self.inference + path, "inference", data=body, headers=own)

    def ping(self) -> str:
        """TorchServe's own word for its health; it says Healthy with dead workers too, so ask `marina ready` instead."""
        return str(self._call("GET", self.inference + "/ping", "inference")["status"])

    def models(self) -> dict[str, str]:
        """Registered models: name -> file of the default version."""
        listed = self._call("GET", self.management + "/models", "management", params={"limit": 1000})
        return {model["modelName"]: model["modelUrl"] for model in listed["models"]}

    def describe(self, name: str, version: str = "all", customized: bool = False) -> list[dict[str, Any]]:
        """What the server knows of one version, of "all", or of the default one (""); workers and their states among it."""
        query = {"customized": "true"} if customized else {}
        described: list[dict[str, Any]] = self._call(
            "GET", f"{self.management}/models/{name}/{version}".rstrip("/"), "management", params=query
        )
        return described

    def register(self, name: str, version: str, archive: str, timeout: float = 180.0) -> bool:
        """Register an archive of the model store by its file name, and wait for its workers.

        True when it was registered, False when this version already was. Worker numbers and batching come from the archive.
        """
        if version in self.versions(name):
            return False
        query = {"url": archive, "model_name": name, "initial_workers": 1, "synchronous": "true"}
        self._call("POST", self.management + "/models", "management", params=query, timeout=timeout)
        return True

    def versions(self, name: str) -> list[str]:
        """Registered versions of a model; none when it is not registered."""
        try:
            return [entry["modelVersion"] for entry in self.describe(name)]
        except RequestError as error:
            if error.status == 404:
                return []
            raise

    def scale(self, name: str, version: str, workers: int, timeout: float = 180.0) -> None:
        """Set the number of workers of a version, and wait for them."""
        query = {"min_worker": workers, "max_worker": workers, "synchronous": "true"}
        self._call("PUT", f"{self.management}/models/{name}/{version}", "management", params=query, timeout=timeout)

    def set_default(self, name: str, version: str) -> None:
        """Let requests without a version go to this one."""
        self._call("PUT", f"{self.management}/models/{name}/{version}/set-default", "management")

    def unregister(self, name: str, version: str | None = None) -> bool:
        """Remove a version, or all of them with the default last. True when there was something to remove."""
        registered = self.versions(name)
        default = self.describe(name, "")[0]["modelVersion"] if registered else None
        chosen = [one for one in registered if version in (None, one)]
        for one in sorted(chosen, key=lambda one: one == default):
            self._call("DELETE", f"{self.management}/models/{name}/{one}", "management", timeout=120.0)
        return bool(chosen)

    def token(self, api: str) -> str:
        """The token of "inference" or "management", renewed when it is about to expire."""
        key = self._keys()[api]
        if _seconds_left(key) < TOKEN_MARGIN_SECONDS:
            renew = {"Authorization": f"Bearer {self._keys()['API']['key']}"}
            answer = self.session.get(f"{self.management}/token", params={"type": api}, headers=renew, timeout=self.timeout)
            if not answer.ok:
                raise RequestError(f"the {api} token has expired and can't be renewed: {_words(answer)}", answer.status_code)
            key = self._keys()[api]
        return str(key["key"])

    def _keys(self) -> dict[str, Any]:
        """The tokens; the file is read again only when it was written since."""
        try:
            written = self.key_file.stat().st_mtime_ns
            if written != self._read[0]:
                self._read = (written, json.loads(self.key_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ServerError(f"no tokens at {self.key_file}: no server of this home runs there; start one with: marina serve") from None
        return self._read[1]

    def _call(self, method: str, url: str, api: str, timeout: float | None = None, **more: Any) -> Any:
        """One request; JSON is parsed, a picture comes back as bytes, other text as it is."""
        headers = {"Authorization": f"Bearer {self.token(api)}", **more.pop("headers", {})}
        try:
            answer = self.session.request(method, url, headers=headers, timeout=timeout or self.timeout, **more)
        except requests.Timeout as error:
            raise RequestError(f"{method} {url}: no answer within {timeout or self.timeout:g} s") from error
        except requests.ConnectionError as error:
            raise RequestError(f"{method} {url}: no connection; is the server running? (marina serve)") from error
        if not answer.ok:
            raise RequestError(f"{method} {url}: {answer.status_code}: {_words(answer)}", answer.status_code)
        return answer.content if answer.headers.get("content-type", "").startswith("image/") else _json_or_text(answer)


def _seconds_left(key: dict[str, str]) -> float:
    expires = key.get("expiration time")
    if not expires:
        return float("inf")
    return (datetime.fromisoformat(expires.replace("Z", "+00:00")) - datetime.now().astimezone()).total_seconds()


def _json_or_text(answer: requests.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return answer.text


def _words(answer: requests.Response) -> str:
    """The message of an error answer: the server's JSON has it under "message"."""
    content = _json_or_text(answer)
    words = content.get("message", "") if isinstance(content, dict) else str(content)
    return words.strip() or answer.reason or "no words"
