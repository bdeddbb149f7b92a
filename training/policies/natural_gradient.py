"""The natural gradient of an actor: Fisher-vector products and conjugate gradients, so that no matrix is ever formed.

The Fisher matrix of a policy is the mean of J^T M J, with J the derivative of the actor's outputs by its parameters and M the Fisher
matrix of the distribution by those outputs (Schulman et al. 2015, "Trust Region Policy Optimization", appendix C.1). A product with a
vector is one pass forward, for J, and one backward, for J^T.
"""

from collections.abc import Callable

import numpy as np

from training.policies.distributions import Categorical, Gaussian, forbid
from training.policies.on_policy import ActorCritic
from training.policies.small_networks import Arrays, answer, backward, passes, tangents


def conjugate_gradient(product: Callable[[np.ndarray], np.ndarray], target: np.ndarray, iterations: int) -> np.ndarray:
    """The x of product(x) = target, float64 [n], where `product` is symmetric and positive definite; exact after n iterations.

    Hestenes and Stiefel 1952, "Methods of Conjugate Gradients for Solving Linear Systems", equations 3:1.
    """
    found, left, direction = np.zeros_like(target), target.copy(), target.copy()
    square = left @ left
    enough = 1e-20 * square
    for _ in range(iterations):
        if square <= enough:
            break
        along = product(direction)
        share = square / (direction @ along)
        found += share * direction
        left -= share * along
        before, square = square, left @ left
        direction = left + square / before * direction
    return found


class Actor:
    """The actor of an agent, its parameters one vector float64 [n], seen from where it stood at `stand`."""

    def __init__(self, agent: ActorCritic) -> None:
        self.agent, self.arrays = agent, agent.networks.arrays()
        self.log_std = np.zeros(0, np.float32) if agent.log_std is None else agent.log_std.detach().numpy()
        self.parts = [*(part for layer in self.arrays for part in layer), self.log_std]
        self.ends = np.cumsum([part.size for part in self.parts])[:-1]

    @property
    def parameters(self) -> np.ndarray:
        """A copy."""
        return np.concatenate([part.ravel() for part in self.parts]).astype(np.float64)

    def move_to(self, parameters: np.ndarray) -> None:
        """Let the agent act by these."""
        for part, values in zip(self.parts, np.split(parameters, self.ends), strict=True):
            part[...] = values.reshape(part.shape)

    def stand(self, features: np.ndarray, allowed: np.ndarray | None = None) -> None:
        """Remember the present policy at `features`, float32 [B, w], where `allowed`, bool [B, n], may forbid some choices."""
        self.passed, self.allowed = passes(self.arrays, self.agent.activation, features), allowed
        self.stood = self.agent.distribution(forbid(self.passed[-1], allowed))

    def now(self) -> Categorical | Gaussian:
        """The policy as it acts now at the features of `stand`."""
        scores = answer(self.arrays, self.agent.activation, self.passed[0])
        return self.agent.distribution(forbid(scores, self.allowed))

    def gradient(self, actions: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Of the sum of `weights` [B] times log pi(actions), where the actor stood."""
        return self._by_parameters(*self.stood.slopes(actions, weights))

    def fisher_product(self, vector: np.ndarray) -> np.ndarray:
        """The mean Fisher matrix, where the actor stood, times `vector`."""
        pieces = [
            values.reshape(part.shape) for part, values in zip(self.parts, np.split(vector.astype(np.float32), self.ends), strict=True)
        ]
        direction: Arrays = list(zip(pieces[:-1:2], pieces[1:-1:2], strict=True))
        speed = tangents(self.arrays, self.agent.activation, self.passed, direction)
        by_scores = self.stood.fisher_product(speed)
        return self._by_parameters(by_scores / len(speed), 2 * pieces[-1])  # 2: that of the logarithm of a deviation

    def divergence(self) -> float:
        """The mean KL(where it stood, now) at the features of `stand`, in nats, of the distributions themselves."""
        return self.stood.divergence(self.now())  # type: ignore[arg-type]  # both are of one kind

    def _by_parameters(self, by_scores: np.ndarray, by_log_std: np.ndarray) -> np.ndarray:
        """Backpropagation to a vector like `parameters`. The weights must be those of `stand`."""
        gradients = [(np.empty_like(weight), np.empty_like(bias)) for weight, bias in self.arrays]
        backward(self.arrays, self.agent.activation, self.passed, by_scores.astype(np.float32), gradients)
        parts = [*(part.ravel() for layer in gradients for part in layer), by_log_std]
        return np.concatenate(parts).astype(np.float64)
