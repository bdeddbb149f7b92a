"""Policies that stable-baselines3 saved: imported without it, they act as its own `predict` does; what can't be is refused."""

import base64
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import safetensors.numpy
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from marina import paths
from marina.errors import CallError
from marina.spec import Spec, load
from tests.unit.test_handler import context_of, handle
from training.imported_policy import Settings, train
from training.imports.baselines_zip import printed_bounds, printed_space, read_policy, read_statistics
from training.policies import graphs as policies
from training.policies import rollout
from training.train import train as train_spec
from training.trained import Trained

from policy_handler import PolicyHandler


class Switches(gymnasium.Env[np.ndarray, Any]):
    """Observes noise of a shape and a precision that the classic environments don't have, on top of a large number; acts by
    several switches.
    """

    observation_space: spaces.Space[Any] = spaces.Box(-3, 2000, (2, 3), np.float64)
    action_space: spaces.Space[Any] = spaces.MultiDiscrete([3, 2, 4])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observe(), float(np.sum(action)), False, self.steps == 20, {}

    def observe(self) -> np.ndarray:
        space = self.observation_space
        noise = self.np_random.uniform(0, 3, space.shape)
        noise.flat[0] = 1000 + noise.flat[0] / 300  # which float32 knows to 0.00006
        return noise.astype(space.dtype)


class Levers(Switches):
    """Acts by a matrix of levers, each with bounds of its own."""

    action_space = spaces.Box(np.array([[-1, 0], [-5, 2]], np.float32), np.array([[1, 3], [-4, 7.5]], np.float32))


class ShorterLevers(Levers):
    action_space = spaces.Box(np.array([[-1, 0], [-5, 2]], np.float32), np.array([[1, 3], [-4, 7]], np.float32))


class Pictures(Switches):
    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    action_space = spaces.Discrete(2)


class Bits(Switches):
    action_space = spaces.MultiBinary(3)


class Named(Switches):
    observation_space = spaces.Dict({"place": spaces.Box(-3, 3, (2,), np.float32)})
    action_space = spaces.Discrete(2)

    def observe(self) -> Any:
        return {"place": self.np_random.uniform(0, 3, 2).astype(np.float32)}


@pytest.fixture(scope="module", autouse=True)
def _environments() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for kind in (Switches, Levers, ShorterLevers, Pictures, Bits, Named):
            spec = gymnasium.envs.registration.EnvSpec(f"{kind.__name__}-v0", entry_point=kind)
            patch.setitem(gymnasium.registry, spec.id, spec)
        yield


SMALL = {"net_arch": [32, 16]}
ON = {"n_steps": 128}
OFF = {"learning_starts": 64}


@dataclass(frozen=True)
class Case:
    """A model to be trained: algorithm, environment, arguments, policy_kwargs, and whether VecNormalize stands before it."""

    algorithm: type[BaseAlgorithm]
    environment: str
    arguments: dict[str, Any]
    policy: dict[str, Any]
    normalised: bool = False

    @property
    def steps(self) -> int:
        """Few: that the weights are no longer the first ones is enough."""
        return 128 if "learning_starts" in self.arguments and self.algorithm is not sb3.DQN else 256


CASES = {
    "ppo-discrete": Case(sb3.PPO, "CartPole-v1", ON, SMALL),
    "ppo-discrete-normalised": Case(sb3.PPO, "CartPole-v1", ON, SMALL, True),
    "ppo-box": Case(sb3.PPO, "Pendulum-v1", ON, {"activation_fn": nn.ELU, "net_arch": {"pi": [16, 8], "vf": [12]}}),
    "ppo-box-normalised": Case(sb3.PPO, "Levers-v0", ON, SMALL, True),
    "ppo-states": Case(sb3.PPO, "FrozenLake-v1", ON, SMALL),
    "ppo-multi-discrete": Case(sb3.PPO, "Switches-v0", ON, SMALL, True),
    "ppo-gsde": Case(sb3.PPO, "Pendulum-v1", {**ON, "use_sde": True}, SMALL),
    "ppo-gsde-squashed": Case(
        sb3.PPO,
        "Levers-v0",
        {**ON, "use_sde": True},
        {**SMALL, "squash_output": True, "use_expln": True, "full_std": False, "log_std_init": 0.5},
    ),
    "a2c-discrete": Case(sb3.A2C, "CartPole-v1", {}, SMALL),
    "a2c-box": Case(sb3.A2C, "Pendulum-v1", {}, SMALL),
    "a2c-box-normalised": Case(sb3.A2C, "Pendulum-v1", {}, SMALL, True),
    "a2c-multi-discrete-linear": Case(sb3.A2C, "Switches-v0", {}, {"net_arch": []}),
    "dqn": Case(sb3.DQN, "CartPole-v1", {**OFF, "learning_rate": 1e-2, "target_update_interval": 20}, SMALL),
    "dqn-normalised": Case(sb3.DQN, "CartPole-v1", {**OFF, "learning_rate": 1e-2, "target_update_interval": 20}, SMALL, True),
    "dqn-states": Case(sb3.DQN, "FrozenLake-v1", OFF, {**SMALL, "activation_fn": nn.Tanh}),
    "sac": Case(sb3.SAC, "Pendulum-v1", OFF, SMALL),
    "sac-normalised": Case(sb3.SAC, "Levers-v0", OFF, SMALL, True),
    "sac-gsde": Case(sb3.SAC, "Levers-v0", {**OFF, "use_sde": True}, {**SMALL, "clip_mean": 0.5}),
    "sac-gsde-unclipped": Case(
        sb3.SAC, "Pendulum-v1", {**OFF, "use_sde": True}, {**SMALL, "clip_mean": 0.0, "use_expln": True, "log_std_init": 0.5}
    ),
    "td3": Case(sb3.TD3, "Pendulum-v1", OFF, SMALL),
    "td3-normalised": Case(sb3.TD3, "Levers-v0", OFF, {"net_arch": []}, True),
    "ddpg": Case(sb3.DDPG, "Pendulum-v1", OFF, SMALL),
    "ddpg-normalised": Case(sb3.DDPG, "Pendulum-v1", OFF, SMALL, True),
}


@dataclass
class Imported:
    """A model of stable-baselines3 with what was saved of it, and what the import made of that."""

    case: Case
    model: BaseAlgorithm
    vector: Any
    settings: Settings
    trained: Trained

    def predict(self, observations: np.ndarray) -> np.ndarray:
        """Actions of stable-baselines3 itself, from observations as the environment gives them."""
        seen = self.vector.normalize_obs(observations) if self.case.normalised else observations
        return self.model.predict(seen, deterministic=True)[0]

    def inputs(self, observations: np.ndarray) -> tuple[torch.Tensor, ...]:
        """What the graph takes: everything is allowed, no noise."""
        dtype = getattr(torch, self.trained.preprocess["dtype"])
        rest = (part[:1].expand(len(observations), -1) for part in self.trained.example[1:])
        return torch.from_numpy(observations).to(dtype), *rest


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Imported]:
    """The model of a case, trained for a few hundred steps, saved and imported once."""
    known: dict[str, Imported] = {}

    def get(name: str) -> Imported:
        if name not in known:
            known[name] = make(CASES[name], tmp_path_factory.mktemp(name))
        return known[name]

    return get


def make(case: Case, folder: Path) -> Imported:
    torch.set_num_threads(1)
    vector: Any = DummyVecEnv([lambda: rollout.make(case.environment)])
    if case.normalised:
        vector = VecNormalize(vector, clip_obs=3.0, epsilon=1e-6)
    model = case.algorithm("MlpPolicy", vector, policy_kwargs=dict(case.policy), seed=1, device="cpu", **case.arguments)
    model.learn(case.steps)
    model.save(folder / "model")
    settings: dict[str, Any] = {"source": str(folder / "model.zip"), "environment": case.environment, "evaluation_episodes": 3}
    if case.normalised:
        vector.training = False
        vector.save(str(folder / "vecnormalize.pkl"))
        settings |= {"statistics": str(folder / "vecnormalize.pkl"), "trust_pickle": True}
    chosen = Settings(**settings)
    return Imported(case, model, vector, chosen, train(chosen, 0, folder))


def observations_of(environment: str, act: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """10,000: drawn over the space, far outside of it, and met while acting."""
    space, random = rollout.observation_space(environment), np.random.default_rng(0)
    if isinstance(space, spaces.Discrete):
        return random.integers(0, int(space.n), 10_000)
    assert isinstance(space, spaces.Box)
    low, high = np.clip(space.low, -5, 5), np.clip(space.high, -5, 5)
    met = rollout.episode_observations(act, environment, 5)[:1000]
    inside, outside = (10_000 - len(met)) // 2, 10_000 - len(met) - (10_000 - len(met)) // 2
    drawn = (random.uniform(low, high, (inside, *space.shape)), random.normal(0, 50, (outside, *space.shape)))
    return np.concatenate([*drawn, met]).astype(space.dtype)


@pytest.mark.parametrize("name", CASES)
def test_actions_equal_predicts_on_ten_thousand_observations(name: str, imported: Callable[[str], Imported]) -> None:
    one = imported(name)
    observations = observations_of(one.case.environment, one.predict)
    inputs = one.inputs(observations)
    batch = torch.export.Dim("batch", min=1, max=20_000)
    example, shapes = one.trained.example, tuple({0: batch} for _ in one.trained.example)
    program = torch.export.export(one.trained.module, example, dynamic_shapes=shapes, strict=False).module()

    expected = one.predict(observations)

    assert len(observations) == 10_000
    for graph in (one.trained.module, program):
        with torch.no_grad():
            actions = graph(*inputs)["action"].numpy()
        assert actions.shape == expected.shape
        if expected.dtype.kind == "i":
            assert actions.dtype == np.int64
            assert np.array_equal(actions, expected)  # ties included: both take the first of equal ones
        else:
            assert actions.dtype == np.float32
            np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-5)
    assert len(np.unique(expected)) > 1, "a policy that always does the same proves nothing"


@pytest.mark.parametrize(
    ("name", "kind"), [("ppo-discrete", "ppo"), ("a2c-box", "a2c"), ("dqn", "dqn"), ("sac", "sac"), ("td3", "td3"), ("ddpg", "ddpg")]
)
def test_the_algorithm_is_found_in_the_file(name: str, kind: str, imported: Callable[[str], Imported]) -> None:
    one = imported(name)

    assert one.trained.training["algorithm"] == kind
    assert one.trained.data["transitions"] == one.model.num_timesteps


@pytest.mark.parametrize("name", ["ppo-discrete", "ppo-discrete-normalised", "a2c-discrete", "ppo-states", "dqn-normalised"])
def test_scores_and_values_are_those_of_stable_baselines3(name: str, imported: Callable[[str], Imported]) -> None:
    one = imported(name)
    observations = observations_of(one.case.environment, one.predict)
    policy: Any = one.model.policy

    with torch.no_grad():
        outputs = one.trained.module(*one.inputs(observations))
        seen = torch.from_numpy(one.vector.normalize_obs(observations) if one.case.normalised else observations)
        if name.startswith("dqn"):
            expected = {"q_values": policy.q_net(seen)}
        else:
            expected = {"probabilities": policy.get_distribution(seen).distribution.probs, "value": policy.predict_values(seen).flatten()}

    assert outputs.keys() == {"action", *expected}
    for key, values in expected.items():
        torch.testing.assert_close(outputs[key], values, rtol=0, atol=1e-6)


def test_an_exact_tie_of_probabilities_goes_to_the_first_as_in_predict_though_the_logits_differ(
    imported: Callable[[str], Imported],
) -> None:
    one = imported("ppo-discrete")
    policy: Any = one.model.policy
    logits = torch.tensor([[0.01, 0.010000001, -5.0]])
    assert logits.argmax(1).item() == 1
    distribution = policy.action_dist.proba_distribution(logits)

    module = type(one.trained.module)(nn.Identity(), nn.Linear(3, 1))

    found = module(logits, torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3))
    assert found["action"].tolist() == distribution.mode().tolist() == [0]


@pytest.mark.parametrize("name", ["ppo-discrete", "ppo-multi-discrete"])
def test_gumbel_noise_draws_actions_as_often_as_the_policy_says(name: str, imported: Callable[[str], Imported]) -> None:
    one, draws = imported(name), 20_000
    observation = one.trained.example[0][:1] + 0.5
    noise = np.random.default_rng(0).gumbel(size=(draws, one.trained.example[-1].shape[1])).astype(np.float32)
    masks = tuple(part[:1].expand(draws, -1) for part in one.trained.example[1:-1])
    seen = torch.from_numpy(one.vector.normalize_obs(observation.numpy())) if one.case.normalised else observation
    policy: Any = one.model.policy

    with torch.no_grad():
        found = one.trained.module(observation.expand(draws, *observation.shape[1:]), *masks, torch.from_numpy(noise))["action"]
        distribution = policy.get_distribution(seen).distribution

    branches = distribution if isinstance(distribution, list) else [distribution]
    for branch, actions in zip(branches, found.reshape(draws, -1).T, strict=True):
        share = torch.bincount(actions, minlength=branch.probs.shape[1]) / draws
        torch.testing.assert_close(share, branch.probs[0], rtol=0, atol=0.02)  # 5 standard errors


@pytest.mark.parametrize(
    "name", ["ppo-box", "a2c-box-normalised", "ppo-gsde", "ppo-gsde-squashed", "sac", "sac-gsde", "sac-gsde-unclipped"]
)
def test_normal_noise_moves_the_mean_by_the_policys_own_deviation(name: str, imported: Callable[[str], Imported]) -> None:
    one = imported(name)
    observations = observations_of(one.case.environment, one.predict)[::50]
    seen = torch.from_numpy(one.vector.normalize_obs(observations) if one.case.normalised else observations)
    noise = torch.randn(len(observations), one.trained.example[1].shape[1], generator=torch.Generator().manual_seed(0))
    policy: Any = one.model.policy

    with torch.no_grad():
        found = one.trained.module(one.inputs(observations)[0], noise)["action"]
        if hasattr(policy, "actor"):
            mean, log_std, more = policy.actor.get_action_dist_params(seen.float())
            distribution = policy.actor.action_dist.proba_distribution(mean, log_std, **more).distribution
        else:
            distribution = policy.get_distribution(seen).distribution

    raw = distribution.mean + distribution.stddev * noise
    space: Any = one.model.action_space
    raw = raw.reshape(-1, *space.shape).numpy()
    expected = policy.unscale_action(np.tanh(raw)) if policy.squash_output else np.clip(raw, space.low, space.high)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-4)  # gSDE adds 1e-6 to its variance there
    assert not np.allclose(found.numpy(), one.predict(observations), atol=1e-2)


def test_an_action_mask_forbids_actions_and_shares_their_probability_out(imported: Callable[[str], Imported]) -> None:
    one = imported("ppo-states")
    states = torch.arange(16)
    allowed = torch.tensor([True, False, True, False]).expand(16, -1)

    with torch.no_grad():
        free = one.trained.module(states, torch.ones(16, 4, dtype=torch.bool), torch.zeros(16, 4))
        found = one.trained.module(states, allowed, torch.full((16, 4), 0.1))

    rest = free["probabilities"] * allowed
    torch.testing.assert_close(found["probabilities"], rest / rest.sum(1, keepdim=True))
    assert set(found["action"].tolist()) <= {0, 2}


@pytest.mark.parametrize("name", ["ppo-discrete-normalised", "a2c-box-normalised", "dqn-states", "td3"])
def test_the_reported_return_is_the_one_that_stable_baselines3_evaluates_from_the_same_seeds(
    name: str, imported: Callable[[str], Imported]
) -> None:
    one, returns = imported(name), []
    if one.case.normalised:
        one.vector.norm_reward = False
    for episode in range(3):
        one.vector.seed(rollout.EVALUATION_SEED + episode)
        mean, _ = evaluate_policy(one.model, one.vector, n_eval_episodes=1, warn=False)
        returns.append(mean)

    assert one.trained.metrics["mean_return"] == pytest.approx(np.mean(returns), rel=1e-4)
    assert one.trained.metrics["std_return"] == pytest.approx(np.std(returns, ddof=1), rel=1e-3, abs=1e-6)


def test_a_policy_that_has_learnt_earns_what_it_earns_in_stable_baselines3(tmp_path: Path) -> None:
    vector = DummyVecEnv([lambda: rollout.make("CartPole-v1")] * 8)
    model = sb3.PPO("MlpPolicy", vector, n_steps=64, batch_size=256, learning_rate=2e-3, policy_kwargs=SMALL, seed=0, device="cpu")
    model.learn(12_000)
    model.save(tmp_path / "model")
    alone, returns = DummyVecEnv([lambda: rollout.make("CartPole-v1")]), []

    trained = train(Settings(source=str(tmp_path / "model.zip"), environment="CartPole-v1", evaluation_episodes=10), 0, tmp_path)

    for episode in range(10):
        alone.seed(rollout.EVALUATION_SEED + episode)
        returns.append(evaluate_policy(model, alone, n_eval_episodes=1, warn=False)[0])
    assert trained.metrics["mean_return"] == np.mean(returns) > 150  # a random policy earns 22


@pytest.mark.parametrize("name", ["ppo-discrete-normalised", "a2c-box", "dqn-states", "sac-normalised", "ddpg"])
def test_the_handler_answers_what_predict_gives(name: str, imported: Callable[[str], Imported], exported: Callable[..., Spec]) -> None:
    one = imported(name)
    observations = rollout.episode_observations(one.predict, one.case.environment, 3)[:20]
    spec = _exported(exported, one.trained)
    handler = PolicyHandler()
    handler.initialize(context_of(spec, []))

    answers = handle(handler, spec, [{"body": {"observation": row.tolist()}} for row in observations])

    assert [status for status, _ in answers] == [200] * len(observations)
    np.testing.assert_allclose([answer["action"] for _, answer in answers], one.predict(observations), rtol=0, atol=1e-5)


def test_a_spec_of_an_import_exports_like_any_other(imported: Callable[[str], Imported], home: Path) -> None:
    settings = imported("a2c-box-normalised").settings.model_dump(exclude_defaults=True)
    lines = "".join(f"  {name}: {json.dumps(value)}\n" for name, value in {"recipe": "imported_policy", **settings}.items())
    text = f"# Swings a pendulum up.\nkind: policy\ntraining:\n{lines}floor: {{mean_return: -2000}}\n"
    (home / "models" / "swing.yaml").write_text(text, encoding="utf-8")

    folder = train_spec(load("swing"))

    metadata = json.loads((folder / "model_metadata.json").read_text(encoding="utf-8"))
    assert (folder / "SHA256SUMS").is_file()
    assert metadata["training"]["activation"] == "tanh"
    assert metadata["metrics"]["mean_return"] == imported("a2c-box-normalised").trained.metrics["mean_return"]


def _exported(exported: Callable[..., Spec], trained: Trained) -> Spec:
    return exported("brought", trained=Trained(**{**vars(trained), "metrics": {**trained.metrics, "mean_return": 100.0}}))


@pytest.mark.parametrize("name", ["ppo-discrete", "a2c-box", "ppo-multi-discrete", "ppo-states", "sac-normalised"])
def test_samples_are_what_predict_does_at_their_observations(name: str, imported: Callable[[str], Imported]) -> None:
    one = imported(name)

    assert len(one.trained.samples) >= 2
    for sample in one.trained.samples:
        dtype = rollout.observation_space(one.case.environment).dtype
        observation = np.array(json.loads(sample.body)["observation"], dtype)[None]
        np.testing.assert_allclose(sample.expect["action"], one.predict(observation)[0], rtol=0, atol=1e-5)


def test_an_import_says_what_it_is_and_draws_its_evaluation(imported: Callable[[str], Imported], tmp_path: Path) -> None:
    one = imported("sac-normalised")

    trained = train(one.settings, 0, tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"returns.png", "episode.png"}
    assert trained.data["fingerprint"] == one.trained.data["fingerprint"]
    assert sb3.__version__ in trained.data["source"]
    assert trained.training["observations_normalised"]
    assert trained.preprocess["inputs"] == ["observation", "noise"]
    assert (trained.preprocess["shape"], trained.preprocess["dtype"]) == ([2, 3], "float64")
    assert trained.postprocess["action_space"]["high"] == [[1, 3], [-4, 7.5]]
    assert trained.postprocess["noise"] == "normal"


def test_the_activation_is_read_from_the_file_else_the_algorithms_own(imported: Callable[[str], Imported], tmp_path: Path) -> None:
    named, default = imported("ppo-box"), imported("sac")

    assert (named.trained.training["activation"], named.trained.training["activation_known_by"]) == ("elu", "file")
    assert (default.trained.training["activation"], default.trained.training["activation_known_by"]) == ("relu", "default")
    with pytest.raises(CallError, match=r"activation_fn is .*ELU.*, not tanh; leave 'activation' out"):
        train(named.settings.model_copy(update={"activation": "tanh"}), 0, tmp_path)


def test_an_activation_of_ones_own_must_be_named(tmp_path: Path) -> None:
    class Swish(nn.SiLU):
        pass

    model = sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=64, policy_kwargs={**SMALL, "activation_fn": Swish}, device="cpu")
    model.save(tmp_path / "model")
    settings = Settings(source=str(tmp_path / "model.zip"), environment="CartPole-v1", evaluation_episodes=2)

    with pytest.raises(CallError, match=r"activation_fn is .*Swish.*; if it does the same as one of tanh, relu"):
        train(settings, 0, tmp_path)
    trained = train(settings.model_copy(update={"activation": "silu"}), 0, tmp_path)

    observations = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    actions = policies.acting(trained.module, trained.example)(observations)  # type: ignore[arg-type]
    assert np.array_equal(actions, model.predict(observations, deterministic=True)[0])
    assert trained.training["activation_known_by"] == "setting"


def test_an_import_needs_no_stable_baselines3(imported: Callable[[str], Imported], tmp_path: Path) -> None:
    one = imported("a2c-box-normalised")
    code = (
        "import sys, json; sys.modules['stable_baselines3'] = sys.modules['cloudpickle'] = None\n"
        "import marina; from pathlib import Path; from training.imported_policy import Settings, train\n"
        "print(train(Settings(**json.loads(sys.argv[1])), 0, Path(sys.argv[2])).metrics['mean_return'])"
    )

    command = [sys.executable, "-c", code, one.settings.model_dump_json(), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=paths.SOURCE)

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(one.trained.metrics["mean_return"], rel=1e-4)


@pytest.mark.parametrize("suffix", [".npz", ".json", ".safetensors"])
def test_statistics_without_a_pickle_give_the_same_policy(suffix: str, imported: Callable[[str], Imported], tmp_path: Path) -> None:
    one = imported("ppo-box-normalised")
    running = one.vector.obs_rms
    arrays = {"mean": running.mean, "var": running.var, "epsilon": np.array(1e-6), "clip_obs": np.array(3.0)}
    path = tmp_path / f"statistics{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    elif suffix == ".json":
        path.write_text(json.dumps({name: array.tolist() for name, array in arrays.items()}), encoding="utf-8")
    else:
        safetensors.numpy.save_file(arrays, path)
    settings = one.settings.model_copy(update={"statistics": str(path), "trust_pickle": False})

    trained = train(settings, 0, tmp_path)

    inputs = one.inputs(observations_of("Levers-v0", one.predict))
    with torch.no_grad():
        assert torch.equal(trained.module(*inputs)["action"], one.trained.module(*inputs)["action"])


@pytest.mark.parametrize("protocol", [4, 5])  # the defaults of Python 3.8 and 3.14
def test_trusted_statistics_are_read_from_any_protocol_of_pickle(
    protocol: int, imported: Callable[[str], Imported], tmp_path: Path
) -> None:
    vector = imported("ppo-box-normalised").vector
    (tmp_path / "vecnormalize.pkl").write_bytes(pickle.dumps(vector, protocol))

    read = read_statistics(tmp_path / "vecnormalize.pkl", trust_pickle=True)

    assert read is not None
    assert np.array_equal(read.mean, vector.obs_rms.mean)
    assert np.array_equal(read.var, vector.obs_rms.var)
    assert (read.epsilon, read.clip) == (1e-6, 3.0)


def test_statistics_of_rewards_alone_leave_observations_as_they_are(tmp_path: Path) -> None:
    vector = VecNormalize(DummyVecEnv([lambda: rollout.make("Pendulum-v1")]), norm_obs=False)
    model = sb3.PPO("MlpPolicy", vector, n_steps=64, policy_kwargs=SMALL, device="cpu")
    model.learn(64)
    model.save(tmp_path / "model")
    vector.observation_space.sample()  # from now on its pickle holds a random generator
    vector.save(str(tmp_path / "vecnormalize.pkl"))
    settings = Settings(source=str(tmp_path / "model.zip"), environment="Pendulum-v1", evaluation_episodes=2)

    with pytest.raises(CallError, match="trained behind VecNormalize; say 'statistics'"):
        train(settings, 0, tmp_path)
    more = {"statistics": str(tmp_path / "vecnormalize.pkl"), "trust_pickle": True}
    trained = train(settings.model_copy(update=more), 0, tmp_path)

    assert not trained.training["observations_normalised"]


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "it ran")


def repacked(source: Path, target: Path, changes: dict[str, bytes | None]) -> Path:
    """A copy of the zip with other contents, None for none, of some members."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in {**dict.fromkeys(old.namelist()), **changes}:
            content = changes[name] if name in changes else old.read(name)
            if content is not None:
                new.writestr(name, content)
    return target


def with_data(source: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of the zip whose `data` was changed in place."""
    with zipfile.ZipFile(source) as archive:
        data = json.loads(archive.read("data"))
    change(data)
    return repacked(source, target, {"data": json.dumps(data).encode()})


def with_weights(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """A copy of the zip whose state dict was changed in place."""
    with zipfile.ZipFile(source) as archive:
        weights = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    change(weights)
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return repacked(source, target, {"policy.pth": buffer.getvalue()})


def test_no_pickle_in_a_zip_is_run(imported: Callable[[str], Imported], tmp_path: Path) -> None:
    source, written = Path(imported("ppo-discrete").settings.source), tmp_path / "written"
    payload = base64.b64encode(pickle.dumps(Payload(written))).decode()

    def poison(data: dict[str, Any]) -> None:
        for value in data.values():
            if isinstance(value, dict) and ":serialized:" in value:
                value[":serialized:"] = payload

    in_data = with_data(source, tmp_path / "data.zip", poison)
    buffer = io.BytesIO()
    torch.save({"action_net.weight": Payload(written)}, buffer)
    in_weights = repacked(source, tmp_path / "weights.zip", {"policy.pth": buffer.getvalue()})
    plain = repacked(source, tmp_path / "plain.zip", {"policy.pth": pickle.dumps(Payload(written))})

    trained = train(Settings(source=str(in_data), environment="CartPole-v1", evaluation_episodes=2), 0, tmp_path)
    for path in (in_weights, plain):
        with pytest.raises(CallError, match=r"policy.pth holds more than weights|is damaged"):
            train(Settings(source=str(path), environment="CartPole-v1"), 0, tmp_path)

    assert trained.metrics["mean_return"] > 0
    assert not written.exists()
    pickle.loads(base64.b64decode(payload))
    assert written.read_text() == "it ran", "the payload itself works"


def test_a_pickle_of_statistics_is_refused_unless_it_is_trusted_and_runs_nothing_even_then(tmp_path: Path) -> None:
    path, written = tmp_path / "vecnormalize.pkl", tmp_path / "written"
    path.write_bytes(pickle.dumps(Payload(written)))

    with pytest.raises(CallError, match=r"is a pickle, which can run any code .*trust_pickle: true.*\.npz"):
        read_statistics(path, trust_pickle=False)
    with pytest.raises(CallError, match=r"asks for pathlib\.\w+.*nothing of it was run"):
        read_statistics(path, trust_pickle=True)

    assert not written.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1, 2]), "can't be read as observation statistics"),
        (b"", "can't be read as observation statistics"),
        (b"\x80\x05\x95", "can't be read as observation statistics"),
        (pickle.dumps({"mean": [0], "var": [1]}), "can't be read as observation statistics"),
        (pickle.dumps(spaces.Discrete(3)), "must hold the mean and var"),
    ],
)
def test_pickles_of_something_else_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "statistics.pkl").write_bytes(content)

    with pytest.raises(CallError, match=message):
        read_statistics(tmp_path / "statistics.pkl", trust_pickle=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mean": [0, 0]}, "must hold the mean and var"),
        ([1, 2], "must hold the mean and var"),
        ({"mean": [0, 0], "var": [1]}, "of one shape"),
        ({"mean": [0, "x"], "var": [1, 1]}, "can't be read as observation statistics: could not convert"),
        ({"mean": [0, 0], "var": [1, -1]}, "var not below 0"),
        ({"mean": [0, 0], "var": [1, 1], "clip_obs": 0}, "clip_obs above 0"),
        ({"mean": [0, float("nan")], "var": [1, 1]}, "must be finite"),
    ],
)
def test_statistics_that_make_no_sense_are_refused(values: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "statistics.json").write_text(json.dumps(values), encoding="utf-8")

    with pytest.raises(CallError, match=message):
        read_statistics(tmp_path / "statistics.json", trust_pickle=False)


@pytest.mark.parametrize(("name", "mean"), [("a2c-box", [0.0] * 4), ("dqn-states", [0.0] * 16)])
def test_statistics_of_another_observation_are_refused(
    name: str, mean: list[float], imported: Callable[[str], Imported], tmp_path: Path
) -> None:
    (tmp_path / "statistics.json").write_text(json.dumps({"mean": mean, "var": mean}), encoding="utf-8")
    settings = imported(name).settings.model_copy(update={"statistics": str(tmp_path / "statistics.json")})

    with pytest.raises(CallError, match=r"mean has the shape \[\d+\], but the observations"):
        train(settings, 0, tmp_path)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("Acrobot-v1", r"observation_space is Box \[4\], but Acrobot-v1 has Box.*\(6,\)"),
        ("FrozenLake-v1", r"observation_space is Box \[4\], but FrozenLake-v1 has Discrete\(16\)"),
        ("Named-v0", r"observation_space is Box \[4\], but Named-v0 has Dict"),
        ("Nowhere-v0", "can't be made"),
    ],
)
def test_another_environment_is_refused_with_both_spaces(
    environment: str, message: str, imported: Callable[[str], Imported], tmp_path: Path
) -> None:
    with pytest.raises(CallError, match=message):
        train(imported("ppo-discrete").settings.model_copy(update={"environment": environment}), 0, tmp_path)


@pytest.mark.parametrize(
    ("name", "environment", "message"),
    [
        ("ppo-multi-discrete", "Levers-v0", r"action_space is MultiDiscrete \[3, 2, 4\], but Levers-v0 has Box"),
        ("sac-normalised", "ShorterLevers-v0", r"bounded by \[1.0, 3.0, -4.0, 7.5\], those of ShorterLevers-v0 by \[1.0, 3.0, -4.0, 7.0\]"),
        ("dqn-states", "Taxi-v4", r"observation_space is Discrete \[16\], but Taxi-v4 has Discrete\(500\)"),
    ],
)
def test_other_actions_and_other_bounds_are_refused(
    name: str, environment: str, message: str, imported: Callable[[str], Imported], tmp_path: Path
) -> None:
    with pytest.raises(CallError, match=message):
        train(imported(name).settings.model_copy(update={"environment": environment}), 0, tmp_path)


class OwnExtractor(FlattenExtractor):
    """Doubles what it flattens."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(observations)


@pytest.mark.parametrize(
    ("policy", "environment", "options", "message"),
    [
        ("CnnPolicy", "Pictures-v0", {}, r"features_extractor.cnn.0.weight belongs to a features extractor that learns"),
        ("MlpPolicy", "Pictures-v0", {}, "Pictures-v0 observes pictures"),
        ("MultiInputPolicy", "Named-v0", {}, "Named-v0 observes Dict"),
        ("MlpPolicy", "Bits-v0", {}, "Bits-v0 acts by MultiBinary"),
        ("MlpPolicy", "CartPole-v1", {"features_extractor_class": OwnExtractor}, "features_extractor_class is .*OwnExtractor"),
    ],
)
def test_policies_that_can_not_be_built_again_are_refused_naming_the_key(
    policy: str, environment: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    vector = DummyVecEnv([lambda: rollout.make(environment)])
    sb3.PPO(policy, vector, n_steps=64, policy_kwargs={**SMALL, **options}, device="cpu").save(tmp_path / "model")

    with pytest.raises(CallError, match=message):
        train(Settings(source=str(tmp_path / "model.zip"), environment=environment), 0, tmp_path)


def test_a_policy_class_of_ones_own_is_refused_by_its_module(tmp_path: Path) -> None:
    class OwnPolicy(sb3.ppo.MlpPolicy):
        pass

    sb3.PPO(OwnPolicy, "CartPole-v1", n_steps=64, device="cpu").save(tmp_path / "model")

    with pytest.raises(CallError, match=r"policy_class comes from .*test_imported_policy"):
        read_policy(tmp_path / "model.zip")


def drop(name: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda weights: weights.pop(name)


def put(name: str, value: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda weights: weights.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("action_net.bias"), "the weight action_net.bias is missing"),
        (drop("mlp_extractor.policy_net.0.weight"), r"action_net.weight is \[2, 16\], but the spaces ask for \[2, 4\]"),
        (put("mlp_extractor.policy_net.1.weight", torch.zeros(32)), "mlp_extractor.policy_net.1.weight belongs to no MlpPolicy"),
        (put("mlp_extractor.shared_net.0.weight", torch.zeros(4, 4)), "mlp_extractor.shared_net.0.weight belongs to no MlpPolicy"),
        (put("lstm_actor.weight_ih_l0", torch.zeros(4, 4)), "lstm_actor.weight_ih_l0 belongs to no MlpPolicy"),
        (put("action_net.weight", torch.zeros(3, 16)), r"action_net.weight is \[3, 16\], but the spaces ask for \[2, 16\]"),
        (put("action_net.weight", torch.zeros(2)), r"action_net.weight is \[2\]"),
        (put("action_net.bias", torch.zeros(3)), "action_net"),
        (put("value_net.weight", torch.full((1, 16), torch.nan)), "value_net.weight holds NaN"),
        (lambda weights: weights.clear(), "of no known policy"),
    ],
)
def test_weights_that_do_not_fit_are_named(change: Any, message: str, imported: Callable[[str], Imported], tmp_path: Path) -> None:
    path = with_weights(Path(imported("ppo-discrete").settings.source), tmp_path / "changed.zip", change)

    with pytest.raises(CallError, match=message):
        train(Settings(source=str(path), environment="CartPole-v1"), 0, tmp_path)


def test_a_file_that_is_no_zip_of_stable_baselines3_is_refused(imported: Callable[[str], Imported], tmp_path: Path) -> None:
    one = imported("ppo-discrete")
    content = Path(one.settings.source).read_bytes()
    torch.save(one.model.policy.state_dict(), tmp_path / "torch.pt")
    (tmp_path / "whole.pkl").write_bytes(pickle.dumps(Payload(tmp_path / "written")))
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.zip").write_text("hello")
    damaged = bytearray(content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        damaged[archive.getinfo("data").header_offset + 100] ^= 255
    (tmp_path / "damaged.zip").write_bytes(bytes(damaged))
    repacked(Path(one.settings.source), tmp_path / "other.zip", {"data": b"[]"})
    refusals = {
        "torch.pt": r"lacks data and policy\.pth",
        "whole.pkl": "a pickle could run any code",
        "cut.zip": "or not all of it",
        "text.zip": "is no zip",
        "damaged.zip": "is damaged: Bad CRC",
        "other.zip": "its data must hold policy_class",
        "nothing.zip": "no file",
    }

    for name, message in refusals.items():
        with pytest.raises(CallError, match=message):
            read_policy(tmp_path / name)

    assert not (tmp_path / "written").exists()


def test_another_algorithm_than_asked_for_is_refused(imported: Callable[[str], Imported], tmp_path: Path) -> None:
    with pytest.raises(CallError, match="holds ppo, not dqn"):
        train(imported("ppo-discrete").settings.model_copy(update={"algorithm": "dqn"}), 0, tmp_path)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(np.array([-np.inf, -1e-3, 2.5], np.float32), np.array([np.inf, 1234567.0, 3e10], np.float32)),
        spaces.Box(-1, 1, (17,), np.float32),
        spaces.Box(-0.4, 0.4, (2, 3), np.float64),
    ],
)
def test_printed_bounds_read_back_as_they_are(space: spaces.Box) -> None:
    model = {":type:": str(type(space)), "_shape": [*space.shape], "low": str(space.low), "high": str(space.high)}

    low, high = printed_bounds(model)

    assert printed_space(model) == ("Box", [*space.shape])
    np.testing.assert_allclose(low, space.low.ravel(), rtol=1e-7)
    np.testing.assert_allclose(high, space.high.ravel(), rtol=1e-7)
