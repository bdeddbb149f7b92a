"""A multi-discrete policy trained with action masks, on a live server: the same actions as in process,
and never an invalid one.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from marina import engines
from marina.client import Client
from marina.core.console import Output
from marina.core.errors import RequestRefused
from marina.core.spec import Spec
from marina.engines import server_process as server
from marina.evaluation import measurement as evaluate
from marina.kinds.episodes import check_same, play_episodes
from marina.pipeline import steps as up
from tests.support.levers import StuckLevers
from tests.support.measuring import single
from tests.support.toy_environments import registered
from tests.support.toy_exports import export_toy
from training.recipes import ppo
from training.runs.run import Run

pytestmark = pytest.mark.slow

Served = tuple[Client, Spec]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Served]:
    home: Path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, registered(StuckLevers):
        patch.setenv("MARINA_HOME", str(home))
        settings = ppo.Settings(
            environment="StuckLevers-v0", action_masks=True, gamma=0.5, target_return=StuckLevers.steps
        )
        trained = ppo.train(settings, Run(home / "report"))
        assert trained.metrics["mean_return"] == StuckLevers.steps
        above_the_floor = dataclasses.replace(trained, metrics={**trained.metrics, "mean_return": 100.0})
        spec = export_toy(home, "levers", trained=above_the_floor)
        up.pack(spec, Output(as_json=True))
        with up.serving([spec], server.free_port_base(), Output(as_json=True), engines.get(engine)) as client:
            yield client, spec


@pytest.mark.parametrize("seed", [None, 3])
def test_served_episodes_are_equal_and_respect_the_mask(served: Served, seed: int | None) -> None:
    """Episodes are equal action by action, and masked levers are never pulled."""
    client, spec = served

    through = play_episodes(spec, single(evaluate.through_endpoint(client, spec)), 50, seed=seed)
    local = play_episodes(spec, single(evaluate.in_process(spec)), 50, seed=seed)

    assert check_same(through, local).startswith("50 episodes, 500 steps")
    # a draw may be another than the best
    assert through.returns.min() == StuckLevers.steps or seed is not None


def test_a_mask_that_leaves_a_lever_without_a_position_is_refused(served: Served) -> None:
    client, spec = served

    with pytest.raises(RequestRefused, match="allows nothing in branch 1") as refused:
        client.predict(spec.name, {"observation": [0.0] * 9, "action_mask": [1, 1, 1, 0, 0, 1, 1, 1, 1]})

    assert refused.value.status == 400
