"""A policy of several choices that learned with masks, on a live TorchServe: the same actions as in process, and never a forbidden one."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from marina import evaluate, server, up
from marina.client import Client
from marina.console import Output
from marina.episodes import check_same, play_episodes
from marina.errors import RequestRefused
from marina.spec import Spec
from tests.conftest import export_toy
from tests.levers import StuckLevers, registered
from training import ppo

pytestmark = pytest.mark.slow

Served = tuple[Client, Spec]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home: Path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, registered():
        patch.setenv("MARINA_HOME", str(home))
        settings = ppo.Settings(environment="StuckLevers-v0", action_masks=True, gamma=0.5, target_return=StuckLevers.steps)
        trained = ppo.train(settings, 0, home / "report")
        assert trained.metrics["mean_return"] == StuckLevers.steps
        above_the_floor = dataclasses.replace(trained, metrics={**trained.metrics, "mean_return": 100.0})
        spec = export_toy(home, "levers", trained=above_the_floor)
        up.pack(spec, Output(as_json=True))
        with up.serving([spec], server.free_port_base(), Output(as_json=True)) as client:
            yield client, spec


@pytest.mark.parametrize("seed", [None, 3])
def test_episodes_are_the_same_action_by_action_and_stuck_levers_are_never_tried(served: Served, seed: int | None) -> None:
    client, spec = served

    through = play_episodes(spec, evaluate.single(evaluate.through_endpoint(client, spec)), 50, seed=seed)
    local = play_episodes(spec, evaluate.single(evaluate.in_process(spec)), 50, seed=seed)

    assert check_same(through, local).startswith("50 episodes, 500 steps")
    assert through.returns.min() == StuckLevers.steps or seed is not None  # a draw may be another than the best


def test_a_mask_that_leaves_a_lever_without_a_position_is_refused(served: Served) -> None:
    client, spec = served

    with pytest.raises(RequestRefused, match="allows nothing in branch 1") as refused:
        client.predict(spec.name, {"observation": [0.0] * 9, "action_mask": [1, 1, 1, 0, 0, 1, 1, 1, 1]})

    assert refused.value.status == 400
