"""Lets a policy play episodes in its environment, and draws the first as an animated GIF or an MP4.

Each frame shows the environment, the step, the return so far and the numbers that the policy answered with.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from marina.core.errors import CallError
from marina.evaluation.animation import write

Answer = dict[str, Any]
Act = Callable[..., tuple[Any, Answer]]
Bounds = list[tuple[float, float]]

WIDTH, PANEL, FRAMES_PER_SECOND = 400, 96, 12.5
INK, PALE, CHOSEN = (40, 40, 40), (225, 225, 225), (214, 95, 14)


def play(
    act: Act,
    environment: str,
    episodes: int,
    seed: int,
    gif: Path | None,
    options: Mapping[str, Any] | None = None,
    *,
    mp4: Path | None = None,
    began: Callable[[], None] | None = None,
) -> list[float]:
    """The returns of `episodes` episodes; number i starts from `reset(seed=seed + i)`.

    `gif` and `mp4` show number 0.

    `began` is called before the first step of each, for an `act` that remembers. `options` are what the
    environment is made with besides its id (`training.policies.envs.make.make`).

    `act` takes observations [1, ...], and the mask of actions, bool [n], where `options` ask for masks; it
    gives the action with the endpoint's answer, like {"action": 1, "q_values": [0.2, 0.9]}; lists under
    "q_values" or "probabilities" become bars, and so does an action of numbers between bounds. Frames are
    left out so that the film runs at the environment's own speed with at most 12.5 frames per second. A film
    appears whole or not at all; folders above it are made. Raises CallError for an environment that is
    unknown or can't be drawn, and for an MP4 without PyAV.
    """
    returns: list[float] = []
    if gif is not None or mp4 is not None:
        with opened(environment, True, options) as env:
            _begin(began)
            write(
                episode_frames(act, env, seed, returns, options),
                gif,
                mp4,
                1000 * _stride(env) / env.metadata.get("render_fps", 30),
            )
    with opened(environment, False, options) as env:
        for episode in range(len(returns), episodes):
            _begin(began)
            for _ in episode_frames(act, env, seed + episode, returns, options):
                pass
    return returns


def _begin(began: Callable[[], None] | None) -> None:
    if began is not None:
        began()


@contextmanager
def opened(environment: str, drawn: bool, options: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """The environment, closed afterwards; drawing needs no screen."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame would look for a display
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")  # and MuJoCo too
    from training.policies.envs.make import make

    env = make(environment, **(options or {}))
    if drawn:
        env.close()
        if "rgb_array" not in env.metadata.get("render_modes", []):
            raise CallError(f"environment {environment!r} can't be drawn; play it without --gif and --mp4")
        env = _drawing(environment, options)
    try:
        yield env
    finally:
        env.close()


def _drawing(environment: str, options: Mapping[str, Any] | None) -> Any:
    """One that draws, which is tried before an episode is played for nothing."""
    from training.policies.envs.make import make, spec_of

    try:
        env = make(environment, **{**(options or {}), "render_mode": "rgb_array"})
        env.reset()
        env.render()
    except CallError:
        raise
    except Exception as error:  # whatever a graphics library raises
        origin = str(spec_of(environment).entry_point)
        how = "set MUJOCO_GL to what is installed of egl, osmesa and glfw, or " if "mujoco" in origin else ""
        raise CallError(
            f"environment {environment!r} can't be drawn here ({error}); {how}play it without --gif and --mp4"
        ) from error
    return env


def _stride(env: Any) -> int:
    """Every how many steps a frame is kept."""
    speed: float = env.metadata.get("render_fps", 30)
    return max(1, round(speed / FRAMES_PER_SECOND))


def episode_frames(
    act: Act, env: Any, seed: int, returns: list[float], options: Mapping[str, Any] | None = None
) -> Iterator[Image.Image]:
    """Run one episode and append its return.

    If `env` draws, yields a picture every few steps and one of the end.
    """
    from training.policies.envs.make import uses_action_masks

    masked = uses_action_masks(options)
    observation, info = env.reset(seed=seed)
    total, step, ended, stride = 0.0, 0, False, _stride(env)
    while not ended:
        scene = env.render() if env.render_mode and step % stride == 0 else None
        action, answer = act(np.asarray(observation)[None], *([info["action_mask"]] if masked else []))
        if scene is not None:
            yield picture(scene, f"step {step}", total, answer, _bounds(env))
        observation, reward, terminated, truncated, info = env.step(_plain(env, action))
        total, step, ended = total + float(reward), step + 1, terminated or truncated
    returns.append(total)
    if env.render_mode:
        yield picture(env.render(), f"end after {step}", total, answer, _bounds(env))


def _bounds(env: Any) -> Bounds | None:
    """(low, high) of each number of an action; None for discrete and for unbounded actions."""
    space = env.action_space
    if (
        not space.shape
        or not hasattr(space, "low")
        or not (np.isfinite(space.low).all() and np.isfinite(space.high).all())
    ):
        return None
    return list(zip(space.low.ravel().tolist(), space.high.ravel().tolist(), strict=True))


def _plain(env: Any, action: Any) -> Any:
    """An action from JSON as `env.step` takes it."""
    space = env.action_space
    return np.asarray(action, space.dtype) if space.shape else int(action)


def picture(
    scene: np.ndarray, progress: str, total: float, answer: Answer, bounds: Bounds | None = None
) -> Image.Image:
    """RGB picture of the scene (uint8 [H, W, 3]), 400 pixels wide, above a panel.

    The panel has progress, return, value and bars of the answer.
    """
    frame = Image.fromarray(scene)
    height = round(frame.height * WIDTH / frame.width)
    sheet = Image.new("RGB", (WIDTH, height + PANEL), "white")
    sheet.paste(frame.resize((WIDTH, height), Image.Resampling.BILINEAR))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    draw.line([(0, height), (WIDTH, height)], fill=PALE)
    value = [f"value {answer['value']:.3g}"] if isinstance(answer.get("value"), int | float) else []
    lines = [progress, f"return {total:.5g}", f"action {_short(answer.get('action'))}", *value]
    draw.text(
        (10, height + (6 if value else 10)), "\n".join(lines), fill=INK, font=font, spacing=6 if value else 8
    )
    box = (150, height + 8, WIDTH - 10, height + PANEL - 6)
    action, kind = (
        answer.get("action"),
        next((key for key in ("q_values", "probabilities") if answer.get(key)), None),
    )
    if kind is not None:
        _bars(draw, box, kind, [float(value) for value in answer[kind]], action)
    elif bounds is not None and isinstance(action, list):
        _levels(draw, box, np.ravel(action).tolist(), bounds)
    return sheet


def _short(action: Any) -> str:
    """As much as fits beside the bars."""
    if not isinstance(action, list):
        return str(action)
    numbers = [
        f"{value:.2f}" if isinstance(value, float) else str(value) for value in np.ravel(action).tolist()
    ]
    return ", ".join(numbers) if len(numbers) < 3 else f"{numbers[0]}, …"


def _bars(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], kind: str, values: list[float], chosen: Any
) -> None:
    """One bar per action.

    Probabilities go from 0 to 1; Q-values show their distance to the best, which decides.
    """
    left, top, right, bottom = box
    font = ImageFont.load_default(size=11)
    probable = kind == "probabilities"
    draw.text(
        (left, top), kind if probable else "Q-values (bars: how far behind the best)", fill=INK, font=font
    )
    # without a least range, the smallest lead would look like the largest
    high = 1.0 if probable else max(values)
    low = 0.0 if probable else min(*values, high - max(0.05 * abs(high), 1e-9))
    row = (bottom - top - 18) / len(values)
    for index, value in enumerate(values):
        upper = top + 18 + index * row
        size = min(11.0, row)
        start, end = left + 76, right
        draw.rectangle([start, upper + 2, end, upper + max(3, row - 3)], fill=PALE)
        filled = start + (end - start) * (value - low) / (high - low)
        draw.rectangle(
            [start, upper + 2, max(start + 1, filled), upper + max(3, row - 3)],
            fill=CHOSEN if index == chosen else INK,
        )
        if row >= 9:
            draw.text((left, upper + (row - size) / 2 - 2), f"{index}  {value:.2f}", fill=INK, font=font)


def _levels(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], values: list[float], bounds: Bounds
) -> None:
    """One bar per number of an action, from 0, or the nearest to it that there is, to the number."""
    left, top, right, bottom = box
    font = ImageFont.load_default(size=11)
    draw.text((left, top), "action, from least to most", fill=INK, font=font)
    row, start = (bottom - top - 18) / len(values), left + 76
    for index, (value, (low, high)) in enumerate(zip(values, bounds, strict=True)):
        upper, scale = top + 18 + index * row, (right - start) / ((high - low) or 1.0)
        ends = sorted(start + (min(max(edge, low), high) - low) * scale for edge in (0.0, value))
        lower = upper + max(3, min(row, 24) - 3)
        draw.rectangle([start, upper + 2, right, lower], fill=PALE)
        draw.rectangle([ends[0], upper + 2, max(ends[0] + 1, ends[1]), lower], fill=CHOSEN)
        if row >= 9:
            draw.text((left, upper), f"{index}  {value:.2f}", fill=INK, font=font)
