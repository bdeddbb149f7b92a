"""Watching a policy act."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from marina.core.errors import CallError
from marina.evaluation.animation import write
from marina.evaluation.playback import PANEL, WIDTH, picture, play
from tests.support.repository import ROOT


def upright(observation: np.ndarray) -> tuple[int, dict[str, Any]]:
    """Pushes to where the pole falls, and back to the middle."""
    lean = float(observation[0] @ [0.05, 0.1, 1, 0.3])
    return int(lean > 0), {"action": int(lean > 0), "q_values": [50 - lean, 50 + lean]}


def failing_after(steps: int) -> Callable[[np.ndarray], tuple[int, dict[str, Any]]]:
    """A policy that is gone after so many actions."""
    calls = iter(range(steps + 1))

    def act(observation: np.ndarray) -> tuple[int, dict[str, Any]]:
        if next(calls) == steps:
            raise ConnectionError("gone")
        return upright(observation)

    return act


def test_gif_shows_the_first_episode_at_speed_and_stays_small(tmp_path: Path) -> None:
    """A GIF shows the first episode at the environment's speed and stays small."""
    gif = tmp_path / "new" / "cartpole.gif"

    returns = play(upright, "CartPole-v1", episodes=2, seed=3, gif=gif)

    assert returns == [500.0, 500.0]
    assert gif.stat().st_size < 3_000_000
    with Image.open(gif) as film:
        assert film.size == (WIDTH, round(400 * WIDTH / 600) + PANEL)
        assert film.info["duration"] == 80
        frames = film.n_frames  # type: ignore[attr-defined]
    assert 120 <= frames <= 126
    assert list(gif.parent.iterdir()) == [gif]


def test_without_a_gif_the_same_episodes_are_played(tmp_path: Path) -> None:
    def left(observation: np.ndarray) -> tuple[int, dict[str, Any]]:
        return 0, {"action": 0}

    shown = play(left, "CartPole-v1", episodes=3, seed=5, gif=tmp_path / "film.gif")

    assert shown == play(left, "CartPole-v1", episodes=3, seed=5, gif=None)
    assert shown == [play(left, "CartPole-v1", episodes=1, seed=seed, gif=None)[0] for seed in (5, 6, 7)]
    assert len(set(shown)) > 1
    assert all(8 <= total <= 11 for total in shown)


def test_where_nothing_can_be_drawn_it_is_said_before_an_episode_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mujoco")
    monkeypatch.setattr("mujoco.MjrContext", lambda *_: (_ for _ in ()).throw(RuntimeError("no OpenGL here")))

    with pytest.raises(
        CallError,
        match=r"can't be drawn here \(.*\); set MUJOCO_GL to .*, or play it without --gif and --mp4",
    ):
        play(upright, "InvertedPendulum-v5", episodes=1, seed=0, gif=tmp_path / "film.gif")
    assert not (tmp_path / "film.gif").exists()


def test_the_gif_that_was_there_stays_when_the_policy_fails_midway(tmp_path: Path) -> None:
    gif = tmp_path / "film.gif"
    gif.write_bytes(b"old")
    failing = failing_after(5)
    with pytest.raises(ConnectionError):
        play(failing, "CartPole-v1", episodes=1, seed=0, gif=gif)

    assert gif.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [gif]


@pytest.mark.parametrize("environment", ["Nowhere-v0", "not an id"])
def test_an_unknown_environment_is_the_callers_mistake(environment: str) -> None:
    with pytest.raises(CallError, match="can't be made"):
        play(upright, environment, episodes=1, seed=0, gif=None)


def test_the_chosen_action_has_a_bar_of_its_own_colour() -> None:
    scene = np.zeros((40, 60, 3), np.uint8)

    zero, one = (
        np.asarray(picture(scene, "step 1", 1, {"action": a, "q_values": [10.0, 11.0]})) for a in (0, 1)
    )

    assert not np.array_equal(zero, one)
    assert (one == [214, 95, 14]).all(-1).sum() > 10 * (zero == [214, 95, 14]).all(-1).sum() > 0


def test_every_form_of_answer_is_drawn() -> None:
    """Probabilities, many actions, continuous actions and bare answers are drawn."""
    scene = np.zeros((40, 60, 3), np.uint8)
    answers = [
        {"action": 2, "probabilities": [0.1] * 10},
        {"action": 5, "q_values": [1.0] * 40},
        {"action": [0.5, -1.0]},
        {},
    ]

    pictures = [np.asarray(picture(scene, "step 1", 1, answer)).tobytes() for answer in answers]

    assert len(set(pictures)) == 4


def test_neither_torch_nor_gymnasium_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, marina.evaluation.playback; sys.exit(any(name in sys.modules for name in ('torch', "
        "'gymnasium')))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_an_mp4_shows_the_same_frames_as_the_gif_at_the_same_speed(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    gif, mp4 = tmp_path / "film.gif", tmp_path / "new" / "film.mp4"

    returns = play(upright, "CartPole-v1", 1, 3, gif, {"max_episode_steps": 60}, mp4=mp4)

    with Image.open(gif) as still, av.open(str(mp4)) as film:
        assert returns == [60.0]
        shown = [frame.to_image() for frame in film.decode(video=0)]
        assert len(shown) == still.n_frames  # type: ignore[attr-defined]
        # the format has even sizes only
        assert shown[0].size == (still.width, still.height + still.height % 2)
        assert film.streams.video[0].average_rate == 12.5
        assert film.streams.video[0].codec_context.name == "h264"
        shape = (still.height, still.width)
        assert (
            np.abs(
                np.asarray(shown[0], int)[: shape[0], : shape[1]] - np.asarray(still.convert("RGB"), int)
            ).mean()
            < 3
        )
    assert list(mp4.parent.iterdir()) == [mp4]


def test_an_mp4_needs_no_gif_and_may_have_an_odd_height(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    frames = [Image.new("RGB", (31, 27), (200, 30, 30))] * 3

    write(iter(frames), None, tmp_path / "film.mp4", 100)

    with av.open(str(tmp_path / "film.mp4")) as film:
        assert [frame.to_image().size for frame in film.decode(video=0)] == [(32, 28)] * 3


def test_the_mp4_that_was_there_stays_when_the_policy_fails_midway(tmp_path: Path) -> None:
    pytest.importorskip("av")
    mp4 = tmp_path / "film.mp4"
    mp4.write_bytes(b"old")
    failing = failing_after(15)
    with pytest.raises(ConnectionError):
        play(failing, "CartPole-v1", 1, 0, tmp_path / "film.gif", mp4=mp4)

    assert mp4.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [mp4]


def test_without_pyav_an_mp4_is_refused_before_anything_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)

    def never(observation: np.ndarray) -> tuple[int, dict[str, Any]]:
        raise AssertionError

    with pytest.raises(CallError, match=r"pip install 'marina\[video\]'"):
        play(never, "CartPole-v1", 1, 0, None, mp4=tmp_path / "film.mp4")


def test_whoever_remembers_is_told_of_every_beginning(tmp_path: Path) -> None:
    told: list[str] = []

    def act(observation: np.ndarray) -> tuple[int, dict[str, Any]]:
        told.append("step")
        return 0, {"action": 0}

    returns = play(act, "CartPole-v1", 3, 5, tmp_path / "film.gif", began=lambda: told.append("began"))

    assert told == [word for total in returns for word in ["began", *["step"] * int(total)]]


def test_bounded_numbers_are_drawn_from_zero_with_their_value() -> None:
    """Numbers between bounds are drawn from zero, with their value."""
    scene, orange = np.zeros((40, 60, 3), np.uint8), [214, 95, 14]

    def drawn(action: float, bounds: tuple[float, float], **more: Any) -> np.ndarray:
        return np.asarray(picture(scene, "step 1", 1, {"action": [action], **more}, [bounds]))

    left, right, far = (drawn(action, (-2, 2)) for action in (-1.0, 1.0, 5.0))
    columns = [np.flatnonzero((one == orange).all(-1).any(0)) for one in (left, right, far)]

    assert columns[0].max() == columns[1].min()
    assert len(columns[0]) == pytest.approx(len(columns[1]), abs=1)
    assert columns[2].max() < WIDTH
    assert (drawn(0.5, (1.0, 3.0)) == orange).all(-1).any()
    assert not np.array_equal(drawn(1.0, (-2, 2), value=3.5), right)
