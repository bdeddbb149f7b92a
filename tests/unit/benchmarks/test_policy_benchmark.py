"""`marina bench rl`: its plan, a tiny row from run to table, resuming. `marina bench steps`: its rows."""

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from benchmarks import policies, policy_plan, policy_steps
from marina.core.errors import CallError
from tests.support.policy_predictors import policy_predictor
from training.policies.envs import make as environments
from training.policies.networks.optim import Adam
from training.recipes import ppo, recipe_of
from training.runs.run import Run
from training.train import settings_of

DEEP = {"a2c", "dqn", "mpc", "ppo", "reinforce", "sac", "td3", "trpo"}


def run_of(row: str, whose: str, seed: int, **said: Any) -> dict[str, Any]:
    return {
        "row": row,
        "whose": whose,
        "seed": seed,
        "steps": 1000,
        "seconds": 2.0,
        "reached": True,
        "mean_return": 480.0,
        **said,
    }


@pytest.mark.parametrize("row", policy_plan.PLAN, ids=lambda row: row.recipe)
def test_plan_rows_have_known_environments_floors_and_valid_settings(
    row: policy_plan.Row,
) -> None:
    """Every row of the plan names a known environment, a floor, and settings that its recipe accepts."""
    settings = settings_of(row.spec)

    assert settings.environment in gymnasium.registry
    assert row.spec.floor.keys() == {"mean_return"}
    assert recipe_of(row.spec).module.Learner
    assert row.counterpart is None or row.counterpart.steps >= 20_000


def test_the_plan_has_every_deep_algorithm_and_each_row_once() -> None:
    names = [row.recipe for row in policy_plan.PLAN]

    assert {row.spec.training.recipe for row in policy_plan.PLAN} == DEEP
    assert len(set(names)) == len(names)


def test_rows_are_chosen_by_recipe_algorithm_or_environment() -> None:
    by_recipe, by_algorithm, by_environment = (
        policy_plan.select_rows([name], quick=False) for name in ("pendulum", "sac", "Pendulum-v1")
    )

    assert [row.recipe for row in by_recipe] == ["pendulum"]
    assert {row.spec.training.recipe for row in by_algorithm} == {"sac"}
    assert [row for row in by_environment if row in by_recipe] == by_recipe != by_environment
    assert 0 < len(policy_plan.select_rows([], quick=True)) < len(policy_plan.PLAN)


def test_what_was_stopped_is_gone_on_with_and_only_what_is_missing_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "table.json"
    own = ["a2c", "CartPole-v1", "--threshold", "9", "--every", "64", "--set", "total_timesteps=64"]

    policies.main([*own, "--seeds", "1", "--out", str(file)])
    before = json.loads(file.read_text())["runs"]
    capsys.readouterr()
    policies.main([*own, "--seeds", "2", "--resume", str(file), "--alone"])
    after, said = json.loads(file.read_text())["runs"], capsys.readouterr()
    policies.main([*own, "--seeds", "0", "--resume", str(file)])

    assert [(run["whose"], run["seed"]) for run in before] == [("ours", 0), ("stable-baselines3", 0)]
    assert after[:2] == before
    assert [(run["whose"], run["seed"]) for run in after[2:]] == [("ours", 1)]
    assert "| `a2c CartPole-v1` | CartPole-v1, 9 | a2c | 64 | 2 of 2 |" in said.out
    assert "seed 0" not in said.err
    assert capsys.readouterr().out == said.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "chess"], "--only chess: no such row; known: a2c, acrobot"),
        (["ppo", "CartPole-v1"], "needs an environment and a threshold"),
        (["--threshold", "3"], "need a row of your own"),
        (["ppo", "CartPole-v1", "--threshold", "9", "--set", "epohcs=3"], "unknown key 'epohcs'"),
    ],
)
def test_a_wrong_call_says_what_to_give_instead(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        policies.main(words)

    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_results_are_not_overwritten_nor_read_from_what_is_none(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text('{"runs": [{"row": "x"}]}')

    with pytest.raises(CallError, match="--resume"):
        policies.Results(file, resume=False)
    with pytest.raises(CallError, match="no file of results"):
        policies.Results(file, resume=True)


def test_ratio_is_over_common_seeds_and_a_bound_below_the_target() -> None:
    """The ratio is over the seeds that both have, and a bound where one missed its target."""
    own = {seed: run_of("r", "ours", seed, seconds=2.0) for seed in range(5)}
    other = {seed: run_of("r", "theirs", seed, seconds=20.0) for seed in range(3)}
    short = {**other, 2: {**other[2], "reached": False}}

    assert policies._ratio(own, other) == "10.0"
    assert policies._ratio(own, short) == ">10.0"
    assert policies._ratio({**own, 1: {**own[1], "reached": False}}, other) == "<10.0"
    assert policies._ratio(own, {}) == ""


def test_the_picture_has_a_bar_for_each_side_of_a_row(tmp_path: Path) -> None:
    results, row = policies.Results(None, resume=False), policy_plan.PLAN[0]
    for whose in (policies.OURS, policies.THEIRS):
        results.add(**run_of(row.recipe, whose, 0))

    policies.picture([(row.recipe, row.spec, row)], results, tmp_path / "times.png")

    assert (tmp_path / "times.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("environment", "package", "extra"),
    [
        ("LunarLander-v3", "Box2D", "box2d"),
        ("InvertedPendulum-v5", "mujoco", "mujoco"),
        ("InvertedPendulum-v5", "imageio", "mujoco"),
    ],
)
def test_an_environment_whose_packages_are_missing_names_the_extra(
    environment: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith(tuple(environments.EXTRAS))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(
        CallError, match=rf"needs packages that are missing; run: pip install 'marina\[{extra}\]'"
    ):
        environments.make(environment)


def test_a_policy_for_mujoco_whose_observations_are_float64_is_served(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    pytest.importorskip("imageio")
    options = {"total_timesteps": 128, "eval_freq": 128, "n_eval_episodes": 2, "evaluation_episodes": 2}
    trained = ppo.train(
        ppo.Settings(environment="InvertedPendulum-v5", hidden=(8,), **options), Run(tmp_path)
    )
    handler = policy_predictor(trained, tmp_path)

    answers = handler.answer_rows([({"body": sample.body}, {}) for sample in trained.samples[:4]])

    assert trained.preprocess["dtype"] == "float32"
    for sample, answer in zip(trained.samples, answers, strict=False):
        assert answer["action"] == pytest.approx(sample.expect["action"], abs=1e-5)


def test_a_limit_is_scaled_by_how_fast_its_yardstick_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    row = policy_steps.Row("a step", 1000, 200, lambda: lambda: 1500.0, lambda: lambda: 450.0)

    line = policy_steps.table([policy_steps.measured(row, 3)]).splitlines()[-1]
    policy_steps.main(["--rounds", "1", "--only", "Pendulum"])
    *_, real = capsys.readouterr().out.splitlines()

    assert line == "| a step | 1,000, 1,500 | 200, 300 | 450 | 1.50 |"
    assert "Pendulum-v1" in real
    assert float(real.split("|")[-2]) > 0


@pytest.mark.parametrize(
    ("recipe", "collects", "adam"),
    [("ppo", "rollouts.collect", "optimizer.adam"), ("dqn", "collect_step", "numpy_steps.adam")],
)
def test_gathering_and_learning_are_timed_apart(
    recipe: str, collects: str, adam: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.process_time", lambda: clock[0])
    sample = policy_steps.ours(recipe, collects, adam, 2, True, eval_freq=1)
    per_step = policy_steps.ours(recipe, collects, adam, 2, False, eval_freq=1)
    step = Adam.step

    def slowly(*arguments: Any) -> None:
        clock[0] += 3e-6
        step(*arguments)

    monkeypatch.setattr(Adam, "step", slowly)

    assert sample() == pytest.approx(3.0, rel=1e-3)
    assert per_step() == 0


def test_an_unknown_row_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SystemExit, match=r"--only walking: no such row; there are: .*sac: gradient step"):
        policy_steps.main(["--only", "walking"])
