"""Gymnasium's classic control tasks, vectorized: many times the steps per second of a SyncVectorEnv.

Equations, bounds and time limits are those of gymnasium's environments of these ids without options. Starts
are drawn from one generator for all environments. An environment that has ended resets on the next step,
whatever action that step has; gymnasium's own vectorized CartPole-v1, whose numbers this one equals, does so
too.
"""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

TAU = 2 * np.pi


class ClassicControl(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` environments of one task; `state` is [variables, num_envs]."""

    id: ClassVar[str]

    def __init__(self, num_envs: int) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        single = gymnasium.make(self.id)
        self.spec, self.num_envs = single.spec, num_envs
        self.single_observation_space, self.single_action_space = (
            single.observation_space,
            single.action_space,
        )
        self.observation_space, self.action_space = (
            batch_space(space, num_envs) for space in (single.observation_space, single.action_space)
        )
        assert single.spec is not None
        assert single.spec.max_episode_steps is not None
        self.max_episode_steps = single.spec.max_episode_steps
        self.state, self.steps, self.dones = (
            np.zeros((0, num_envs)),
            np.zeros(num_envs, np.int64),
            np.zeros(num_envs, bool),
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """New episodes in all environments: (observations float32 [num_envs, n], {})."""
        super().reset(seed=seed, options=options)
        self.state = self.sample_starts(self.num_envs)
        self.steps[:], self.dones = 0, np.zeros(self.num_envs, bool)
        return self.observe(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """(observations float32 [num_envs, n], rewards float64, terminated, truncated, {})."""
        rewards, terminated = self.integrate(actions)
        self.steps += 1
        truncated = self.steps >= self.max_episode_steps
        if np.count_nonzero(self.dones):
            done_rows = np.flatnonzero(self.dones)
            self.state[:, done_rows] = self.sample_starts(len(done_rows))
            self.steps[done_rows], rewards[done_rows] = 0, 0.0
            terminated[done_rows], truncated[done_rows] = False, False
        self.dones = terminated | truncated
        return self.observe(), rewards, terminated, truncated, {}

    def sample_starts(self, count: int) -> np.ndarray:
        """Draw states at the start of `count` episodes, [variables, count]."""
        raise NotImplementedError

    def integrate(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move the state by one time step: (rewards float64 [num_envs], terminated)."""
        raise NotImplementedError

    def observe(self) -> np.ndarray:
        """Observations of the current state."""
        return np.ascontiguousarray(self.state.T, np.float32)


class CartPole(ClassicControl):
    """A pole on a cart that is pushed to the left or right with 10 N; 0.02 s per step.

    State: position, velocity, angle, angular velocity. Equations of Florian 2007, "Correct equations for the
    dynamics of the cart-pole system", without friction; 1 kg, 0.1 kg and 1 m.
    """

    id = "CartPole-v1"
    bounds = np.array([[2.4], [12 * TAU / 360]])

    def sample_starts(self, count: int) -> np.ndarray:
        """Almost upright and at rest."""
        starts: np.ndarray = self.np_random.uniform(-0.05, 0.05, (4, count))
        return starts

    def integrate(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Explicit Euler; 1 per step, until the cart is 2.4 m away or the pole has tilted by 12 degrees."""
        (_, velocity, angle, speed), changes = self.state, np.empty_like(self.state)
        sine, cosine = np.sin(angle), np.cos(angle)
        pushed = (20.0 * actions - 10.0 + 0.05 * (speed * speed) * sine) / 1.1
        tilting = (9.8 * sine - cosine * pushed) / (0.5 * (4.0 / 3.0 - 0.1 * (cosine * cosine) / 1.1))
        changes[0], changes[1], changes[2], changes[3] = (
            velocity,
            pushed - 0.05 * tilting * cosine / 1.1,
            speed,
            tilting,
        )
        changes *= 0.02
        self.state = changes + self.state
        outside = np.abs(self.state[::2]) > self.bounds
        return np.ones(self.num_envs), outside[0] | outside[1]


class Pendulum(ClassicControl):
    """A rod, 1 m and 1 kg, to be swung up and held by a torque of at most 2 N m; 0.05 s per step.

    State: angle from upright, angular velocity.
    """

    id = "Pendulum-v1"

    def sample_starts(self, count: int) -> np.ndarray:
        """Any angle, up to 1 rad/s."""
        starts: np.ndarray = self.np_random.uniform(-1, 1, (2, count)) * np.array([[np.pi], [1.0]])
        return starts

    def integrate(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Semi-implicit Euler; the reward is minus angle^2 + 0.1 speed^2 + 0.001 torque^2 before it."""
        angle, speed = self.state
        torque = actions[:, 0].clip(-2, 2)
        wrapped = angle - TAU * np.rint(angle / TAU)
        rewards = -(wrapped * wrapped + 0.1 * (speed * speed) + 0.001 * (torque * torque))
        speed = (speed + 0.05 * (15.0 * np.sin(angle) + 3.0 * torque)).clip(-8, 8)
        self.state = np.stack((angle + 0.05 * speed, speed))
        return rewards, np.zeros(self.num_envs, bool)

    def observe(self) -> np.ndarray:
        """Cosine and sine of the angle, speed."""
        angle, speed = self.state
        return np.stack((np.cos(angle), np.sin(angle), speed), 1, dtype=np.float32, casting="same_kind")


class Acrobot(ClassicControl):
    """Two links, 1 m and 1 kg each, with a torque of -1, 0 or 1 N m between them.

    The goal is the tip one link above the base. State: angle of the first link from hanging down, of the
    second from the first, and their velocities. Equations of Sutton and Barto 1998, section 11.3, with both
    centers of mass at 0.5 m and moments of inertia 1.
    """

    id = "Acrobot-v1"
    max_speed = np.array([[4 * np.pi], [9 * np.pi]])

    def sample_starts(self, count: int) -> np.ndarray:
        """Almost at rest."""
        return self.np_random.uniform(-0.1, 0.1, (4, count)).astype(np.float32).astype(np.float64)

    def integrate(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One step of 0.2 s by the Runge-Kutta method of order 4; -1 per step that doesn't reach the goal."""
        torque, state, step = actions - 1.0, self.state, 0.2
        first = self.derivatives(state, torque)
        second = self.derivatives(state + step / 2 * first, torque)
        third = self.derivatives(state + step / 2 * second, torque)
        fourth = self.derivatives(state + step * third, torque)
        state = state + step / 6 * (first + 2 * (second + third) + fourth)
        state[:2] -= TAU * np.rint(state[:2] / TAU)
        np.clip(state[2:], -self.max_speed, self.max_speed, out=state[2:])
        self.state = state
        terminated = -np.cos(state[0]) - np.cos(state[0] + state[1]) > 1
        return terminated - 1.0, terminated

    def derivatives(self, state: np.ndarray, torque: np.ndarray) -> np.ndarray:
        """The state's derivatives, [4, num_envs]."""
        (angle1, angle2, velocity1, velocity2), derivatives = state, np.empty_like(state)
        sine, cosine = np.sin(angle2), np.cos(angle2)
        d1, d2 = 3.5 + cosine, 1.25 + 0.5 * cosine
        ratio = d2 / d1
        phi2 = 4.9 * np.sin(angle1 + angle2)
        phi1 = 14.7 * np.sin(angle1) + phi2 - 0.5 * sine * velocity2 * (velocity2 + 2 * velocity1)
        derivatives[:2] = state[2:]
        derivatives[3] = (torque + ratio * phi1 - 0.5 * sine * velocity1 * velocity1 - phi2) / (
            1.25 - ratio * d2
        )
        derivatives[2] = -(d2 * derivatives[3] + phi1) / d1
        return derivatives

    def observe(self) -> np.ndarray:
        """Cosines and sines of both angles, speeds."""
        cosines, sines = np.cos(self.state[:2]), np.sin(self.state[:2])
        columns = (cosines[0], sines[0], cosines[1], sines[1], self.state[2], self.state[3])
        return np.stack(columns, 1, dtype=np.float32, casting="same_kind")


class MountainCar(ClassicControl):
    """A car between two hills, too weak to climb the right one without a run-up.

    State: position, -1.2 to 0.6, and velocity.
    """

    id = "MountainCar-v0"

    def sample_starts(self, count: int) -> np.ndarray:
        """At rest near the bottom."""
        return np.stack((self.np_random.uniform(-0.6, -0.4, count), np.zeros(count)))

    def integrate(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pushed to the left, not at all or to the right; -1 per step until 0.5 is reached."""
        position, velocity = self.state
        velocity = (velocity + 0.001 * (actions - 1) - 0.0025 * np.cos(3 * position)).clip(-0.07, 0.07)
        self.state, terminated = drive(position, velocity, 0.5)
        return np.full(self.num_envs, -1.0), terminated


class MountainCarContinuous(ClassicControl):
    """The same with a force of -1 to 1. Between steps the state is float32, as in gymnasium."""

    id = "MountainCarContinuous-v0"

    def sample_starts(self, count: int) -> np.ndarray:
        """At rest near the bottom."""
        return np.stack((self.np_random.uniform(-0.6, -0.4, count), np.zeros(count))).astype(np.float32)

    def integrate(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """100 where 0.45 is reached, less 0.1 force^2."""
        (position, velocity), force = self.state, actions[:, 0]
        slope = np.cos(3 * position, dtype=np.float64).astype(np.float32)
        velocity = (velocity + (np.float32(0.0015) * force.clip(-1, 1) - np.float32(0.0025) * slope)).clip(
            -0.07, 0.07
        )
        self.state, terminated = drive(position, velocity, 0.45)
        return 100.0 * terminated - 0.1 * np.square(force, dtype=np.float64), terminated


def drive(position: np.ndarray, velocity: np.ndarray, goal: float) -> tuple[np.ndarray, np.ndarray]:
    """(position and velocity [2, num_envs] after a step with that velocity, whether `goal` is reached).

    The left wall stops a car.
    """
    position = (position + velocity).clip(-1.2, 0.6)
    wall = np.asarray(-1.2, position.dtype)
    velocity = np.where((position == wall) & (velocity < 0), 0, velocity).astype(position.dtype)
    return np.stack((position, velocity)), (position >= goal) & (velocity >= 0)


TASKS: dict[str, type[ClassicControl]] = {
    task.id: task for task in (CartPole, Pendulum, Acrobot, MountainCar, MountainCarContinuous)
}
