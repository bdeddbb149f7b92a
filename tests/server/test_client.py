"""The clients against a live TorchServe: every form of body, equal answers and errors over all transports, no
request lost when a worker dies.
"""

import asyncio
import base64
import io
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from marina.client import Client, request_options
from marina.client.async_client import AsyncClient
from marina.client.grpc_client import GrpcClient
from marina.core import paths, spec
from marina.core.errors import RequestError, RequestRefused, ServerUnavailable
from marina.core.spec import Spec
from marina.pipeline import readiness as ready
from tests.support.engines import ONLY_TORCHSERVE

Ask = Callable[..., Any]  # ("predict", name, body, ...) -> answer


def port_of(client: Client) -> int:
    return int(client.inference.rsplit(":", 1)[1])


@pytest.fixture(params=["sync", "async", "grpc"])
def ask(request: pytest.FixtureRequest, client: Client) -> Iterator[Ask]:
    """A function that calls a method of one of the clients."""
    if request.param == "async":

        async def call(method: str, *arguments: Any, **options: Any) -> Any:
            async with AsyncClient(port_of(client)) as asked:
                return await getattr(asked, method)(*arguments, **options)

        yield lambda *arguments, **options: asyncio.run(call(*arguments, **options))
    else:
        with (Client if request.param == "sync" else GrpcClient)(port_of(client)) as asked:
            yield lambda method, *arguments, **options: getattr(asked, method)(*arguments, **options)


@pytest.mark.parametrize("name", ["digits", "scenes"])
def test_a_picture_in_any_form_gets_its_golden_answer(ask: Ask, name: str, tmp_path: Path) -> None:
    sample = ready.golden_samples(spec.load(name))[0]
    (tmp_path / "picture").write_bytes(sample["body"])
    (tmp_path / "request.json").write_text(json.dumps({"image": base64.b64encode(sample["body"]).decode()}))
    image = Image.open(io.BytesIO(sample["body"]))
    bodies = [sample["body"], tmp_path / "picture", image, np.asarray(image), tmp_path / "request.json"]

    answers = [ask("predict", name, body) for body in bodies]
    many = ask("predict_many", name, bodies)

    reduced = bool(sample.get("reduced"))
    found = [ready.difference(sample["answer"], one, reduced=reduced) for one in answers + many]
    assert found == [""] * 10
    assert [one == answers[0] for one in answers] == [True] * 5


def test_an_observation_in_any_form_gets_the_same_action(ask: Ask) -> None:
    observations = np.random.default_rng(0).normal(0, 0.1, (200, 4)).astype(np.float32)
    one = observations[0]

    answers = [
        ask("predict", "cartpole", body)
        for body in (one, one.tolist(), {"observation": one}, {"observation": one.tolist()})
    ]
    many = ask("predict_many", "cartpole", observations)

    assert [answer == answers[0] for answer in answers] == [True] * 4
    assert len(many) == 200
    assert ready.difference(answers[0], many[0]) == ""
    assert [row["action"] for row in many[190:]] == [
        ask("predict", "cartpole", row)["action"] for row in observations[190:]
    ]


def test_options_reach_the_model(ask: Ask) -> None:
    digit = ready.golden_samples(spec.load("digits"))[0]["body"]

    assert len(ask("predict", "digits", digit, top_k=3)["predictions"]) == 3
    assert {
        len(one["predictions"]) for one in ask("predict_many", "digits", [digit] * 3, "1.0", top_k=2)
    } == {2}
    with pytest.raises(RequestRefused, match="no distribution to sample from"):
        ask("predict", "cartpole", [0, 0, 0, 0], deterministic=False)


@pytest.mark.slow
def test_a_threshold_reaches_the_detector(ask: Ask) -> None:
    scene = ready.golden_samples(spec.load("scenes"))[0]["body"]

    few, many = (
        len(ask("predict", "scenes", scene, confidence_threshold=least)["detections"])
        for least in (0.999, 0.02)
    )
    assert few < many


@pytest.mark.parametrize(
    ("arguments", "status", "error_type", "message"),
    [
        (("cartpole", [0, 0]), 400, "BadRequest", "observation must be a nested list of shape"),
        (("digits", b"hello"), 400, "BadRequest", "image"),
        (("nothing", [0]), 404, "ModelNotFoundException", "Model not found: nothing"),
        (
            ("cartpole", [0, 0, 0, 0], "9.9"),
            404,
            "ModelVersionNotFoundException",
            "9.9 does not exist for model: cartpole",
        ),
        (("digits", bytes(21_000_000)), 413, "", "max_request_size"),
    ],
    ids=["observation", "picture", "model", "version", "size"],
)
def test_errors_are_the_same_over_every_way(
    ask: Ask, arguments: Any, status: int, error_type: str, message: str
) -> None:
    with pytest.raises(RequestRefused, match=message) as caught:
        ask("predict", *arguments)

    assert caught.value.status == status
    assert caught.value.type in (error_type, "TooLarge" if status == 413 else error_type)


def test_every_option_that_a_model_takes_is_known_to_the_clients(
    client: Client, built_in: list[Spec]
) -> None:
    for one in built_in:
        told = client.describe(one.name, "1.0", customized=True)[0]["customizedMetadata"]

        assert {*told["options"], *told["explain_options"]} <= set(request_options.NAMES)


def test_both_clients_explain_and_look_around_alike(client: Client) -> None:
    digit = ready.golden_samples(spec.load("digits"))[0]["body"]

    async def all_of() -> list[Any]:
        async with AsyncClient(port_of(client)) as other:
            explained = [
                await other.explain("digits", digit),
                await other.explain("digits", digit, format="png"),
            ]
            return [
                *explained,
                await other.ping(),
                await other.models(),
                (await other.describe("digits"))[0]["modelVersion"],
            ]

    found = asyncio.run(all_of())

    assert found[:2] == [client.explain("digits", digit), client.explain("digits", digit, format="png")]
    assert found[1].startswith(b"\x89PNG")
    assert found[2:] == [client.ping(), client.models(), "1.0"]


def test_a_given_token_and_url_are_enough_from_anywhere(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = client.token("inference")
    monkeypatch.setenv("MARINA_HOME", str(tmp_path))

    with Client(url=client.inference, token=token) as remote:
        assert remote.predict("cartpole", [0, 0, 0, 0]) == client.predict("cartpole", [0, 0, 0, 0])
    with (
        Client(url=client.inference, token="wrong") as remote,
        pytest.raises(RequestRefused, match="Token either incorrect"),
    ):
        remote.predict("cartpole", [0, 0, 0, 0])


@ONLY_TORCHSERVE
def test_clients_whose_token_expires_at_once_all_go_on(client: Client) -> None:
    keys = json.loads(client.key_file.read_text())
    stale = {**keys, "inference": {**keys["inference"], "expiration time": "2020-01-01T00:00:00.000000000Z"}}
    client.key_file.write_text(json.dumps(stale))
    clients = [Client(port_of(client)) for _ in range(4)]

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda i: clients[i % 4].predict("cartpole", [0, 0, 0, 0]), range(120)))
    for one in clients:
        one.close()

    assert {answer["action"] for answer in answers} <= {0, 1}
    assert json.loads(client.key_file.read_text())["inference"]["key"] != keys["inference"]["key"]


def test_scaling_workers_to_none_and_to_one_of_two(
    client: Client,
) -> None:
    """Without workers a model is unavailable; with one of two, no request is lost."""
    one = spec.load("cartpole")
    observations = np.random.default_rng(1).normal(0, 0.1, (200, 4))
    errors = []
    client.scale(one.name, one.version, 0)
    try:
        for kind in (Client, GrpcClient):
            with kind(port_of(client)) as asked, pytest.raises(RequestError) as caught:
                asked.predict(one.name, [0, 0, 0, 0])
            errors.append(caught.value)
        client.scale(one.name, one.version, 2)
        workers: list[int] = []
        # TorchServe answers an instant before it says of the last worker that it is ready
        for _ in range(40):
            if len(workers) < 2:
                time.sleep(0.05)
                workers = [
                    int(worker["pid"])
                    for worker in client.describe(one.name)[0]["workers"]
                    if worker["status"] == "READY"
                ]
        with Client(port_of(client)) as asked, ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(asked.predict, one.name, row) for row in observations]
            waiting[20].result()
            os.kill(workers[1], signal.SIGKILL)  # scaling down keeps the first
            actions = [done.result()["action"] for done in waiting]
        together = client.predict_many(one.name, observations)
    finally:
        client.scale(one.name, one.version, 1)

    assert {(type(error), error.status, error.type) for error in errors} == {
        (ServerUnavailable, 503, "ServiceUnavailableException")
    }
    assert len(workers) == 2
    assert actions == [answer["action"] for answer in together]
    assert ready.problems(client, one) == []


def test_the_examples_of_the_documentation_run(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    text = (paths.SOURCE / "docs" / "guide" / "client.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    here = re.sub(r"Client\((?=\)|timeout)", f"Client({port_of(client)}, ", "\n".join(blocks))
    monkeypatch.setenv("MARINA_HOME", str(paths.find_home()))
    monkeypatch.chdir(tmp_path)
    Path("seven.png").write_bytes(ready.golden_samples(spec.load("digits"))[0]["body"])

    exec(compile(here, "docs/guide/client.md", "exec"), {})

    printed = capsys.readouterr().out
    assert printed.startswith("observation must be a nested list of shape [4] there, not a list of 2\n")
    assert printed.count("'action': ") == 2
