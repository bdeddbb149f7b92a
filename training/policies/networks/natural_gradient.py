"""The natural gradient of an actor: Fisher-vector products and conjugate gradients, without forming a matrix.

The Fisher matrix of a policy is the mean of J^T M J, with J the derivative of the actor's outputs by its
parameters and M the Fisher matrix of the distribution by those outputs (Schulman et al. 2015, "Trust Region
Policy Optimization", appendix C.1). A product with a vector is one pass forward, for J, and one backward, for
J^T.
"""

from collections.abc import Callable

import numpy as np

from training.policies.networks.actor_critic import ActorCritic
from training.policies.networks.distributions import Categorical, Gaussian, apply_mask
from training.policies.networks.mlp import Layers, backward, forward, forward_all, jvp


def conjugate_gradient(
    matvec: Callable[[np.ndarray], np.ndarray], target: np.ndarray, max_steps: int
) -> np.ndarray:
    """Solve matvec(x) = target, float64 [n], where `matvec` is symmetric and positive definite.

    Exact after n steps. Hestenes and Stiefel 1952, "Methods of Conjugate Gradients for Solving Linear
    Systems", equations 3:1.
    """
    x, residual, direction = np.zeros_like(target), target.copy(), target.copy()
    square = residual @ residual
    tolerance = 1e-20 * square
    for _ in range(max_steps):
        if square <= tolerance:
            break
        product = matvec(direction)
        step_size = square / (direction @ product)
        x += step_size * direction
        residual -= step_size * product
        last_square, square = square, residual @ residual
        direction = residual + square / last_square * direction
    return x


class TrustRegionActor:
    """The actor of an agent with its parameters as one vector, float64 [n], around an anchor.

    The anchor is the policy at some features; gradients, Fisher products and divergences are taken from it.
    """

    def __init__(self, agent: ActorCritic) -> None:
        self.agent, self.layers = agent, agent.networks.numpy_layers()
        self.log_std = np.zeros(0, np.float32) if agent.log_std is None else agent.log_std.detach().numpy()
        self.parts = [*(part for layer in self.layers for part in layer), self.log_std]
        self.ends = np.cumsum([part.size for part in self.parts])[:-1]

    @property
    def params(self) -> np.ndarray:
        """A copy."""
        return np.concatenate([part.ravel() for part in self.parts]).astype(np.float64)

    def set_params(self, params: np.ndarray) -> None:
        """Let the agent act by these."""
        for part, values in zip(self.parts, np.split(params, self.ends), strict=True):
            part[...] = values.reshape(part.shape)

    def set_anchor(self, features: np.ndarray, action_mask: np.ndarray | None = None) -> None:
        """Take the current policy at `features`, float32 [B, w], with masks bool [B, n], as the anchor."""
        self.outputs = forward_all(self.layers, self.agent.activation, features)
        self.action_mask = action_mask
        self.anchor = self.agent.distribution(apply_mask(self.outputs[-1], action_mask))

    def current(self) -> Categorical | Gaussian:
        """The policy by the current parameters, at the anchor's features."""
        outputs = forward(self.layers, self.agent.activation, self.outputs[0])
        return self.agent.distribution(apply_mask(outputs, self.action_mask))

    def policy_gradient(self, actions: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Gradient of the sum of `weights` [B] times log pi(actions), at the anchor."""
        return self._to_params(*self.anchor.grad_log_prob(actions, weights))

    def fisher_vector_product(self, vector: np.ndarray) -> np.ndarray:
        """The mean Fisher matrix at the anchor, times `vector`."""
        pieces = [
            values.reshape(part.shape)
            for part, values in zip(self.parts, np.split(vector.astype(np.float32), self.ends), strict=True)
        ]
        direction: Layers = list(zip(pieces[:-1:2], pieces[1:-1:2], strict=True))
        tangent = jvp(self.layers, self.agent.activation, self.outputs, direction)
        product = self.anchor.fisher_vector_product(tangent)
        # 2: that of a log std
        return self._to_params(product / len(tangent), 2 * pieces[-1])

    def kl_divergence(self) -> float:
        """The mean KL(anchor, current) at the anchor's features, in nats."""
        return self.anchor.kl_divergence(self.current())  # type: ignore[arg-type]  # both are of one kind

    def _to_params(self, grad_outputs: np.ndarray, grad_log_std: np.ndarray) -> np.ndarray:
        """Backpropagate to a vector like `params`. The weights must be those of the anchor."""
        grads = [(np.empty_like(weight), np.empty_like(bias)) for weight, bias in self.layers]
        backward(self.layers, self.agent.activation, self.outputs, grad_outputs.astype(np.float32), grads)
        parts = [*(part.ravel() for layer in grads for part in layer), grad_log_std]
        return np.concatenate(parts).astype(np.float64)
