"""Watching a policy act: episodes in its environment, the first of them drawn frame by frame into an animated GIF.

Each frame shows the environment, the step, the return so far and the numbers that the policy answered with.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from marina.errors import CallError

Answer = dict[str, Any]
Act = Callable[[np.ndarray], tuple[Any, Answer]]

WIDTH, PANEL, FRAMES_PER_SECOND, COLOURS = 400, 96, 12.5, 48
INK, PALE, CHOSEN = (40, 40, 40), (225, 225, 225), (214, 95, 14)


def play(act: Act, environment: str, episodes: int, seed: int, gif: Path | None, options: Mapping[str, Any] | None = None) -> list[float]:
    """The returns of `episodes` episodes, of which number i starts from `reset(seed=seed + i)`; `gif`, if given, shows number 0.
    `options` are what it is made with besides (`training.policies.environments.make`).

    `act` takes observations [1, ...] and gives the action with the endpoint's answer, like {"action": 1, "q_values": [0.2, 0.9]};
    lists under "q_values" or "probabilities" become bars. Frames are left out so that the film runs at the environment's own
    speed with at most 12.5 frames per second. `gif` appears whole or not at all; folders above it are made.
    Raises CallError for an environment that is unknown or can't be drawn.
    """
    returns: list[float] = []
    if gif is not None:
        with opened(environment, True, options) as env:
            _write(episode_frames(act, env, seed, returns), gif, 1000 * _stride(env) / env.metadata.get("render_fps", 30))
    with opened(environment, False, options) as env:
        for episode in range(len(returns), episodes):
            for _ in episode_frames(act, env, seed + episode, returns):
                pass
    return returns


@contextmanager
def opened(environment: str, drawn: bool, options: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """The environment, closed afterwards; drawing needs no screen."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame would look for a display
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from training.policies.environments import make

    env = make(environment, **(options or {}))
    if drawn:
        env.close()
        if "rgb_array" not in env.metadata.get("render_modes", []):
            raise CallError(f"environment {environment!r} can't be drawn; play it without a GIF")
        env = make(environment, **{**(options or {}), "render_mode": "rgb_array"})
    try:
        yield env
    finally:
        env.close()


def _stride(env: Any) -> int:
    """Every how many steps a frame is kept."""
    speed: float = env.metadata.get("render_fps", 30)
    return max(1, round(speed / FRAMES_PER_SECOND))


def episode_frames(act: Act, env: Any, seed: int, returns: list[float]) -> Iterator[Image.Image]:
    """Runs one episode and appends its return; where `env` draws, gives a picture every few steps and one of the end."""
    observation, _ = env.reset(seed=seed)
    total, step, ended, stride = 0.0, 0, False, _stride(env)
    while not ended:
        scene = env.render() if env.render_mode and step % stride == 0 else None
        action, answer = act(np.asarray(observation)[None])
        if scene is not None:
            yield picture(scene, f"step {step}", total, answer)
        observation, reward, terminated, truncated, _ = env.step(_plain(env, action))
        total, step, ended = total + float(reward), step + 1, terminated or truncated
    returns.append(total)
    if env.render_mode:
        yield picture(env.render(), f"end after {step}", total, answer)


def _plain(env: Any, action: Any) -> Any:
    """An action from JSON as `env.step` takes it."""
    space = env.action_space
    return np.asarray(action, space.dtype) if space.shape else int(action)


def picture(scene: np.ndarray, progress: str, total: float, answer: Answer) -> Image.Image:
    """RGB picture: the scene (uint8 [H, W, 3]), 400 pixels wide, above a panel with progress, return and bars of the answer."""
    frame = Image.fromarray(scene)
    height = round(frame.height * WIDTH / frame.width)
    sheet = Image.new("RGB", (WIDTH, height + PANEL), "white")
    sheet.paste(frame.resize((WIDTH, height), Image.Resampling.BILINEAR))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    draw.line([(0, height), (WIDTH, height)], fill=PALE)
    draw.text((10, height + 10), f"{progress}\nreturn {total:g}\naction {_short(answer.get('action'))}", fill=INK, font=font, spacing=8)
    kind = next((key for key in ("q_values", "probabilities") if answer.get(key)), None)
    if kind is not None:
        _bars(draw, (130, height + 8, WIDTH - 10, height + PANEL - 6), kind, [float(value) for value in answer[kind]], answer.get("action"))
    return sheet


def _short(action: Any) -> str:
    return ", ".join(f"{value:.2f}" for value in action) if isinstance(action, list) else str(action)


def _bars(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], kind: str, values: list[float], chosen: Any) -> None:
    """One bar per action: probabilities from 0 to 1, Q-values by how far they fall behind the best, which is what decides."""
    left, top, right, bottom = box
    font = ImageFont.load_default(size=11)
    probable = kind == "probabilities"
    draw.text((left, top), kind if probable else "Q-values (bars: how far behind the best)", fill=INK, font=font)
    # without a least range, the smallest lead would look like the largest
    most = 1.0 if probable else max(values)
    least = 0.0 if probable else min(*values, most - max(0.05 * abs(most), 1e-9))
    row = (bottom - top - 18) / len(values)
    for index, value in enumerate(values):
        upper = top + 18 + index * row
        size = min(11.0, row)
        start, end = left + 76, right
        draw.rectangle([start, upper + 2, end, upper + max(3, row - 3)], fill=PALE)
        filled = start + (end - start) * (value - least) / (most - least)
        draw.rectangle([start, upper + 2, max(start + 1, filled), upper + max(3, row - 3)], fill=CHOSEN if index == chosen else INK)
        if row >= 9:
            draw.text((left, upper + (row - size) / 2 - 2), f"{index}  {value:.2f}", fill=INK, font=font)


def _write(frames: Iterator[Image.Image], gif: Path, milliseconds: float) -> None:
    """One palette for all frames, taken from the first, so that what stands still isn't stored again."""
    first = next(frames)
    palette = first.quantize(COLOURS, dither=Image.Dither.NONE)
    rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    gif.parent.mkdir(parents=True, exist_ok=True)
    part = gif.with_name(f".{gif.name}.part")
    try:
        palette.save(part, "GIF", save_all=True, append_images=rest, duration=round(milliseconds / 10) * 10, loop=0, optimize=False)
        part.replace(gif)
    finally:
        part.unlink(missing_ok=True)
