"""A table as a policy: trained, exported, and served with the environment's observations."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from marina.core.errors import CallError
from marina.core.spec import parse
from marina.evaluation import measurement as evaluate
from marina.evaluation.playback import play
from tests.support.measuring import measure
from tests.support.policy_predictors import policy_predictor
from tests.support.repository import ROOT
from training.export.trained import Trained
from training.policies.envs.evaluate import EVALUATION_SEED
from training.policies.tabular import worlds
from training.policies.tabular.planning import value_iteration
from training.recipes.tabular_policy import METHODS, Settings, TablePolicy, train
from training.runs.run import Run
from training.train import train as train_and_export

RECIPES = ROOT / "docs" / "recipes"


def quick(**settings: Any) -> Settings:
    return Settings.model_validate({"total_timesteps": 2000, "evaluation_episodes": 20, **settings})


def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, training: str, floor: float) -> Any:
    """The spec of a policy that was trained and exported, and its handler's answers."""
    monkeypatch.setenv("MARINA_HOME", str(tmp_path))
    text = (
        f"# A table.\nkind: policy\ntraining: {{recipe: tabular_policy, {training}}}\nfloor: "
        f"{{mean_return: {floor}}}\n"
    )
    spec = parse(text, "table", "models/table.yaml")
    train_and_export(spec)
    return spec


def test_table_answers_with_its_row_and_the_best_allowed_action() -> None:
    """A table answers with the row of its state and the best action that is allowed."""
    q = np.arange(24.0).reshape(12, 2)
    policy = TablePolicy(q, (2, 3, 2))

    answer = policy(torch.tensor([[1, 2, 0], [0, 1, 1]]), torch.tensor([[True, True], [True, False]]))

    assert answer["q_values"].tolist() == [[20, 21], [6, 7]]
    assert answer["action"].tolist() == [1, 0]
    assert answer["action"].dtype == torch.int64
    assert TablePolicy(q, (12,))(torch.tensor([3]), torch.ones(1, 2, dtype=torch.bool))[
        "q_values"
    ].tolist() == [[6, 7]]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_hands_over_a_policy_with_samples_that_it_answers_so(
    method: str, tmp_path: Path
) -> None:
    trained = train(quick(method=method), Run(tmp_path))

    assert 0 <= trained.metrics["mean_return"] <= 1
    assert (trained.preprocess["shape"], trained.preprocess["low"], trained.preprocess["high"]) == ([], 0, 15)
    assert trained.postprocess["action_space"] == {"type": "discrete", "n": 4}
    for sample in trained.samples:
        state = torch.tensor([json.loads(sample.body)["observation"]])
        assert trained.module(state, trained.example[1][:1])["action"].tolist() == [sample.expect["action"]]
    pictures = {path.name for path in tmp_path.iterdir()}
    assert pictures == ({"values.png"} if method == "value_iteration" else {"values.png", "curve.png"})


def test_the_values_of_the_model_are_served_and_reach_what_is_known(tmp_path: Path) -> None:
    trained = train(Settings(method="value_iteration"), Run(tmp_path))

    assert trained.module(torch.tensor([0]), trained.example[1][:1])[
        "q_values"
    ].max().item() == pytest.approx(0.542026, abs=1e-6)
    assert trained.metrics["mean_return"] == pytest.approx(0.740, abs=0.04)


@pytest.mark.slow
def test_the_default_settings_learn_the_lake(tmp_path: Path) -> None:
    assert train(Settings(total_timesteps=200_000), Run(tmp_path)).metrics["mean_return"] > 0.70


def test_the_same_seed_gives_the_same_table_and_another_seed_another(tmp_path: Path) -> None:
    first, again, other = (
        train(quick(exploration="boltzmann"), Run(tmp_path, seed=seed)).module for seed in (3, 3, 4)
    )

    assert torch.equal(first.q, again.q)
    assert not torch.equal(first.q, other.q)


def test_options_make_the_environment_everywhere_it_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "environment_options: {map_name: 8x8, is_slippery: false}"
    spec = exported(
        tmp_path, monkeypatch, f"method: value_iteration, evaluation_episodes: 5, {options}", floor=1
    )

    config = json.loads((spec.export_dir / "preprocess_config.json").read_text())
    measured = measure(spec, evaluate.in_process(spec), episodes=5)

    assert config["high"] == 63
    assert config["environment_options"] == {"map_name": "8x8", "is_slippery": False}
    assert measured == {"mean_return": 1, "std_return": 0, "episodes": 5}


def test_environment_without_a_time_limit_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of zeros goes up for ever."""
    training = "environment: CliffWalking-v1, method: monte_carlo, total_timesteps: 1, evaluation_episodes: 2"
    spec = exported(tmp_path, monkeypatch, training, floor=-100_000)

    metadata = json.loads((spec.export_dir / "model_metadata.json").read_text())
    measured = measure(spec, evaluate.in_process(spec), episodes=2)

    (finding,) = metadata["findings"]
    assert finding["finding"].startswith("CliffWalking-v1 sets no max_episode_steps")
    assert measured["mean_return"] == metadata["metrics"]["mean_return"] < -13


@pytest.fixture(scope="module")
def blackjack(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    settings = Settings(
        environment="Blackjack-v1", method="value_iteration", gamma=1, evaluation_episodes=4000
    )
    return train(settings, Run(tmp_path_factory.mktemp("report")))


def test_blackjack_observes_three_numbers_and_is_played_as_well_as_can_be(blackjack: Trained) -> None:
    assert blackjack.preprocess["shape"] == [3]
    assert (blackjack.preprocess["low"], blackjack.preprocess["high"]) == ([0, 0, 0], [31, 10, 1])
    assert blackjack.preprocess["names"] == ["own sum", "dealer's card", "usable ace"]
    assert blackjack.metrics["mean_return"] == pytest.approx(-0.043, abs=0.05)
    assert len(json.loads(blackjack.samples[0].body)["observation"]) == 3
    best = value_iteration(worlds.blackjack(), 1)[0][:704]
    np.testing.assert_allclose(blackjack.module.q.numpy(), best, atol=1e-6)


def test_a_request_says_a_blackjack_hand_as_the_environment_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = "environment: Blackjack-v1, method: value_iteration, gamma: 1, evaluation_episodes: 50"
    spec = exported(tmp_path, monkeypatch, training, floor=-1)
    answer = evaluate.in_process(spec)

    hands = [[20, 10, 0], [12, 7, 0], [17, 6, 1], [31, 10, 1]]
    (found,) = answer([(json.dumps({"instances": hands}).encode(), "application/json")], {})

    assert [one["action"] for one in found["predictions"]][:3] == [0, 1, 1]


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ([32, 10, 0], r"whole numbers from \[0, 0, 0\] to \[31, 10, 1\]"),
        ([12, 11, 0], "whole numbers from"),
        ([12, 10, -1], "whole numbers from"),
        ([12.5, 10, 0], "whole numbers from"),
        ([12, 10], r"shape \[3\]"),
        (12, r"shape \[3\]"),
        ([12, 10, True], "not bool"),
    ],
)
def test_impossible_hands_are_refused_and_the_schema_says_so(
    observation: Any, message: str, blackjack: Trained, tmp_path: Path
) -> None:
    """Impossible hands are refused, and the schema says what is possible."""
    handler = policy_predictor(blackjack, tmp_path)

    (refused,) = handler.answer_rows([({"body": json.dumps({"observation": observation}).encode()}, {})])

    assert isinstance(refused, Exception)
    with pytest.raises(type(refused), match=message):
        raise refused
    schema = handler.request_schema()["anyOf"][1]
    assert (schema["minItems"], schema["maxItems"], schema["items"]) == (
        3,
        3,
        {"type": "integer", "minimum": 0, "maximum": 31},
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"environment": "CartPole-v1"}, "CartPole-v1 observes Box.*; a table takes Discrete"),
        ({"environment": "Nowhere-v0"}, "can't be made"),
        ({"environment_options": {"map": "8x8"}}, "environment_options: .*unexpected keyword argument 'map'"),
        ({"environment_options": {"map_name": "9x9"}}, "environment_options: .*9x9"),
        ({"environment_options": {"render_mode": "human"}}, "render_mode: training doesn't draw"),
        ({"environment_options": {"success_rate": 2}}, "negative probabilities"),
        ({"environment": "Blackjack-v1", "environment_options": {"natural": True, "sab": False}}, "natural"),
    ],
)
def test_what_can_not_be_made_or_tabulated_is_refused_in_words(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CallError, match=message):
        train(quick(**settings), Run(tmp_path))


def test_the_reported_returns_are_those_of_the_real_environment(tmp_path: Path) -> None:
    trained = train(quick(method="value_iteration"), Run(tmp_path))
    returns = []
    for episode in range(20):
        env = gymnasium.make("FrozenLake-v1")
        state, _ = env.reset(seed=EVALUATION_SEED + episode)
        total, ended = 0.0, False
        while not ended:
            action = int(trained.module.q[state].argmax())
            state, reward, terminated, truncated, _ = env.step(action)
            total, ended = total + float(reward), terminated or truncated
        returns.append(total)

    assert trained.metrics["mean_return"] == np.mean(returns)


def test_playing_makes_the_environment_with_its_options() -> None:
    """Right and down on ice that isn't slippery: 14 steps on the large lake, past its holes."""
    way = iter([2] * 7 + [1] * 7)

    returns = play(
        lambda _: (next(way), {}), "FrozenLake-v1", 1, 0, None, {"map_name": "8x8", "is_slippery": False}
    )

    assert returns == [1]
    assert next(way, None) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frozen_lake", "taxi", "cliff_walking", "blackjack"])
def test_the_recipes_of_the_docs_reach_their_floors(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARINA_HOME", str(tmp_path))
    spec = parse((RECIPES / f"{name}.yaml").read_text(), name, f"docs/recipes/{name}.yaml")

    train_and_export(spec)

    assert spec.is_exported
