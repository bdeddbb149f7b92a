"""`marina ready` against a live server: every reason why a model isn't ready while /ping says Healthy.

One server of each engine for all; the last two tests leave their models without a worker.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import requests

from marina import engines
from marina.client import Client
from marina.core import paths, spec
from marina.core.errors import RequestError
from marina.engines import server_process as server
from marina.packaging import archive
from marina.pipeline import readiness as ready
from tests.support.toy_policies import balance
from training.export.writer import export

pytestmark = pytest.mark.slow

SPEC = """# Pushes to where the pole falls.
version: "1.0"
kind: policy
training: {recipe: dqn}
floor: {mean_return: 50}
serving: {response_timeout_s: 5}
"""
LATER_WRONG = b"""
_start, _right = PolicyPredictor.start, PolicyPredictor.postprocess


def _started(self, *arguments, **options):
    ready = _start(self, *arguments, **options)
    self.is_up = True
    return ready


def _wrong(self, outputs, prepared):
    answers = _right(self, outputs, prepared)
    if not hasattr(self, "is_up"):
        return answers
    return [{**answer, "action": 1 - answer["action"]} for answer in answers]


PolicyPredictor.start, PolicyPredictor.postprocess = _started, _wrong
"""


class Ready(NamedTuple):
    """What `marina ready NAME` said, and what /ping says at the same time."""

    code: int
    reasons: str
    ping: str


@dataclass(frozen=True)
class Served:
    """A server with three models: good, tampered (its worker refuses), wrong (its worker answers wrongly
    once it is up).
    """

    client: Client
    port: int

    def ready(self, name: str) -> Ready:
        words = [sys.executable, "-m", "marina", "ready", name, "--port-base", str(self.port)]
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)
        return Ready(done.returncode, done.stderr, self.client.ping())

    def reasons(self, name: str, timeout: float = 30.0) -> str:
        with Client(self.port, timeout=timeout) as client:
            return "\n".join(ready.problems(client, spec.load(name)))

    def put(self, path: str, **query: object) -> None:
        headers = {"Authorization": f"Bearer {self.client.token('management')}"}
        url = f"http://127.0.0.1:{self.port + 1}/models{path}"
        method = requests.put if path else requests.post
        method(url, params={"synchronous": "true", **query}, headers=headers, timeout=120).raise_for_status()


def repack(path: Path, changes: dict[str, Callable[[bytes], bytes]], checksums: bool) -> None:
    """Change files inside an archive; with `checksums` also those, as if it had been built so."""
    with zipfile.ZipFile(path) as packed:
        contents = {name: packed.read(name) for name in packed.namelist()}
    contents |= {name: change(contents.get(name, b"")) for name, change in changes.items()}
    if checksums:
        listed = sorted(name for name in contents if not name.startswith("MAR-INF/") and name != "SHA256SUMS")
        contents["SHA256SUMS"] = "".join(
            f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n" for name in listed
        ).encode()
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in contents.items():
            packed.writestr(name, content)


def archived(name: str) -> Path:
    return paths.model_store() / f"{name}-1.0.mar"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, default_engine: str) -> Iterator[Served]:
    home, port = tmp_path_factory.mktemp("home"), server.free_port_base()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARINA_HOME", str(home))
        (home / "models").mkdir()
        for name, more in {"good": "", "wrong": "", "tampered": ", max_retry_timeout_s: 1"}.items():
            (home / "models" / f"{name}.yaml").write_text(
                SPEC.replace("_s: 5", f"_s: 5{more}"), encoding="utf-8"
            )
        making = paths.exports() / "good" / ".making"
        (making / "report").mkdir(parents=True)
        export(spec.load("good"), balance(), making)
        for name in ("tampered", "wrong"):
            shutil.copytree(paths.exports() / "good", paths.exports() / name)
        for name in ("good", "tampered", "wrong"):
            archive.build(spec.load(name))
        repack(
            archived("tampered"), {"preprocess_config.json": lambda content: content + b" "}, checksums=False
        )
        repack(
            archived("wrong"),
            {"handlers_wrong_1_0/kinds/policy.py": lambda content: content + LATER_WRONG},
            checksums=True,
        )
        serving = server.running_server(port, engine=engines.get(default_engine))
        with serving, Client(port) as client, ThreadPoolExecutor(3) as pool:
            found = Served(client, port)
            tampered = pool.submit(client.register, "tampered", "1.0", archived("tampered").name)
            wrong = pool.submit(
                found.put, "", url=archived("wrong").name, model_name="wrong", initial_workers=1, batch_size=3
            )
            client.register("good", "1.0", archived("good").name)
            wrong.result()
            with pytest.raises(RequestError, match="Failed to start workers"):
                tampered.result()
            yield found


@pytest.fixture
def store(served: Served) -> Iterator[Path]:
    """The archive of the good model; whatever a test does to it is undone."""
    path = archived("good")
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


def test_a_model_that_runs_as_its_spec_and_archive_say_is_ready(served: Served) -> None:
    found = served.ready("good")

    assert found.reasons == ""
    assert found.code == 0


def test_a_corrupt_archive_is_no_readiness(served: Served, store: Path) -> None:
    store.write_bytes(store.read_bytes()[:5000])

    found = served.ready("good")

    assert (found.code, found.ping) == (1, "Healthy")
    assert (
        f"good 1.0: archive {store} can't be read (File is not a zip file); build it again with: marina "
        "archive" in found.reasons
    )


@pytest.mark.parametrize(
    "broken",
    [
        lambda whole: b"",
        lambda whole: whole.replace(b"SHA256SUMS", b"SHA256SAMS"),
        lambda whole: whole[:400] + bytes(200) + whole[600:],
    ],
    ids=["empty", "without checksums", "overwritten"],
)
def test_other_damages_of_an_archive_are_told_too(
    served: Served, store: Path, broken: Callable[[bytes], bytes]
) -> None:
    store.write_bytes(broken(store.read_bytes()))

    assert "build it again with: marina archive" in served.reasons("good")


def test_an_archive_with_a_changed_file_is_no_readiness(served: Served, store: Path) -> None:
    repack(store, {"postprocess_config.json": lambda content: content + b"\n"}, checksums=False)

    assert (
        "is corrupt (postprocess_config.json was changed); build it again with: marina archive good"
        in served.reasons("good")
    )


def test_a_missing_archive_is_no_readiness(served: Served, store: Path) -> None:
    store.unlink()

    found = served.ready("good")

    assert (found.code, found.ping) == (1, "Healthy")
    assert f"good 1.0: no archive {store}; run: marina archive good" in found.reasons


def test_failed_initialization_is_not_ready_with_the_workers_reason(served: Served, engine: str) -> None:
    """A model whose initialization failed is not ready, and the reason is the worker's own."""
    found = served.ready("tampered")

    assert (found.code, found.ping) == (1, "Healthy")
    # where an engine takes back what does not come up, it is not registered
    state = "0 of 1 workers are ready" if engine == "torchserve" else "not registered"
    assert f"tampered 1.0: {state}" in found.reasons
    assert "the last error in its log: " in found.reasons
    assert "preprocess_config.json was changed after the archive was built" in found.reasons


def test_a_wrong_golden_answer_is_no_readiness(served: Served) -> None:
    found = served.ready("wrong")

    assert (found.code, found.ping) == (1, "Healthy")
    assert "wrong 1.0: sample 'step-0': answer.action: 0 instead of 1" in found.reasons
    assert "sample 'step-2'" in found.reasons


def test_batching_that_the_management_api_set_is_drift(served: Served) -> None:
    assert (
        "wrong 1.0: the server doesn't run it as its archive says: batchSize is 3 instead of 8; run: "
        "marina unregister wrong" in served.reasons("wrong")
    )


def test_a_spec_that_was_changed_since_archiving_is_drift(served: Served) -> None:
    file = paths.models() / "good.yaml"
    file.write_text(SPEC.replace("response_timeout_s: 5", "response_timeout_s: 6, queue_size: 7"))

    reasons = served.reasons("good")
    file.write_text(SPEC)

    assert (
        "good 1.0: its spec was changed since it was archived: jobQueueSize is 256 instead of 7, "
        "responseTimeout is 5 inst" in reasons
    )
    assert reasons.endswith(
        "run: marina archive good && marina unregister good --version 1.0 && marina register good"
    )


def test_an_archive_that_was_rebuilt_since_registration_is_drift(served: Served, store: Path) -> None:
    repack(store, {"README.txt": lambda _: b"new"}, checksums=True)

    reasons = served.reasons("good")

    assert "good 1.0: the server runs an archive with the checksum" in reasons
    assert "run: marina unregister good --version 1.0 && marina register good" in reasons


def test_a_worker_number_that_the_management_api_set_is_drift(served: Served) -> None:
    served.put("/good/1.0", min_worker=1, max_worker=2)

    found = served.ready("good")
    served.put("/good/1.0", min_worker=1, max_worker=1)

    assert (found.code, found.ping) == (1, "Healthy")
    assert (
        "good 1.0: the server doesn't run it as its archive says: maxWorkers is 2 instead of 1; run: "
        "marina unreg" in found.reasons
    )


def test_a_model_without_a_worker_is_not_ready(served: Served) -> None:
    served.put("/good/1.0", min_worker=0, max_worker=0)

    found = served.ready("good")

    assert (found.code, found.ping) == (1, "Healthy")
    assert "good 1.0: 0 of 1 workers are ready (states: [])" in found.reasons


def test_a_worker_that_hangs_is_not_ready_though_its_state_says_so(served: Served) -> None:
    (worker,) = served.client.describe("wrong", "1.0")[0]["workers"]
    process = psutil.Process(worker["pid"])
    process.suspend()

    reasons = served.reasons("wrong", timeout=3)
    process.resume()

    assert worker["status"] == "READY"
    assert "wrong 1.0: its worker doesn't answer (no answer within 3 s)" in reasons
