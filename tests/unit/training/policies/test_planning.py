"""Planners against exact solutions; rounding errors neither choose among plans nor violate bounds."""

import numpy as np
import pytest
import torch
from torch import nn

from training.policies.networks.optim import seeded_single_thread
from training.policies.networks.planning import (
    CategoricalPlans,
    NormalPlans,
    Planner,
    base_samples,
    elite_weights,
)

MOVES = np.array([[1, 0.2], [0, 1]]), np.array([[0.02], [0.2]])  # a mass on a line: place and speed, pushed
COSTS = np.diag([1.0, 0.1]), np.array([[0.05]])  # of the squares of the state that follows and of the push


class Linear(nn.Module):
    """The exact model of that mass."""

    def forward(self, observations: torch.Tensor, plans: torch.Tensor) -> torch.Tensor:
        (moved, pushed), (of_states, of_pushes) = (
            [torch.from_numpy(part).float() for part in pair] for pair in (MOVES, COSTS)
        )
        states, earned = observations[:, None].expand(-1, plans.shape[1], -1), torch.zeros(())
        for action in plans.unbind(2):
            states = states @ moved.T + action @ pushed.T
            earned = earned - ((states @ of_states) * states).sum(2) - ((action @ of_pushes) * action).sum(2)
        return earned


def riccati(horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """(K, P) of the first step: the best push is -K state, and the least cost state^T P state."""
    (moved, pushed), (of_states, of_pushes) = MOVES, COSTS
    cost = np.zeros((2, 2))
    for _ in range(horizon):
        after = of_states + cost
        gain = np.linalg.solve(of_pushes + pushed.T @ after @ pushed, pushed.T @ after @ moved)
        cost = moved.T @ after @ (moved - pushed @ gain)
    return gain, cost


def planned(kind: str, starts: np.ndarray, horizon: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """First pushes and values of 1,600 plans per start, within -8..8."""
    shooting = kind == "random_shooting"
    counts = (1, 1600) if shooting else (8, 200)
    with seeded_single_thread(0):
        base = base_samples((*counts, horizon, 1))
    planner = Planner(
        Linear(),
        NormalPlans(torch.full((1,), -8.0), torch.full((1,), 8.0), 0.5),
        base,
        elites=1 if shooting else 20,
    )
    first, value = planner(torch.from_numpy(starts).float())
    return first[:, 0].numpy(), value.numpy()


def test_cem_reaches_the_riccati_solution_and_random_shooting_less() -> None:
    """The cross-entropy method finds the Riccati equation's solution; random shooting comes less near."""
    starts = np.random.default_rng(0).uniform(-1, 1, (40, 2))
    gain, cost = riccati(6)
    best, least = -(starts @ gain.T)[:, 0], np.einsum("bi,ij,bj->b", starts, cost, starts)
    assert np.abs(best).max() < 6

    (near, value), (far, poor) = planned("cem", starts), planned("random_shooting", starts)

    assert np.abs(near - best).max() < 0.05
    np.testing.assert_allclose(-value, least, rtol=0.01, atol=1e-3)
    assert np.abs(far - best).mean() > 20 * np.abs(near - best).mean()
    assert (-poor - least).mean() > 20 * (-value - least).mean() > 0


def test_plans_that_all_lie_on_a_bound_can_be_explained() -> None:
    bound, start = torch.full((1,), 0.5), torch.tensor([[9.0, 1.0]], requires_grad=True)
    planner = Planner(Linear(), NormalPlans(-bound, bound, 1e9), base_samples((3, 32, 1, 1)), elites=5)

    first, value = planner(start)
    (gradient,) = torch.autograd.grad(first.sum() + value.sum(), start)

    assert first.tolist() == [[-0.5]]
    assert bool(gradient.isfinite().all())


def test_no_rounding_leads_out_of_the_bounds() -> None:
    low, high = torch.full((1,), -0.1), torch.full((1,), 0.3)
    planner = Planner(Linear(), NormalPlans(low, high, 1e9), base_samples((3, 41, 2, 1)), elites=5)

    first, _ = planner(torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * 9)

    assert float(first.min()) == pytest.approx(-0.1)
    assert bool(((first >= low) & (first <= high)).all())


class Lock(nn.Module):
    """Pays for every digit of a number that is right."""

    digits = (2, 0, 1, 2, 1)

    def forward(self, observations: torch.Tensor, plans: torch.Tensor) -> torch.Tensor:
        return plans[:, :, range(len(self.digits)), self.digits].sum(2) + observations


def test_discrete_plans_close_in_on_the_best_sequence() -> None:
    with seeded_single_thread(0):
        base = base_samples((6, 40, 5, 3), discrete=True)

    chances, value = Planner(Lock(), CategoricalPlans(3), base, elites=5)(torch.zeros(2, 1))

    assert chances.argmax(1).tolist() == [2, 2]
    assert chances[:, 2].min() > 0.95
    assert value.tolist() == pytest.approx([5, 5], abs=0.1)


def test_discrete_base_samples_draw_actions_by_their_chances() -> None:
    plans, chances = CategoricalPlans(3), torch.tensor([[[[0.7, 0.3, 0.0]]]])
    with seeded_single_thread(0):
        drawn = plans.sample((chances,), base_samples((1, 30_000, 1, 3), discrete=True)[0])

    assert bool((drawn.sum(-1) == 1).all())
    np.testing.assert_allclose(drawn.mean((0, 1, 2)), 0.9 * chances.flatten() + 0.1 / 3, atol=0.01)


def test_elite_weights_follow_their_returns_and_ties_are_equal() -> None:
    """Elites are weighted by their lead, and equally where they earn the same."""
    weights = elite_weights(
        torch.tensor([[0.0, 5.0, 1.0, 3.0], [-7.0, -7.0, -7.0, -7.0], [1.0, 0.0, 1.0, 1.0]]), 2
    )

    torch.testing.assert_close(
        weights,
        torch.tensor([[0, 4 / 6, 0, 2 / 6], [1 / 4] * 4, [1 / 3, 0, 1 / 3, 1 / 3]]),
        atol=1e-4,
        rtol=0,
    )


def test_weights_are_stable_when_rounding_swaps_two_plans() -> None:
    """Rounding that makes two plans change places hardly moves the weights."""
    returns = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    ordered = returns.argsort(1, descending=True)
    # the best that is no elite, next to the last that is
    returns.scatter_(1, ordered[:, 5:6], returns.gather(1, ordered[:, 4:5]) - 1e-6)
    moved = returns.scatter(1, ordered[:, 5:6], returns.gather(1, ordered[:, 4:5]) + 1e-6)

    assert (elite_weights(returns, 5) - elite_weights(moved, 5)).abs().max() < 1e-4


def test_normal_samples_come_in_pairs_and_correlate_from_step_to_step() -> None:
    with seeded_single_thread(0):
        samples = base_samples((2, 4000, 5, 1), correlation=0.6)

    torch.testing.assert_close(samples[:, :2000], -samples[:, 2000:])
    np.testing.assert_allclose(samples.std((0, 1)), 1, atol=0.05)
    assert float((samples[:, :, 3] * samples[:, :, 4]).mean()) == pytest.approx(0.6, abs=0.05)
