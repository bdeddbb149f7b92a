"""TorchServe's management API, its own under our settings and the other engines': the calls of its upstream
test collection get upstream's answers.

The rows are those of test/postman/management_data.json in pytorch/serve (method, path, status; 200 unless
said otherwise), with archives that carry no settings of their own, from the model store instead of the web:
ours are opened from nowhere else.
"""

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from marina import engines
from marina.client import Client
from marina.core import paths
from marina.core.console import Output
from marina.core.spec import Spec
from marina.engines import server_process as server
from marina.packaging import archive
from marina.pipeline import steps as up

pytestmark = pytest.mark.slow

HANDLER = """
class Echo:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        return data
"""
MANIFEST = {
    "createdOn": "01/01/2026 00:00:00",
    "runtime": "python",
    "model": {"modelName": "echo", "handler": "echo.py", "modelVersion": "1.0"},
    "archiverVersion": "0.12.0",
}

S, M, D, R, R18 = "squeezenet1_1", "mnist", "densenet161", "resnet152", "resnet-18"
REGISTER = f"POST models?url={S}.mar&model_name={S}"
ROWS = f"""
{REGISTER}
POST models?url={M}.mar&model_name={M}
POST models?url={D}.mar&model_name={D}
POST models?url=https://torchserve.pytorch.org/mar_files/{D}.mar&model_name={D} 500
DELETE models/{D}
POST models 400
DELETE models/{M}
POST models?url={M}.mar&model_name={M}&handler=invalidHandler
DELETE models/{M}
POST models?url={M}.mar&model_name={M}&handler=invalidHandler
PUT models/{M}?min_worker=1&synchronous=true 500
DELETE models/{M}
GET models/{S}/all
GET models/{S}/1.0
GET models/{S}
DELETE models/{S}
POST models?url={S}.mar&model_name={S}&runtime=python4 400
GET models?limit=&next_page_token=
{REGISTER}
PUT models/{S}?min_worker=1 202
PUT models/{S}?min_worker=1&synchronous=true
PUT models/{S}/1.0?min_worker=1&synchronous=true
PUT models/{S}/0.0?min_worker=1&synchronous=true 404
PUT models/{S}?min_worker=1&number_gpu=1 202
PUT models/{S}/1.0/set-default
PUT models/{S}/0.0/set-default 404
PUT models/squeezenet0_1/1.0/set-default 404
DELETE models/{S}
POST models?url={S}.mar&model_name={S}&handler=serve/ts/torch_handler/image_classifier.py:handle
DELETE models/{S}
POST models?url={S}.mar&model_name={S}&batch_size=3&initial_workers=3&startup_timeout=0 500
POST models?url={S}.mar&model_name={S}&startup_timeout=0
DELETE models/{S}
POST models?url=resnet-152-batch.mar&model_name={R}&batch_size=2
DELETE models/{R}
POST models?url=resnet-152-batch.mar&model_name={R}&batch_size=dd&initial_workers=1
DELETE models/{R}
POST models?url=resnet-152-batch.mar&model_name={R}&batch_size=2&initial_workers=1&max_batch_delay=junk
DELETE models/{R}
POST models?url={S}.mar&model_name={S}&initial_workers=-1
DELETE models/{S}
POST models?url={R18}.mar&model_name={R18}&synchronous=true
DELETE models/{R18}
POST models?url={R18}.mar&model_name={R18}&synchronous=-1
DELETE models/{R18}
POST models?url={R18}.mar&model_name={R18}&synchronous=false
GET models?limit=1
GET models?limit=-1
GET models?limit=1&next_page_token=1
GET models?limit=1&next_page_token=-1
PUT models/{R18}?number_gpu=10 202
PUT models/{R18}?number_gpu=-1 202
PUT models/{R18}?min_worker=1&max_worker=1&synchronous=true
PUT models/{R18}?min_worker=1&max_worker=1&synchronous=false 202
PUT models/{R18}?timeout=-1 202
PUT models/{R18}?timeout=0 202
POST models?url=&model_name={R18} 404
POST models?url=https://torchserve.pytorch.org/mar_files/invalid-resnet-18.mar&model_name=invalid-resnet18 400
GET models/invalid_{S} 404
GET models/{S}/0.0 404
GET models?next_page_token=12
PUT models/{R18}?min_worker=1&synchronous=Nan 202
PUT models/{R18}?min_worker=nan&synchronous=nan 202
PUT models/{R18} 202
PUT models/resnet181?min_worker=1 404
PUT models/{R18}?min_worker=2&max_worker=1 400
PUT models/{R18}?min_worker=1 202
PUT models/{R18}?min_worker=0 202
PUT models/{R18}?min_worker=-1 500
PUT models/{R18}?max_worker=-1 400
PUT models/invalid_{S}/1.0/set-default 404
DELETE models/{R18}
DELETE models/{S}/0.0 404
{REGISTER}
DELETE models/{S}/?synchronous=true
{REGISTER}
DELETE models/{S}/?synchronous=nan
{REGISTER}
DELETE models/{S}/?timeout=true
{REGISTER}
DELETE models/{S}/?timeout=true&synchronous=-1
DELETE models/invalid_{S} 404
""".split("\n")[1:-1]


# What the other engines refuse instead: TorchServe takes a handler from a call and starts it later, gives
# three workers no time at all, and fails on a number of workers below none.
REFUSED_ELSEWHERE = {
    f"POST models?url={M}.mar&model_name={M}&handler=invalidHandler": 400,
    f"DELETE models/{M}": 404,
    f"PUT models/{M}?min_worker=1&synchronous=true 500": 404,
    f"POST models?url={S}.mar&model_name={S}&handler=serve/ts/torch_handler/image_classifier.py:handle": 400,
    f"DELETE models/{S}": 404,
    f"POST models?url={S}.mar&model_name={S}&batch_size=3&initial_workers=3&startup_timeout=0 500": 200,
    f"POST models?url={S}.mar&model_name={S}&startup_timeout=0": 409,
    f"PUT models/{R18}?min_worker=-1 500": 400,
}


def write_plain(path: Path) -> None:
    """An archive of TorchServe's own sort, which answers with what it got."""
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("MAR-INF/MANIFEST.json", json.dumps(MANIFEST))
        packed.writestr("echo.py", HANDLER)


def write_without_settings(path: Path, archive_path: Path) -> None:
    """An archive of ours without its model-config.yaml."""
    with zipfile.ZipFile(archive_path) as packed:
        contents = {name: packed.read(name) for name in packed.namelist() if name != "model-config.yaml"}
    lines = contents["SHA256SUMS"].decode().splitlines()
    kept = [line for line in lines if not line.endswith("  model-config.yaml")]
    contents["SHA256SUMS"] = ("\n".join(kept) + "\n").encode()
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in contents.items():
            packed.writestr(name, content)


@pytest.fixture
def plain(home: Path, exported: Callable[..., Spec], engine: str) -> Iterator[Client]:
    """A server with nothing registered, and archives without settings in its store."""
    paths.model_store().mkdir()
    toy = archive.build(exported()).path if engine != "torchserve" else None
    for name in (S, M, D, "resnet-152-batch", R18):
        path = paths.model_store() / f"{name}.mar"
        if toy:
            write_without_settings(path, toy)
        else:
            write_plain(path)
    with up.serving([], server.free_port_base(), Output(as_json=True), engines.get(engine)) as client:
        yield client


def test_upstream_postman_collection_gets_the_upstream_answers(plain: Client, engine: str) -> None:
    """TorchServe's own collection of calls gets TorchServe's answers, except for archives from the web."""
    header = {"Authorization": f"Bearer {plain.token('management')}"}
    other, failed = {}, False
    for row in ROWS:
        method, path, *status = row.split()
        answer = requests.request(method, f"{plain.management}/{path}", headers=header, timeout=120)
        # of three workers without any time to start one came up: then nothing is taken back
        if answer.status_code == 409 and failed:
            requests.delete(f"{plain.management}/models/{S}", headers=header, timeout=120)
            answer = requests.request(method, f"{plain.management}/{path}", headers=header, timeout=120)
        failed = method == "POST" and answer.status_code == 500
        if answer.status_code != int((status or ["200"])[0]):
            other[row] = (answer.status_code, answer.text[:200])
    if engine != "torchserve":
        refused = {row: other.pop(row)[0] for row in REFUSED_ELSEWHERE if row in other}
        assert refused == REFUSED_ELSEWHERE

    assert len(ROWS) == 82
    from_the_web = {row: found for row, found in other.items() if "url=https://" in row}
    assert other == from_the_web
    assert {status for status, _ in from_the_web.values()} <= {400, 404}
    words = "does not match any allowed URL" if engine == "torchserve" else "is no file of the model store"
    assert all(words in text for _, text in from_the_web.values())
