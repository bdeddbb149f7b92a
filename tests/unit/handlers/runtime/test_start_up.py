"""A worker's start: a changed archive does not come up, and threads follow the model's size."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from handlers.kinds import predictor_of
from handlers.policy_handler import PolicyHandler
from handlers.protocol.errors import BrokenArchive
from marina.core.spec import Spec
from tests.support.torchserve_calls import context_of


def test_a_file_that_was_changed_is_named_and_the_worker_does_not_come_up(
    exported: Callable[..., Spec],
) -> None:
    one = exported()
    (one.export_dir / "postprocess_config.json").write_text("{}")

    with pytest.raises(BrokenArchive, match=r"postprocess_config\.json was changed"):
        PolicyHandler().initialize(context_of(one, []))


@pytest.mark.parametrize(
    ("name", "words"), [("model.pt2", "model.pt2 is missing"), ("SHA256SUMS", "SHA256SUMS is missing")]
)
def test_a_missing_file_is_named(exported: Callable[..., Spec], name: str, words: str) -> None:
    one = exported()
    (one.export_dir / name).unlink()

    with pytest.raises(BrokenArchive, match=words):
        PolicyHandler().initialize(context_of(one, []))


def test_a_file_that_somebody_added_is_named(exported: Callable[..., Spec]) -> None:
    one = exported()
    (one.export_dir / "extra.py").write_text("")

    with pytest.raises(BrokenArchive, match=r"extra\.py is not listed"):
        PolicyHandler().initialize(context_of(one, []))


def test_a_worker_that_would_answer_differently_does_not_come_up(exported: Callable[..., Spec]) -> None:
    from handlers.runtime.checksums import write_checksums

    one = exported()
    index = one.export_dir / "samples" / "samples.json"
    index.write_text(index.read_text().replace('"action": 1', '"action": 0'))
    write_checksums(one.export_dir)

    with pytest.raises(
        BrokenArchive, match=r"golden sample 'step-0' is answered differently: answer.action: 1 instead of 0"
    ):
        PolicyHandler().initialize(context_of(one, []))


def threads_of(one: Spec, config: dict, monkeypatch: pytest.MonkeyPatch, seconds: float) -> int:
    """The threads that a worker chooses on a machine of eight cores, for a model that takes `seconds` per
    request.
    """
    predictor = predictor_of(one.kind)
    predictor.load(one.export_dir, {})
    told = [1]

    class Slow:
        def __init__(self, model: Any) -> None:
            self.model = model

        def __call__(self, batch: np.ndarray) -> Any:
            time.sleep(seconds)
            return self.model(batch)

        def set_threads(self, threads: int) -> None:
            told.append(threads)

    monkeypatch.setattr(predictor, "model", Slow(predictor.model))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert predictor.choose_threads(config) == told[-1]
    return told[-1]


@pytest.mark.parametrize(
    ("config", "seconds", "threads"),
    [
        ({"maxWorkers": 2}, 0.0, 1),
        ({"maxWorkers": 2}, 0.05, 4),
        ({"maxWorkers": 1000}, 0.05, 1),
        ({"maxWorkers": 2, "handler": {"threads": 3}}, 0.0, 3),
        ({"maxWorkers": 2, "handler": {"threads": None}}, 0.05, 4),
    ],
)
def test_threads_follow_the_models_size(
    exported: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch, config: dict, seconds: float, threads: int
) -> None:
    """A small model takes one thread, a large one its share of the cores."""
    assert threads_of(exported(), config, monkeypatch, seconds) == threads
