"""A training that was stopped goes on: everything but the environments comes back, for every recipe."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from marina import paths, spec
from training import a2c, dqn, mpc, ppo, reinforce, sac, td3, trpo
from training.policies import rollout
from training.policies.checkpoints import Checkpoint
from training.policies.learning import Selection
from training.policies.small_networks import small_network_arithmetic
from training.running.run import begun
from training.train import settings_of
from training.train import train as train_model

SMALL = "evaluation_episodes: 2, screening_episodes: 2"
RAINBOW = "double: true, dueling: true, noisy: true, prioritised: true, n_steps: 3, atoms: 11, gradient_steps: 4, warmup_steps: 100"
RECIPES = {
    "ppo": "normalise_observations: true, scale_rewards: true",
    "curious": "intrinsic: {}",
    "trpo": "normalise_observations: true",
    "a2c": "environment: Pendulum-v1",
    "reinforce": "horizon: 50",
    "sac": "warmup_steps: 16",
    "td3": "warmup_steps: 16",
    "dqn": "gradient_steps: 4, warmup_steps: 100",
    "rainbow": RAINBOW,
    "mpc": "warmup_steps: 20, phase_steps: 5, plans: 8, elites: 2, horizon: 3, epochs: 2",
}


def written(home: Path, recipe: str, more: str = "") -> spec.Spec:
    """A spec of a small training in the test's home."""
    name = {"rainbow": "dqn", "curious": "ppo"}.get(recipe, recipe)
    training = ", ".join(part for part in (f"recipe: {name}", SMALL, RECIPES[recipe], more) if part)
    (home / "models" / f"{recipe}.yaml").write_text(f"# Learns.\nkind: policy\ntraining: {{{training}}}\nfloor: {{mean_return: -10000}}\n")
    return spec.load(recipe)


def learner_of(one: spec.Spec, seed: int) -> Any:
    settings = settings_of(one)
    recipe = {"dqn": dqn, "ppo": ppo, "trpo": trpo, "a2c": a2c, "reinforce": reinforce, "sac": sac, "td3": td3, "mpc": mpc}[
        one.training.recipe
    ]
    spaces = rollout.observation_config(settings.environment), rollout.action_config(settings.environment)
    return recipe.Learner(settings, *spaces, seed)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_new_learner_that_gets_the_state_of_an_old_one_learns_the_same_from_then_on(recipe: str, home: Path) -> None:
    one = written(home, recipe)
    settings = settings_of(one)
    with begun(one, settings.model_dump()), small_network_arithmetic(0):
        old = learner_of(one, 0)
        selection = Selection(settings, old.policy)
        for _ in range(3):
            old.phase()
        selection.confirms(old.policy)
        Checkpoint(learner=old, selection=selection).save()
        old.experience.go_on()
        expected = [old.phase() for _ in range(2)]

        new = learner_of(one, 1)  # other weights, other draws
        again = Selection(settings, new.policy)
        assert Checkpoint(learner=new, selection=again).load()
        new.experience.go_on()
        found = [new.phase() for _ in range(2)]

    np.testing.assert_array_equal(found, expected)
    assert new.experience.transitions == old.experience.transitions
    observations = new.experience.observations
    np.testing.assert_array_equal(new.policy.act(observations), old.policy.act(observations))
    np.testing.assert_array_equal(again.best.act(observations), selection.best.act(observations))
    assert (again.best_return, again.seed) == (selection.best_return, selection.seed)


@pytest.mark.parametrize("harm", ["cut", "other"])
def test_a_file_that_is_broken_or_of_another_learner_lets_learning_begin_anew(
    harm: str, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = written(home, "ppo")
    with begun(one, settings_of(one).model_dump()), small_network_arithmetic(0):
        learner = learner_of(one, 0)
        checkpoint = Checkpoint(learner=learner)
        checkpoint.save()
        assert checkpoint.path is not None
        if harm == "cut":
            checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:1000])
        else:
            Checkpoint(learner=learner.policy).save()
        before = copy.deepcopy(learner.policy.state_dict())

        assert not Checkpoint(learner=learner).load()

    assert "begins anew" in caplog.text
    assert all(torch.equal(value, before[name]) for name, value in learner.policy.state_dict().items())


def test_other_settings_another_seed_and_another_model_are_another_training(home: Path) -> None:
    places = set()
    for recipe, more in (("ppo", ""), ("ppo", "gamma: 0.5"), ("ppo", "seed: 1"), ("a2c", "")):
        one = written(home, recipe, more)
        with begun(one, settings_of(one).model_dump()):
            places.add(Checkpoint().path)

    assert len(places) == 4
    assert all(place is not None and place.is_relative_to(paths.cache() / "runs") for place in places)


def test_outside_of_marina_train_nothing_is_kept(home: Path) -> None:
    checkpoint = Checkpoint(numbers={"a": 1})

    checkpoint.save()

    assert not checkpoint.load()
    assert [path.name for path in home.iterdir()] == ["models"]


def test_after_ctrl_c_the_next_training_goes_on_and_then_nothing_is_left(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = written(home, "ppo", "steps: 3000, screening_every: 500, target_return: 10000")
    phase, calls = ppo.Learner.phase, iter(range(100))

    def stopping(learner: ppo.Learner) -> tuple[float, float]:
        if next(calls) == 6:
            raise KeyboardInterrupt
        return phase(learner)

    monkeypatch.setattr(ppo.Learner, "phase", stopping)
    first = json.loads((train_model(one) / "model_metadata.json").read_text())["training"]
    monkeypatch.setattr(ppo.Learner, "phase", phase)

    second = json.loads((train_model(one) / "model_metadata.json").read_text())["training"]

    assert first["interrupted"] is True
    assert second["interrupted"] is False
    assert 0 < first["steps_done"] < 3000 <= second["steps_done"]
    assert second["resumed_at"] == [first["steps_done"]]
    assert not list((paths.cache() / "runs").iterdir())


KILLED = """
import sys
from marina import spec
from training.policies import checkpoints
from training.train import train
checkpoints.EVERY_SECONDS = 0.2
train(spec.load(sys.argv[1]))
"""


@pytest.mark.slow
def test_after_kill_9_the_training_goes_on_with_the_steps_and_reaches_its_target(home: Path) -> None:
    one = written(home, "ppo", "steps: 200000, evaluation_episodes: 20, target_return: 475, screening_every: 8192")
    process = subprocess.Popen([sys.executable, "-c", KILLED, one.name], env={**os.environ, "MARINA_HOME": str(home)})
    deadline = time.monotonic() + 120
    while not list(paths.cache().glob("runs/*/state.pt")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()

    metadata = json.loads((train_model(one) / "model_metadata.json").read_text())

    (stopped_at,) = metadata["training"]["resumed_at"]
    assert 0 < stopped_at < metadata["training"]["steps_done"]
    assert metadata["metrics"]["mean_return"] >= 450
