"""Imported policies exported: returns, samples, metadata and the handler's answers are the original's."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import stable_baselines3 as sb3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from handlers.policy_handler import PolicyHandler
from marina.core.spec import Spec, load
from tests.support.saved_policies import SMALL, Imported
from tests.support.torchserve_calls import context_of, handle
from training.export.trained import Trained
from training.policies.envs.evaluate import EVALUATION_SEED, record_episode
from training.policies.envs.make import make
from training.policies.envs.observe import observation_space
from training.recipes.imported_policy import Settings, train
from training.runs.run import Run
from training.train import train as train_spec

pytestmark = pytest.mark.usefixtures("registered")


@pytest.mark.parametrize("name", ["ppo-discrete-normalised", "a2c-box-normalised", "dqn-states", "td3"])
def test_reported_return_equals_stable_baselines3_evaluation(
    name: str, imported: Callable[[str], Imported]
) -> None:
    """The reported return is the one that stable-baselines3 evaluates from the same seeds."""
    one, returns = imported(name), []
    if one.case.normalised:
        one.vector.norm_reward = False
    for episode in range(3):
        one.vector.seed(EVALUATION_SEED + episode)
        mean, _ = evaluate_policy(one.model, one.vector, n_eval_episodes=1, warn=False)
        returns.append(mean)

    assert one.trained.metrics["mean_return"] == pytest.approx(np.mean(returns), rel=1e-4)
    assert one.trained.metrics["std_return"] == pytest.approx(np.std(returns, ddof=1), rel=1e-3, abs=1e-6)


@pytest.mark.slow
def test_a_policy_that_has_learnt_earns_what_it_earns_in_stable_baselines3(tmp_path: Path) -> None:
    vector = DummyVecEnv([lambda: make("CartPole-v1")] * 8)
    model = sb3.PPO(
        "MlpPolicy",
        vector,
        n_steps=64,
        batch_size=256,
        learning_rate=2e-3,
        policy_kwargs=SMALL,
        seed=0,
        device="cpu",
    )
    model.learn(12_000)
    model.save(tmp_path / "model")
    alone, returns = DummyVecEnv([lambda: make("CartPole-v1")]), []

    trained = train(
        Settings(source=str(tmp_path / "model.zip"), environment="CartPole-v1", evaluation_episodes=10),
        Run(tmp_path),
    )

    for episode in range(10):
        alone.seed(EVALUATION_SEED + episode)
        returns.append(evaluate_policy(model, alone, n_eval_episodes=1, warn=False)[0])
    assert trained.metrics["mean_return"] == np.mean(returns) > 150  # a random policy earns 22


@pytest.mark.parametrize(
    "name", ["ppo-discrete-normalised", "a2c-box", "dqn-states", "sac-normalised", "ddpg"]
)
def test_the_handler_answers_what_predict_gives(
    name: str, imported: Callable[[str], Imported], exported: Callable[..., Spec]
) -> None:
    one = imported(name)
    observations = record_episode(one.predict, one.case.environment, 3)[0][:20]
    spec = _exported(exported, one.trained)
    handler = PolicyHandler()
    handler.initialize(context_of(spec, []))

    answers = handle(handler, spec, [{"body": {"observation": row.tolist()}} for row in observations])

    assert [status for status, _ in answers] == [200] * len(observations)
    np.testing.assert_allclose(
        [answer["action"] for _, answer in answers], one.predict(observations), rtol=0, atol=1e-5
    )


def test_a_spec_of_an_import_exports_like_any_other(imported: Callable[[str], Imported], home: Path) -> None:
    settings = imported("a2c-box-normalised").settings.model_dump(exclude_defaults=True)
    lines = "".join(
        f"  {name}: {json.dumps(value)}\n"
        for name, value in {"recipe": "imported_policy", **settings}.items()
    )
    text = f"# Swings a pendulum up.\nkind: policy\ntraining:\n{lines}floor: {{mean_return: -2000}}\n"
    (home / "models" / "swing.yaml").write_text(text, encoding="utf-8")

    folder = train_spec(load("swing"))

    metadata = json.loads((folder / "model_metadata.json").read_text(encoding="utf-8"))
    assert (folder / "SHA256SUMS").is_file()
    assert metadata["training"]["activation"] == "tanh"
    assert metadata["metrics"]["mean_return"] == imported("a2c-box-normalised").trained.metrics["mean_return"]


def _exported(exported: Callable[..., Spec], trained: Trained) -> Spec:
    return exported(
        "brought", trained=Trained(**{**vars(trained), "metrics": {**trained.metrics, "mean_return": 100.0}})
    )


@pytest.mark.parametrize(
    "name", ["ppo-discrete", "a2c-box", "ppo-multi-discrete", "ppo-states", "sac-normalised"]
)
def test_samples_are_what_predict_does_at_their_observations(
    name: str, imported: Callable[[str], Imported]
) -> None:
    one = imported(name)

    assert len(one.trained.samples) >= 2
    for sample in one.trained.samples:
        dtype = observation_space(one.case.environment).dtype
        observation = np.array(json.loads(sample.body)["observation"], dtype)[None]
        np.testing.assert_allclose(sample.expect["action"], one.predict(observation)[0], rtol=0, atol=1e-5)


def test_an_import_says_what_it_is_and_draws_its_evaluation(
    imported: Callable[[str], Imported], tmp_path: Path
) -> None:
    one = imported("sac-normalised")

    trained = train(one.settings, Run(tmp_path))

    assert {path.name for path in tmp_path.iterdir()} == {"returns.png", "episode.png"}
    assert trained.data["fingerprint"] == one.trained.data["fingerprint"]
    assert sb3.__version__ in trained.data["source"]
    assert trained.training["observations_normalised"]
    assert trained.preprocess["inputs"] == ["observation", "noise"]
    assert (trained.preprocess["shape"], trained.preprocess["dtype"]) == ([2, 3], "float64")
    assert trained.postprocess["action_space"]["high"] == [[1, 3], [-4, 7.5]]
    assert trained.postprocess["noise"] == "normal"
