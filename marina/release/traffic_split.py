"""Traffic splits: nginx in front of TorchServe spreads a model's requests over several versions by weight.

run/<port>/split/ holds split.yaml (the weights), nginx.conf (generated from it) and nginx's own files. A
caller that sends the sticky header stays with one version while the weights stay the same; without it the
version is drawn for every request. Every answer carries X-Model-Version, and access.log has one line of JSON
per request with the version; marina_requests_total counts by version anyway. Requests that name a version,
and all other paths, pass through unchanged.
"""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import yaml

from marina.core import paths, programs
from marina.core.errors import CallError, ServerError
from marina.core.yaml_files import read_yaml

if TYPE_CHECKING:
    import subprocess

NGINX_SECONDS = 30.0  # to take its configuration, or to stop
STICKY_HEADER = "X-Session-Id"
Weights = dict[str, int]  # version -> percent

CONFIGURATION = """# Made by `marina split` from split.yaml; changed there by the next call.
worker_processes auto;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    log_format by_version escape=json '{{"time":"$time_iso8601","path":"$uri","status":$status,'
                                      '"version":"$sent_http_x_model_version",'
                                      '"seconds":$request_time,"id":"$sent_http_x_request_id"}}';
    access_log {folder}/access.log by_version;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    client_max_body_size 20m;

    map $http_{header} $sticky {{ "" $request_id; default $http_{header}; }}
{splits}
    upstream torchserve {{ server 127.0.0.1:{port}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{listen};
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_read_timeout 300s;
{locations}
        location / {{ proxy_pass http://torchserve; }}
    }}
}}
"""

LOCATION = """        location ~ ^(/predictions/{name}|/v1/models/{name}:predict|/v2/models/{name}/infer)$ {{
            proxy_pass http://torchserve/predictions/{name}/${variable};
            add_header X-Model-Version ${variable} always;
        }}
        location ~ ^(/explanations/{name}|/v1/models/{name}:explain|/v2/models/{name}/explain)$ {{
            proxy_pass http://torchserve/explanations/{name}/${variable};
            add_header X-Model-Version ${variable} always;
        }}"""


def weights_of(pairs: list[str]) -> Weights:
    """VERSION=PERCENT pairs. Raises CallError unless they are whole numbers above 0 that make 100."""
    weights: Weights = {}
    for pair in pairs:
        version, _, percent = pair.partition("=")
        if not version or not percent.isdecimal() or int(percent) < 1 or version in weights:
            raise CallError(f"{pair!r} is no VERSION=PERCENT; write it like 1.0=90 1.1=10, each version once")
        weights[version] = int(percent)
    if sum(weights.values()) != 100:
        raise CallError(f"the shares make {sum(weights.values())}, not 100")
    return weights


def current(port: int) -> dict[str, Weights]:
    """The splits in force at the server of `port`: model -> weights."""
    file = folder_of(port) / "split.yaml"
    splits = read_yaml(file) if file.is_file() else {}
    if not isinstance(splits, dict):
        raise CallError(f"{file} holds no splits; remove it, and split again")
    return splits


def folder_of(port: int) -> Path:
    """Where nginx's configuration and logs lie."""
    return paths.run(port) / "split"


def configure(port: int, listen: int, splits: dict[str, Weights], header: str = STICKY_HEADER) -> Path:
    """Write split.yaml and nginx.conf; returns the latter."""
    folder = folder_of(port)
    folder.mkdir(parents=True, exist_ok=True)
    variables = {name: f"version_of_{number}" for number, name in enumerate(splits)}
    configuration = CONFIGURATION.format(
        folder=folder,
        header=header.lower().replace("-", "_"),
        port=port,
        listen=listen,
        splits="\n".join(_split_clients(name, variables[name], weights) for name, weights in splits.items()),
        locations="\n".join(LOCATION.format(name=name, variable=variables[name]) for name in splits),
    )
    (folder / "split.yaml").write_text(yaml.safe_dump(splits, sort_keys=False), encoding="utf-8")
    (folder / "nginx.conf").write_text(configuration, encoding="utf-8")
    return folder / "nginx.conf"


def apply(port: int) -> bool:
    """Start nginx with the configuration, or have the running one reload it; False if it is not installed.

    Raises ServerError with nginx's own words when it refuses.
    """
    if _nginx() is None:
        return False
    for words in (["-t"], ["-s", "reload"] if _runs(port) else []):
        done = _call(port, *words)
        if done.returncode != 0:
            raise ServerError(f"nginx refuses {folder_of(port) / 'nginx.conf'}: {done.stderr.strip()[-800:]}")
    return True


def stop(port: int) -> bool:
    """End nginx and the splits, letting requests under way finish; False when none was in force."""
    if not current(port):
        return False
    if _runs(port):
        _call(port, "-s", "quit")
    (folder_of(port) / "split.yaml").unlink()
    return True


def served(port: int) -> dict[str, dict[str, int]]:
    """What access.log counts: version -> status -> requests."""
    counts: dict[str, dict[str, int]] = {}
    log = folder_of(port) / "access.log"
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        entry = json.loads(line)
        statuses = counts.setdefault(entry["version"] or "-", {})
        statuses[str(entry["status"])] = statuses.get(str(entry["status"]), 0) + 1
    return counts


def _split_clients(name: str, variable: str, weights: Weights) -> str:
    *others, last = weights.items()
    shares = "".join(f" {percent}% {version};" for version, percent in others)
    return f'    split_clients "{name} ${{sticky}}" ${variable} {{{shares} * {last[0]}; }}'


def _nginx() -> str | None:
    return shutil.which(
        "nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"
    )


def _call(port: int, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [str(_nginx()), "-c", str(folder_of(port) / "nginx.conf"), *words]
    return programs.run(command, NGINX_SECONDS, f"see {folder_of(port)}")


def _runs(port: int) -> bool:
    """Whether the nginx of this folder runs; its pid file may be left from one that was killed."""
    try:
        process = psutil.Process(int((folder_of(port) / "nginx.pid").read_text(encoding="utf-8")))
        return str(folder_of(port)) in " ".join(process.cmdline())
    except (FileNotFoundError, ValueError, psutil.Error):
        return False
