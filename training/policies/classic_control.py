"""Gymnasium's classic control tasks, all copies in one arithmetic: many times the steps per second of one copy after another.

Equations, bounds and time limits are those of gymnasium's environments of these ids without options. Starts are drawn from one
generator for all copies. As in gymnasium's own vector form of CartPole-v1, of which this one gives the same numbers with less
around them, a copy that has ended resets on the next step, whatever action that step has.
"""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

TURN = 2 * np.pi


class ClassicControl(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`copies` of one task; `state` is [variables, copies]."""

    id: ClassVar[str]

    def __init__(self, copies: int) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        single = gymnasium.make(self.id)
        self.spec, self.num_envs = single.spec, copies
        self.single_observation_space, self.single_action_space = single.observation_space, single.action_space
        self.observation_space, self.action_space = (
            batch_space(space, copies) for space in (single.observation_space, single.action_space)
        )
        assert single.spec is not None
        assert single.spec.max_episode_steps is not None
        self.most_steps = single.spec.max_episode_steps
        self.state, self.steps, self.ended = np.zeros((0, copies)), np.zeros(copies, np.int64), np.zeros(copies, bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """New episodes in all copies: (observations float32 [copies, n], nothing more to tell)."""
        super().reset(seed=seed, options=options)
        self.state = self.starts(self.num_envs)
        self.steps[:], self.ended = 0, np.zeros(self.num_envs, bool)
        return self.observed(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """(observations float32 [copies, n], rewards float64, terminated, truncated, nothing more to tell)."""
        rewards, terminated = self.advance(actions)
        self.steps += 1
        truncated = self.steps >= self.most_steps
        if np.count_nonzero(self.ended):
            again = np.flatnonzero(self.ended)
            self.state[:, again] = self.starts(len(again))
            self.steps[again], rewards[again], terminated[again], truncated[again] = 0, 0.0, False, False
        self.ended = terminated | truncated
        return self.observed(), rewards, terminated, truncated, {}

    def starts(self, count: int) -> np.ndarray:
        """States at the beginning of `count` episodes, [variables, count]."""
        raise NotImplementedError

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move the state on by `actions`: (rewards float64 [copies], terminated)."""
        raise NotImplementedError

    def observed(self) -> np.ndarray:
        """Observations of the present state."""
        return np.ascontiguousarray(self.state.T, np.float32)


class CartPole(ClassicControl):
    """A pole on a cart that is pushed to the left or right with 10 N; 0.02 s per step. State: position, velocity, angle, its speed.

    Equations of Florian 2007, "Correct equations for the dynamics of the cart-pole system", without friction; 1 kg, 0.1 kg and 1 m.
    """

    id = "CartPole-v1"
    bounds = np.array([[2.4], [12 * TURN / 360]])

    def starts(self, count: int) -> np.ndarray:
        """Almost upright and at rest."""
        starts: np.ndarray = self.np_random.uniform(-0.05, 0.05, (4, count))
        return starts

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Explicit Euler; 1 per step, until the cart is 2.4 m away or the pole has tilted by 12 degrees."""
        (_, velocity, angle, speed), changes = self.state, np.empty_like(self.state)
        sine, cosine = np.sin(angle), np.cos(angle)
        pushed = (20.0 * actions - 10.0 + 0.05 * (speed * speed) * sine) / 1.1
        tilting = (9.8 * sine - cosine * pushed) / (0.5 * (4.0 / 3.0 - 0.1 * (cosine * cosine) / 1.1))
        changes[0], changes[1], changes[2], changes[3] = velocity, pushed - 0.05 * tilting * cosine / 1.1, speed, tilting
        changes *= 0.02
        self.state = changes + self.state
        beyond = np.abs(self.state[::2]) > self.bounds
        return np.ones(self.num_envs), beyond[0] | beyond[1]


class Pendulum(ClassicControl):
    """A rod, 1 m and 1 kg, to be swung up and held by a torque of at most 2 N m; 0.05 s per step. State: angle from upright, speed."""

    id = "Pendulum-v1"

    def starts(self, count: int) -> np.ndarray:
        """Any angle, up to 1 rad/s."""
        starts: np.ndarray = self.np_random.uniform(-1, 1, (2, count)) * np.array([[np.pi], [1.0]])
        return starts

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Semi-implicit Euler; the reward is minus angle^2 + 0.1 speed^2 + 0.001 torque^2 before it."""
        angle, speed = self.state
        torque = actions[:, 0].clip(-2, 2)
        off = angle - TURN * np.rint(angle / TURN)
        rewards = -(off * off + 0.1 * (speed * speed) + 0.001 * (torque * torque))
        speed = (speed + 0.05 * (15.0 * np.sin(angle) + 3.0 * torque)).clip(-8, 8)
        self.state = np.stack((angle + 0.05 * speed, speed))
        return rewards, np.zeros(self.num_envs, bool)

    def observed(self) -> np.ndarray:
        """Cosine and sine of the angle, speed."""
        angle, speed = self.state
        return np.stack((np.cos(angle), np.sin(angle), speed), 1, dtype=np.float32, casting="same_kind")


class Acrobot(ClassicControl):
    """Two links, 1 m and 1 kg each, swung by a torque of -1, 0 or 1 N m between them until the tip is a link's length above the base.

    State: angle of the first link from hanging down, of the second from the first, and their speeds. Equations of Sutton and
    Barto 1998, section 11.3, with both centres of mass at 0.5 m and moments of inertia 1.
    """

    id = "Acrobot-v1"
    most_speed = np.array([[4 * np.pi], [9 * np.pi]])

    def starts(self, count: int) -> np.ndarray:
        """Almost at rest."""
        return self.np_random.uniform(-0.1, 0.1, (4, count)).astype(np.float32).astype(np.float64)

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One step of 0.2 s by the Runge-Kutta method of order 4; -1 per step that doesn't reach the goal."""
        torque, state, step = actions - 1.0, self.state, 0.2
        first = self.speeds(state, torque)
        second = self.speeds(state + step / 2 * first, torque)
        third = self.speeds(state + step / 2 * second, torque)
        fourth = self.speeds(state + step * third, torque)
        state = state + step / 6 * (first + 2 * (second + third) + fourth)
        state[:2] -= TURN * np.rint(state[:2] / TURN)
        np.clip(state[2:], -self.most_speed, self.most_speed, out=state[2:])
        self.state = state
        terminated = -np.cos(state[0]) - np.cos(state[0] + state[1]) > 1
        return terminated - 1.0, terminated

    def speeds(self, state: np.ndarray, torque: np.ndarray) -> np.ndarray:
        """The state's derivatives, [4, copies]."""
        (one, two, speed_one, speed_two), moved = state, np.empty_like(state)
        sine, cosine = np.sin(two), np.cos(two)
        d1, d2 = 3.5 + cosine, 1.25 + 0.5 * cosine
        share = d2 / d1
        phi2 = 4.9 * np.sin(one + two)
        phi1 = 14.7 * np.sin(one) + phi2 - 0.5 * sine * speed_two * (speed_two + 2 * speed_one)
        moved[:2] = state[2:]
        moved[3] = (torque + share * phi1 - 0.5 * sine * speed_one * speed_one - phi2) / (1.25 - share * d2)
        moved[2] = -(d2 * moved[3] + phi1) / d1
        return moved

    def observed(self) -> np.ndarray:
        """Cosines and sines of both angles, speeds."""
        cosines, sines = np.cos(self.state[:2]), np.sin(self.state[:2])
        columns = (cosines[0], sines[0], cosines[1], sines[1], self.state[2], self.state[3])
        return np.stack(columns, 1, dtype=np.float32, casting="same_kind")


class MountainCar(ClassicControl):
    """A car between two hills, too weak to climb the right one without a run-up. State: position, -1.2 to 0.6, and velocity."""

    id = "MountainCar-v0"

    def starts(self, count: int) -> np.ndarray:
        """At rest near the bottom."""
        return np.stack((self.np_random.uniform(-0.6, -0.4, count), np.zeros(count)))

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pushed to the left, not at all or to the right; -1 per step until 0.5 is reached."""
        position, velocity = self.state
        velocity = (velocity + 0.001 * (actions - 1) - 0.0025 * np.cos(3 * position)).clip(-0.07, 0.07)
        self.state, terminated = driven(position, velocity, 0.5)
        return np.full(self.num_envs, -1.0), terminated


class MountainCarContinuous(ClassicControl):
    """The same with a force of -1 to 1. Between steps the state is float32, as in gymnasium."""

    id = "MountainCarContinuous-v0"

    def starts(self, count: int) -> np.ndarray:
        """At rest near the bottom."""
        return np.stack((self.np_random.uniform(-0.6, -0.4, count), np.zeros(count))).astype(np.float32)

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """100 where 0.45 is reached, less 0.1 force^2."""
        (position, velocity), force = self.state, actions[:, 0]
        slope = np.cos(3 * position, dtype=np.float64).astype(np.float32)
        velocity = (velocity + (np.float32(0.0015) * force.clip(-1, 1) - np.float32(0.0025) * slope)).clip(-0.07, 0.07)
        self.state, terminated = driven(position, velocity, 0.45)
        return 100.0 * terminated - 0.1 * np.square(force, dtype=np.float64), terminated


def driven(position: np.ndarray, velocity: np.ndarray, goal: float) -> tuple[np.ndarray, np.ndarray]:
    """(position and velocity [2, copies] after a step with that velocity, whether `goal` is reached); the left wall stops a car."""
    position = (position + velocity).clip(-1.2, 0.6)
    wall = np.asarray(-1.2, position.dtype)
    velocity = np.where((position == wall) & (velocity < 0), 0, velocity).astype(position.dtype)
    return np.stack((position, velocity)), (position >= goal) & (velocity >= 0)


TASKS: dict[str, type[ClassicControl]] = {task.id: task for task in (CartPole, Pendulum, Acrobot, MountainCar, MountainCarContinuous)}
