"""Policies on a live server with two workers each: the same actions as in process, also for recurrent and
for sampling policies.
"""

import json
from collections.abc import Iterator

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
from tests.support.measuring import single
from tests.support.toy_exports import export_toy
from tests.support.toy_policies import balance, memory, swing

pytestmark = pytest.mark.slow

Served = tuple[Client, dict[str, Spec]]
TWO = "serving: {workers: 2}\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARINA_HOME", str(home))
        specs = {
            name: export_toy(home, name, TWO, make())
            for name, make in (("balance", balance), ("swing", swing), ("memory", memory))
        }
        for one in specs.values():
            up.pack(one, Output(as_json=True))
        with up.serving(
            [*specs.values()], server.free_port_base(), Output(as_json=True), engines.get(engine)
        ) as client:
            yield client, specs


@pytest.mark.parametrize(
    ("name", "seed"), [("balance", None), ("swing", None), ("memory", None), ("memory", 3)]
)
def test_a_hundred_episodes_are_the_same_action_by_action(
    served: Served, name: str, seed: int | None
) -> None:
    client, specs = served

    through = play_episodes(
        specs[name],
        single(evaluate.through_endpoint(client, specs[name])),
        100,
        stacks=False,
        seed=seed,
    )
    local = play_episodes(specs[name], single(evaluate.in_process(specs[name])), 100, seed=seed)

    assert check_same(through, local).startswith("100 episodes, ")


def test_a_lost_step_is_a_conflict_in_words(served: Served) -> None:
    client, _ = served
    state = client.predict("memory", {"observation": [0, 0, 0, 0]})["state"]

    with pytest.raises(RequestRefused, match="a step was lost") as refused:
        client.predict("memory", {"observation": [0, 0, 0, 0], "state": state, "step": 2})

    assert refused.value.status == 409


def test_a_thousand_observations_come_back_in_their_order(served: Served) -> None:
    client, _ = served
    observations = [[0, 0, lean / 1000 - 0.5, 0] for lean in range(1000)]

    answers = client.predict("balance", json.dumps({"instances": observations}).encode())["predictions"]

    assert [answer["action"] for answer in answers] == [int(row[2] > 0) for row in observations]
