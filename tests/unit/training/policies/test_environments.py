"""Environments of a user's own: found, distinguished from old gym's, and stopped."""

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from marina.core.errors import CallError
from marina.evaluation.playback import play
from tests.support.repository import ROOT
from training.findings import Findings, reporting_to
from training.policies.envs import checked
from training.policies.envs.evaluate import episode_returns, random_returns, vector_returns
from training.policies.envs.make import make, spec_of
from training.policies.envs.observe import observation_spec
from training.policies.envs.training_envs import TrainingEnvs

OWN = '''
import threading, time
import gymnasium, numpy as np
from gymnasium import spaces

class Walk(gymnasium.Env):
    """Rewards 1 a step; ends after `length`, 0: never."""
    observation_space, action_space = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)
    def __init__(self, length=5):
        self.length = length
    def observe(self):
        return np.zeros(3, np.float32)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}
    def step(self, action):
        self.steps += 1
        return self.observe(), 1.0, self.steps == self.length, False, {}

class Endless(Walk):
    def __init__(self):
        super().__init__(0)

class OldReset(Walk):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]

class OldSeed(Walk):
    def reset(self):
        return super().reset()[0]

class OldStep(Walk):
    def step(self, action):
        return super().step(action)[:3] + ({},)

class OldLimited(OldStep):
    pass

class Raises(Walk):
    def step(self, action):
        raise KeyError("no such wall")

class Stuck(Walk):
    """Waits without an end, at the second call."""
    def step(self, action):
        if self.steps:
            time.sleep(1000)
        return super().step(action)

class StuckReset(Walk):
    def reset(self, **options):
        time.sleep(1000)

class StuckMade(Walk):
    def __init__(self):
        threading.Event().wait()

class Deaf(Stuck):
    """Goes on waiting when it is interrupted."""
    def step(self, action):
        while True:
            try:
                super().step(action)
            except Exception:  # what it is there for: it ignores the interruption
                pass

class Wide(Walk):
    def observe(self):
        return np.zeros(4, np.float32)

class NoNumber(Walk):
    def step(self, action):
        return self.observe(), float("nan"), False, False, {}

class NotMade(Walk):
    def __init__(self):
        raise RuntimeError("no simulator")

class Parts(Walk):
    observation_space = spaces.Dict({"goal": spaces.Box(-1, 1, (2,))})

class Other:
    pass

kinds = Walk, Endless, OldReset, OldSeed, OldStep, Raises, Wide, NoNumber, NotMade, Parts, Other
kinds += Stuck, StuckReset, StuckMade, Deaf
for kind in kinds:
    gymnasium.register(f"{kind.__name__}-v0", entry_point=kind)
gymnasium.register("OldLimited-v0", entry_point=OldLimited, max_episode_steps=7)
'''


@pytest.fixture
def walks(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """The id of an environment in a file of the project; a limit is said again in each test."""
    (home / "own_walks.py").write_text(OWN)
    monkeypatch.setattr(checked, "STEP_LIMIT", 30)
    monkeypatch.setattr("training.policies.envs.make.STEP_LIMIT", 30)
    with reporting_to(Findings()):
        yield lambda name: f"own_walks:{name}-v0"


def stand(observations: np.ndarray) -> np.ndarray:
    return np.zeros(len(observations), np.int64)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("own_walks:Wlak-v0", r"`Wlak` doesn't exist; did you mean Walk-v0\?"),
        ("own_walk:Walk-v0", r"no module 'own_walk' in the project's folder or installed; .* own_walks\?"),
        ("Walk-v99", r"or one of your own with its module, like my_env:Walk-v0"),
        ("own_walks:NotMade-v0", r"raised RuntimeError at .*own_walks.py:\d+: no simulator"),
        ("own_walks:Other-v0", r"must inherit from the gymnasium.Env class"),
    ],
)
def test_an_environment_that_cant_be_made_is_refused_in_words(
    environment: str, message: str, walks: Callable[[str], str]
) -> None:
    with pytest.raises(CallError, match=message):
        make(environment)


def test_a_file_of_environments_is_run_once(home: Path) -> None:
    """Where it registered them again, gymnasium would warn."""
    (home / "files_walks.py").write_text(
        OWN.replace('register(f"', 'register(f"files/').replace('"OldL', '"files/OldL')
    )

    returns = episode_returns(stand, "files_walks.py:files/Walk-v0", 2, 0)

    assert returns.tolist() == [5, 5]
    assert spec_of("files_walks.py:files/Walk-v0").id == "files/Walk-v0"
    with pytest.raises(CallError, match="no such file"):
        make("gone.py:Walk-v0")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("OldReset", "has the API of old gym: .*info"),
        ("OldSeed", "has the API of old gym"),
        ("OldStep", "has the API of old gym: .*terminated, truncated, info"),
        ("OldLimited", "has the API of old gym"),
        ("Raises", r"step raised KeyError at .*own_walks.py:\d+: 'no such wall'"),
        ("Wide", r"gives an observation of the shape \[4\], but its observation_space is Box"),
        ("NoNumber", "gives the reward NaN"),
    ],
)
def test_an_environment_with_a_fault_is_refused_in_words(
    name: str, message: str, walks: Callable[[str], str]
) -> None:
    with pytest.raises(CallError, match=message):
        episode_returns(stand, walks(name), 2, 0)
    with pytest.raises(CallError, match=message):
        TrainingEnvs(walks(name), 2, 0).step(np.zeros(2, np.int64))


@pytest.mark.parametrize(
    "run",
    [
        lambda environment: episode_returns(stand, environment, 2, 0).tolist(),
        lambda environment: vector_returns(stand, environment, 2, 0).tolist(),
        lambda environment: random_returns(environment, 2, 0).tolist(),
        lambda environment: play(lambda _: (0, {}), environment, 2, 0, None),
    ],
    ids=["evaluation", "selection", "random", "play"],
)
def test_an_environment_without_an_end_is_ended_and_that_is_said(
    run: Callable[[str], list[float]], walks: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "marina"):
        returns = run(walks("Endless"))

    assert returns == [30, 30]
    (said,) = [record.getMessage() for record in caplog.records]
    assert "own_walks:Endless-v0 sets no max_episode_steps" in said
    assert "--set training.environment_options.max_episode_steps=N" in said


def test_a_limit_of_ones_own_ends_episodes_without_a_word(
    walks: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    options = {"max_episode_steps": 40}

    returns = episode_returns(stand, walks("Endless"), 2, 0, env_kwargs=options)
    own_end = episode_returns(stand, walks("Walk"), 2, 0)

    assert returns.tolist() == [40, 40]
    assert own_end.tolist() == [5, 5]
    assert not caplog.records
    assert observation_spec(walks("Endless"), env_kwargs=options).env_kwargs == options


@pytest.mark.parametrize("limit", [0, -1, "many"])
def test_a_limit_must_be_a_number_of_steps(limit: object, walks: Callable[[str], str]) -> None:
    with pytest.raises(CallError, match=r"max_episode_steps is .*; it must be 1 or more"):
        make(walks("Walk"), max_episode_steps=limit)


@pytest.mark.parametrize("seconds", [0, -1, "many", float("nan")])
def test_a_limit_must_be_a_number_of_seconds(seconds: object, walks: Callable[[str], str]) -> None:
    with pytest.raises(CallError, match=r"max_step_seconds is .*; it must be above 0"):
        make(walks("Walk"), max_step_seconds=seconds)


def stand_for_two_steps(environment: str, options: dict[str, float]) -> None:
    envs = TrainingEnvs(environment, 2, 0, options)
    for _ in range(2):
        envs.step(np.zeros(2, np.int64))


@pytest.mark.parametrize("name", ["Stuck", "StuckReset", "StuckMade"])
def test_a_call_that_never_ends_is_stopped(name: str, walks: Callable[[str], str]) -> None:
    """It sleeps, or waits for another thread; the error says with which setting it may take longer."""
    options = {"max_step_seconds": 0.2}
    message = rf"own_walks:{name}-v0 took longer than 0.2 s .*environment_options.max_step_seconds=N"

    with pytest.raises(CallError, match=message):
        episode_returns(stand, walks(name), 2, 0, env_kwargs=options)
    with pytest.raises(CallError, match=message):
        stand_for_two_steps(walks(name), options)


def test_a_call_that_ignores_its_limit_ends_the_process(home: Path) -> None:
    """What catches all errors and goes on waiting can't be ended otherwise."""
    (home / "own_walks.py").write_text(OWN)
    script = (
        "from marina.core import time_limit\n"
        "from training.policies.envs.make import make\n"
        "time_limit.GRACE_SECONDS = 0.5\n"
        "env = make('own_walks:Deaf-v0', max_step_seconds=0.2)\n"
        "env.reset()\n"
        "env.step(0)\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )

    assert ended.returncode == 2
    assert ended.stderr.startswith("error: own_walks:Deaf-v0 took longer than 0.2 s")
    assert "Traceback" not in ended.stderr


def test_a_truncated_episode_is_a_finding_of_the_run(walks: Callable[[str], str]) -> None:
    """Once, in words, and a strict run ends at it."""
    with reporting_to(found := Findings()):
        episode_returns(stand, walks("Endless"), 3, 0)
    with reporting_to(Findings(strict=True)), pytest.raises(CallError, match="strict: own_walks:Endless-v0"):
        episode_returns(stand, walks("Endless"), 1, 0)

    (finding,) = found.as_json()
    assert finding["finding"].startswith("own_walks:Endless-v0 sets no max_episode_steps (for another limit")
    assert finding["finding"].endswith("episodes are truncated: after 30 steps")


def test_a_limit_is_no_end_in_training(walks: Callable[[str], str]) -> None:
    """An episode that is cut is truncated, so that its value is bootstrapped."""
    envs = TrainingEnvs(walks("Endless"), 1, 0)

    steps = [envs.step(np.zeros(1, np.int64)) for _ in range(30)]

    assert [bool(terminated[0]) for _, terminated, _, _ in steps] == [False] * 30
    assert [bool(dones[0]) for _, _, dones, _ in steps] == [False] * 29 + [True]


def test_observations_with_parts_are_refused_with_a_way(walks: Callable[[str], str]) -> None:
    with pytest.raises(CallError, match=r"observes Dict.*wrap it with gymnasium.wrappers.FlattenObservation"):
        observation_spec(walks("Parts"))


def test_the_arcade_games_keep_their_own_limit() -> None:
    """They end by frames, and are long."""
    pytest.importorskip("ale_py")
    env = make("ALE/Pong-v5")

    assert spec_of("ALE/Pong-v5").max_episode_steps is None
    assert env.step_limit is None  # type: ignore[attr-defined]
