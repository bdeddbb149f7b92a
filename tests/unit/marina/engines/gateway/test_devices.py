"""The device of a worker; the GPUs are pretended."""

from typing import Any

import pytest
import torch

from marina.engines.gateway.devices import WORKER_NUMBER, device_of

GPU = {"deviceType": "gpu"}


@pytest.mark.parametrize(
    ("config", "taken"),
    [
        ({}, ["cpu", "cpu", "cpu"]),
        (GPU, ["cuda:1", "cuda:2", "cuda:0"]),
        ({**GPU, "deviceIds": [2]}, ["cuda:2", "cuda:2", "cuda:2"]),
        ({**GPU, "deviceIds": [0, 2]}, ["cuda:2", "cuda:0", "cuda:2"]),
    ],
)
def test_workers_take_the_gpus_in_turn(
    config: dict[str, Any], taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    found = []
    for number in ("1", "2", "3"):
        monkeypatch.setenv(WORKER_NUMBER, number)
        found.append(device_of(config))

    assert found == taken


def test_without_a_gpu_it_is_the_cpu_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert device_of(GPU) == "cpu"
    assert "torch finds none here: it computes on the CPU" in caplog.text
