"""Checkpoints: everything but the environments is restored, for every recipe."""

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

from marina.core import paths, spec
from training.policies.envs.observe import action_spec, observation_spec
from training.policies.loops.checkpoints import Checkpoint
from training.policies.loops.history import History
from training.policies.loops.selection import Selection
from training.policies.networks.optim import seeded_single_thread
from training.recipes import a2c, dqn, mpc, ppo, reinforce, sac, td3, trpo
from training.runs.run import open_run
from training.train import settings_of
from training.train import train as train_model

SMALL = "evaluation_episodes: 2, n_eval_episodes: 2"
RAINBOW = (
    "double: true, dueling: true, noisy: true, prioritized: true, n_step_returns: 3, "
    "num_atoms: 11, gradient_steps: 4, learning_starts: 100"
)
RECIPES = {
    "ppo": "normalize_observations: true, normalize_rewards: true",
    "curious": "intrinsic: {}",
    "trpo": "normalize_observations: true",
    "a2c": "environment: Pendulum-v1",
    "reinforce": "n_steps: 50",
    "sac": "learning_starts: 16",
    "td3": "learning_starts: 16",
    "dqn": "gradient_steps: 4, learning_starts: 100",
    "rainbow": RAINBOW,
    "mpc": "learning_starts: 20, train_freq: 5, population_size: 8, elites: 2, horizon: 3, n_epochs: 2",
}


def written(home: Path, recipe: str, more: str = "") -> spec.Spec:
    """A spec of a small training in the test's home."""
    name = {"rainbow": "dqn", "curious": "ppo"}.get(recipe, recipe)
    training = ", ".join(part for part in (f"recipe: {name}", SMALL, RECIPES[recipe], more) if part)
    (home / "models" / f"{recipe}.yaml").write_text(
        f"# Learns.\nkind: policy\ntraining: {{{training}}}\nfloor: {{mean_return: -10000}}\n"
    )
    return spec.load(recipe)


def learner_of(one: spec.Spec, seed: int) -> Any:
    settings = settings_of(one)
    recipe = {
        "dqn": dqn,
        "ppo": ppo,
        "trpo": trpo,
        "a2c": a2c,
        "reinforce": reinforce,
        "sac": sac,
        "td3": td3,
        "mpc": mpc,
    }[one.training.recipe]
    spaces = observation_spec(settings.environment), action_spec(settings.environment)
    return recipe.Learner(settings, *spaces, seed)


@pytest.mark.parametrize("recipe", RECIPES)
def test_learner_with_a_loaded_state_learns_the_same_from_then_on(
    recipe: str, home: Path, tmp_path: Path
) -> None:
    """A new learner that loads the state of an old one learns the same from then on."""
    one = written(home, recipe)
    settings = settings_of(one)
    with seeded_single_thread(0):
        old = learner_of(one, 0)
        selection = Selection(settings, old.policy)
        for _ in range(3):
            old.iteration()
        selection.evaluate(old.policy)
        Checkpoint(tmp_path, learner=old, selection=selection).save()
        old.envs.resume()
        expected = [old.iteration() for _ in range(2)]

        new = learner_of(one, 1)  # other weights, other draws
        again = Selection(settings, new.policy)
        assert Checkpoint(tmp_path, learner=new, selection=again).load()
        new.envs.resume()
        found = [new.iteration() for _ in range(2)]

    np.testing.assert_array_equal(found, expected)
    assert new.envs.num_timesteps == old.envs.num_timesteps
    observations = new.envs.obs
    np.testing.assert_array_equal(new.policy.act(observations), old.policy.act(observations))
    np.testing.assert_array_equal(again.best.act(observations), selection.best.act(observations))
    assert (again.best_return, again.seed) == (selection.best_return, selection.seed)


@pytest.mark.parametrize("harm", ["cut", "other"])
def test_broken_or_foreign_checkpoint_starts_from_scratch(
    harm: str, home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint that is broken or of another learner lets learning start from scratch."""
    one = written(home, "ppo")
    with seeded_single_thread(0):
        learner = learner_of(one, 0)
        checkpoint = Checkpoint(tmp_path, learner=learner)
        checkpoint.save()
        assert checkpoint.path is not None
        if harm == "cut":
            checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:1000])
        else:
            Checkpoint(tmp_path, learner=learner.policy).save()
        before = copy.deepcopy(learner.policy.state_dict())

        assert not Checkpoint(tmp_path, learner=learner).load()

    assert "starts from scratch" in caplog.text
    assert all(torch.equal(value, before[name]) for name, value in learner.policy.named_parameters())


def test_settings_seed_and_model_identify_a_run(home: Path) -> None:
    """Other settings, another seed and another model are another run."""
    places = set()
    for recipe, more in (("ppo", ""), ("ppo", "gamma: 0.5"), ("ppo", "seed: 1"), ("a2c", "")):
        one = written(home, recipe, more)
        with open_run(one, settings_of(one).model_dump(), home / "report") as run:
            places.add(run.checkpoints)

    assert len(places) == 4
    assert all(place is not None and place.is_relative_to(paths.cache() / "runs") for place in places)


def test_outside_of_marina_train_nothing_is_kept(home: Path) -> None:
    checkpoint = Checkpoint(None, learner=History())

    checkpoint.save()

    assert not checkpoint.load()
    assert [path.name for path in home.iterdir()] == ["models"]


def test_after_ctrl_c_the_next_training_goes_on_and_then_nothing_is_left(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = written(home, "ppo", "total_timesteps: 3000, eval_freq: 500, target_return: 10000")
    phase, calls = ppo.Learner.iteration, iter(range(100))

    def stopping(learner: ppo.Learner) -> tuple[float, float]:
        if next(calls) == 6:
            raise KeyboardInterrupt
        return phase(learner)

    monkeypatch.setattr(ppo.Learner, "iteration", stopping)
    first = json.loads((train_model(one) / "model_metadata.json").read_text())["training"]
    monkeypatch.setattr(ppo.Learner, "iteration", phase)

    second = json.loads((train_model(one) / "model_metadata.json").read_text())["training"]

    assert first["interrupted"] is True
    assert second["interrupted"] is False
    assert 0 < first["steps_done"] < 3000 <= second["steps_done"]
    assert second["resumed_at"] == [first["steps_done"]]
    assert not list((paths.cache() / "runs").iterdir())


KILLED = """
import sys
from marina.core import spec
from training.policies.loops import learning
from training.train import train
learn = learning.learn
learning.learn = lambda *arguments: learn(*arguments[:4], checkpoint_seconds=0.2)
train(spec.load(sys.argv[1]))
"""


@pytest.mark.slow
def test_after_sigkill_the_run_resumes_and_reaches_its_target(home: Path) -> None:
    """After `kill -9` the run resumes with its steps and reaches its target."""
    one = written(
        home, "ppo", "total_timesteps: 200000, evaluation_episodes: 20, target_return: 475, eval_freq: 8192"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, one.name], env={**os.environ, "MARINA_HOME": str(home)}
    )
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
