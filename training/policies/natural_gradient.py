"""The natural gradient of an actor: Fisher-vector products and conjugate gradients, so that no matrix is ever formed.

The Fisher matrix of a policy is the mean of J^T M J, with J the derivative of the actor's outputs by its parameters and M the Fisher
matrix of the distribution by those outputs (Schulman et al. 2015, "Trust Region Policy Optimization", appendix C.1). A product with a
vector is one pass forward, for J, and one backward, for J^T.
"""

from collections.abc import Callable

import numpy as np

from training.policies.on_policy import ActorCritic, log_softmax
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

    def stand(self, features: np.ndarray) -> None:
        """Remember the present policy at `features`, float32 [B, w]."""
        self.passed = passes(self.arrays, self.agent.activation, features)
        self.scores, self.old_log_std = self.passed[-1], self.log_std.copy()
        self.probabilities = np.exp(log_softmax(self.scores)) if self.agent.log_std is None else np.zeros(0)

    def scores_now(self) -> np.ndarray:
        """Logits or means, [B, n], of the policy as it acts now at the features of `stand`."""
        return answer(self.arrays, self.agent.activation, self.passed[0])

    def gradient(self, actions: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Of the sum of `weights` [B] times log pi(actions), where the actor stood."""
        if self.agent.log_std is None:
            by_scores = -self.probabilities * weights[:, None]
            by_scores[np.arange(len(actions)), actions] += weights
            return self._by_parameters(by_scores, self.log_std)
        away = (actions - self.scores) * np.exp(-self.old_log_std)
        return self._by_parameters(weights[:, None] * away * np.exp(-self.old_log_std), weights @ (away * away - 1))

    def fisher_product(self, vector: np.ndarray) -> np.ndarray:
        """The mean Fisher matrix, where the actor stood, times `vector`.

        M is diag(p) - p p^T by the logits of a categorical distribution; by the mean and the logarithm of the deviation of
        a Gaussian it is 1 / deviation^2 and 2.
        """
        pieces = [
            values.reshape(part.shape) for part, values in zip(self.parts, np.split(vector.astype(np.float32), self.ends), strict=True)
        ]
        direction: Arrays = list(zip(pieces[:-1:2], pieces[1:-1:2], strict=True))
        speed = tangents(self.arrays, self.agent.activation, self.passed, direction)
        if self.agent.log_std is None:
            by_scores = self.probabilities * (speed - (self.probabilities * speed).sum(1, keepdims=True))
        else:
            by_scores = speed * np.exp(-2 * self.old_log_std)
        return self._by_parameters(by_scores / len(speed), 2 * pieces[-1])

    def divergence(self) -> float:
        """The mean KL(where it stood, now) at the features of `stand`, in nats, of the distributions themselves."""
        if self.agent.log_std is None:
            apart = log_softmax(self.scores.astype(np.float64)) - log_softmax(self.scores_now().astype(np.float64))
            return float((self.probabilities * apart).sum(1).mean())
        old, new = self.old_log_std.astype(np.float64), self.log_std.astype(np.float64)
        squares = np.exp(2 * old) + np.square(self.scores - self.scores_now(), dtype=np.float64)
        return float((new - old + squares / (2 * np.exp(2 * new)) - 0.5).sum(1).mean())

    def _by_parameters(self, by_scores: np.ndarray, by_log_std: np.ndarray) -> np.ndarray:
        """Backpropagation to a vector like `parameters`. The weights must be those of `stand`."""
        gradients = [(np.empty_like(weight), np.empty_like(bias)) for weight, bias in self.arrays]
        backward(self.arrays, self.agent.activation, self.passed, by_scores.astype(np.float32), gradients)
        parts = [*(part.ravel() for layer in gradients for part in layer), by_log_std]
        return np.concatenate(parts).astype(np.float64)
