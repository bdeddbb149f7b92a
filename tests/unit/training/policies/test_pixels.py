"""Policies on pixels: observations, training, serving, playback, and what is refused."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from handlers.kinds.policy import PolicyPredictor
from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.evaluation.measurement import in_process
from marina.evaluation.playback import play
from marina.kinds.episodes import check_same, play_episodes
from tests.support.measuring import measure, single
from tests.support.toy_environments import registered
from training.export.trained import Trained
from training.policies.envs.evaluate import EVALUATION_SEED
from training.policies.envs.make import make
from training.policies.envs.observe import action_spec, observation_spec
from training.policies.networks.convolutions import NatureCNN, ToPixels
from training.policies.networks.optim import seeded_single_thread
from training.policies.networks.q_network import QNetwork
from training.policies.spaces import ObservationSpec
from training.recipes import dqn, ppo
from training.runs.run import Run

SIDE = 12


class Catch(gymnasium.Env[np.ndarray, int]):
    """A ball falls aslant and comes back from the walls; a racket of three pixels gets 1 for catching it,
    -1 for missing it.
    """

    observation_space: spaces.Space[Any] = spaces.Box(0, 255, (SIDE, SIDE), np.uint8)
    action_space: spaces.Space[Any] = spaces.Discrete(3)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.row, self.racket = 0, SIDE // 2
        self.column, self.aslant = int(self.np_random.integers(SIDE)), int(self.np_random.integers(-1, 2))
        return self.picture(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.racket = min(max(self.racket + int(action) - 1, 1), SIDE - 2)
        if not 0 <= self.column + self.aslant < SIDE:
            self.aslant = -self.aslant
        self.row, self.column = self.row + 1, self.column + self.aslant
        over = self.row == SIDE - 1
        caught = abs(self.column - self.racket) <= 1
        return self.picture(), (1.0 if caught else -1.0) * over, over, False, {}

    def picture(self) -> np.ndarray:
        """What is seen."""
        seen = np.zeros((SIDE, SIDE), np.uint8)
        seen[self.row, self.column] = 255
        seen[SIDE - 1, self.racket - 1 : self.racket + 2] = 255
        return seen

    def render(self) -> np.ndarray:
        """The same in colours."""
        return np.repeat(self.picture()[..., None], 3, 2)


@pytest.fixture(scope="module", autouse=True)
def _catch() -> Any:
    with registered(Catch):
        yield


STACKED = {"wrappers": {"frame_stack": 2}}
SETTINGS: dict[str, Any] = {
    "environment": "Catch-v0",
    "frame_stack": 2,
    "hidden": (64,),
    "learning_rate": 1e-3,
    "gamma": 0.95,
    "batch_size": 32,
    "gradient_steps": 16,
    "train_freq": 4,
    "target_update_interval": 8,
    "exploration_steps": 6000,
    "exploration_final_eps": 0.05,
}


@pytest.mark.parametrize(
    ("shape", "stack", "channels"),
    [((12, 14), 0, 1), ((12, 14, 3), 0, 3), ((4, 12, 14), 4, 4), ((2, 12, 14, 3), 2, 6), ((4, 84, 90), 4, 4)],
)
def test_pictures_become_channels_first_with_every_pixel_in_its_place(
    shape: tuple[int, ...], stack: int, channels: int
) -> None:
    observation = ObservationSpec(tuple(shape), "uint8", wrappers={"frame_stack": stack})
    pictures = torch.randint(0, 256, (5, *shape), dtype=torch.uint8)
    height, width = shape[1:3] if stack else shape[:2]

    found = ToPixels(observation)(pictures)

    assert found.shape == (5, channels, height, width)
    assert found.dtype == torch.float32
    for channel in range(channels):
        if stack and len(shape) == 4:
            expected = pictures[:, channel // 3, :, :, channel % 3]
        elif stack:
            expected = pictures[:, channel]
        else:
            expected = pictures.reshape(5, height, width, -1)[..., channel]
        torch.testing.assert_close(found[:, channel], expected / 255)
    encoder = NatureCNN(observation)
    assert encoder(pictures).shape == (5, encoder.width)


def test_the_encoder_of_84_pixels_is_natures() -> None:
    network = QNetwork(ObservationSpec((4, 84, 84), "uint8", wrappers={"frame_stack": 4}), 6, (512,))

    # Mnih et al. 2015: 8x8x4x32 + 4x4x32x64 + 3x3x64x64 weights with biases, 3136 features, 512 units
    assert (
        sum(parameter.numel() for parameter in network.parameters())
        == 8224 + 32832 + 36928 + 3136 * 512 + 512 + 512 * 6 + 6
    )


def test_a_stack_is_described_and_kept_with_what_makes_it() -> None:
    config = observation_spec("Catch-v0", env_kwargs=STACKED)

    assert (config.shape, config.dtype, config.low, config.high) == ((2, SIDE, SIDE), "uint8", 0, 255)
    assert ObservationSpec.from_json(json.loads(json.dumps(config.to_json()))).env_kwargs == STACKED
    env = make("Catch-v0", **config.env_kwargs)
    first, _ = env.reset(seed=3)
    second, *_ = env.step(0)
    np.testing.assert_array_equal(first[0], first[1])
    np.testing.assert_array_equal(second[0], first[1])
    assert (second[1] != second[0]).any()


def test_what_is_drawn_from_the_replay_is_what_the_environment_showed() -> None:
    settings = dqn.Settings(**{**SETTINGS, "n_step_returns": 2, "num_envs": 3})
    env_kwargs = settings.env_kwargs
    with seeded_single_thread(0):
        learner = dqn.Learner(
            settings,
            observation_spec("Catch-v0", env_kwargs=env_kwargs),
            action_spec("Catch-v0"),
            0,
        )
        shown = []
        for _ in range(60):
            shown.append(learner.envs.obs)
            learner.collect_step(1.0)

    drawn = learner.buffer.sample(300, np.random.default_rng(0))

    assert learner.buffer.frames.shape[1:] == (3, SIDE, SIDE)
    for observation, following, row in zip(drawn.obs, drawn.next_obs, drawn.rows, strict=True):
        time, copy = divmod(int(row), 3)
        np.testing.assert_array_equal(observation, shown[time][copy])
        assert any(
            np.array_equal(following, shown[time + later][copy]) for later in (1, 2) if time + later < 60
        )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A very short training."""
    settings = dqn.Settings(**SETTINGS, total_timesteps=1200, evaluation_episodes=4, n_eval_episodes=2)
    return dqn.train(settings, Run(tmp_path_factory.mktemp("report")))


def above_the_floor(trained: Trained) -> Trained:
    """The same policy, with a metric that the toys' spec lets pass."""
    return dataclasses.replace(trained, metrics={"mean_return": 50.0})


Exported = tuple[Spec, PolicyPredictor]


@pytest.fixture
def catch(quick: Trained, exported: Callable[..., Spec]) -> Exported:
    """The short training's export, and the predictor that serves it."""
    spec = exported("catch", trained=above_the_floor(quick))
    predictor = PolicyPredictor()
    predictor.load(spec.export_dir, spec.serving.model_config_yaml())
    return spec, predictor


def ask(predictor: PolicyPredictor, *observations: Any) -> list[Any]:
    """Answers or refusals."""
    bodies = [json.dumps({"observation": observation}).encode() for observation in observations]
    return predictor.answer_rows([({"body": body}, {}) for body in bodies])


def test_a_pixel_policy_refuses_what_is_no_picture(catch: Exported) -> None:
    picture = np.zeros((2, SIDE, SIDE), int)
    wrong = (picture + 256, picture - 1, picture + 0.5, picture[0, 0])

    right, *refused, single_picture = ask(
        catch[1], picture.tolist(), *(values.tolist() for values in wrong), picture[0].tolist()
    )

    assert right["action"] in (0, 1, 2)
    assert [str(error) for error in refused[:3]] == ["observation must be whole numbers from 0 to 255"] * 3
    assert "shape [2, 12, 12]" in str(refused[3])
    # an episode begins with copies of its first picture
    assert single_picture == {**right, "state": single_picture["state"]}


def test_a_pixel_policy_plays_with_its_wrappers_as_it_was_trained(
    quick: Trained, catch: Exported, tmp_path: Path
) -> None:
    spec, predictor = catch
    config = json.loads((spec.export_dir / "preprocess_config.json").read_text())
    answers: list[Any] = []

    def act(observations: np.ndarray) -> tuple[int, dict[str, Any]]:
        (answer,) = ask(predictor, observations[0].tolist())
        outputs = quick.module(torch.from_numpy(observations), torch.ones(1, 3, dtype=torch.bool))
        assert answer["q_values"] == pytest.approx(outputs["q_values"][0].tolist(), abs=1e-5)
        answers.append(answer)
        return answer["action"], answer

    env_kwargs = ObservationSpec.from_json(config).env_kwargs
    returns = play(act, config["environment"], 4, EVALUATION_SEED, tmp_path / "film.gif", env_kwargs)

    assert np.mean(returns) == quick.metrics["mean_return"]
    assert len(answers) == 4 * (SIDE - 1)


def test_a_pixel_policy_evaluates_to_the_return_of_its_training(quick: Trained, catch: Exported) -> None:
    """Picture by picture, and with whole stacks in the requests."""
    spec, _ = catch

    assert measure(spec, in_process(spec), episodes=4)["mean_return"] == quick.metrics["mean_return"]
    picture_by_picture, whole = (
        play_episodes(spec, single(in_process(spec)), 4, stacks=stacks) for stacks in (False, True)
    )
    assert (
        check_same(picture_by_picture, whole)
        == f"4 episodes, {4 * (SIDE - 1)} steps: the same actions, step for step"
    )


def test_recipes_that_take_no_pictures_say_which_does(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="dqn takes images"):
        ppo.train(ppo.Settings(environment="Catch-v0"), Run(tmp_path))


def test_other_recipes_take_stacks_of_numbers_and_serve_them_normalised(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "total_timesteps": 600,
        "evaluation_episodes": 2,
        "n_eval_episodes": 2,
        "eval_freq": 512,
    }
    settings = ppo.Settings(frame_stack=2, normalize_observations=True, **options)

    trained = ppo.train(settings, Run(tmp_path))

    assert trained.preprocess["shape"] == [2, 4]
    assert trained.preprocess["wrappers"] == {"frame_stack": 2}
    assert json.loads(trained.samples[0].body)["observation"][1] != [0, 0, 0, 0]


def test_what_is_no_game_can_not_be_preprocessed_as_one(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"frameskip|no game of the Arcade"):
        dqn.train(dqn.Settings(environment="CartPole-v1", atari=True), Run(tmp_path))


def test_options_that_are_set_elsewhere_are_refused() -> None:
    with pytest.raises(ValueError, match="render_mode can't be set here"):
        dqn.Settings(environment_options={"render_mode": "human"})


def test_options_reach_the_environment_and_the_export(tmp_path: Path) -> None:
    settings = dqn.Settings(
        environment_options={"max_episode_steps": 5},
        total_timesteps=300,
        evaluation_episodes=2,
        n_eval_episodes=2,
    )

    trained = dqn.train(settings, Run(tmp_path))

    assert trained.metrics["mean_return"] == 5
    assert ObservationSpec.from_json(trained.preprocess).env_kwargs == {"max_episode_steps": 5}


@pytest.mark.slow
def test_a_game_is_learned_from_its_pictures(tmp_path: Path) -> None:
    settings = dqn.Settings(
        **SETTINGS, total_timesteps=40_000, target_return=0.9, eval_freq=2000, n_eval_episodes=50
    )

    trained = dqn.train(settings, Run(tmp_path))

    assert trained.metrics["mean_return"] >= 0.9  # at random -0.5; without moving -0.5


@pytest.mark.slow
def test_pong_is_learned_from_a_little_and_served_as_it_was_evaluated(
    exported: Callable[..., Spec], tmp_path: Path
) -> None:
    pytest.importorskip("ale_py")
    options: dict[str, Any] = {
        "num_envs": 2,
        "train_freq": 8,
        "gradient_steps": 2,
        "batch_size": 32,
        "hidden": (64,),
        "learning_starts": 64,
    }
    options |= {
        "evaluation_episodes": 2,
        "n_eval_episodes": 2,
        "eval_freq": 10**6,
        "environment_options": {"max_episode_steps": 200},
    }
    options |= {"environment": "ALE/Pong-v5", "atari": True, "frame_stack": 4, "clip_rewards": True}
    settings = dqn.Settings(total_timesteps=400, **options)

    trained = dqn.train(settings, Run(tmp_path))

    assert trained.preprocess["shape"] == [4, 84, 84]
    assert trained.metrics["steps"] >= 400
    one = exported("pong", trained=above_the_floor(trained))
    assert measure(one, in_process(one), episodes=2)["mean_return"] == trained.metrics["mean_return"]
