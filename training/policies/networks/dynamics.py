"""A learned model of an environment: an ensemble that predicts the return of a plan of actions.

Every member is a small network from an observation and an action to the change of the observation, the reward
and whether the episode terminates there (Nagabandi et al. 2018, "Neural Network Dynamics for Model-Based Deep
Reinforcement Learning with Model-Free Fine-Tuning", section IV). Members learn from different bootstrap
samples of the same transitions and disagree where data are rare (Chua et al. 2018, "Deep Reinforcement
Learning in a Handful of Trials using Probabilistic Dynamics Models", the ensemble "DE"). All members and all
plans of all observations go through one batched product per layer and step.

Not covered: noise of the environment itself; a member predicts the mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from training.policies.networks.mlp import ACTIVATIONS, BatchedMLP, backward, forward, forward_all
from training.policies.networks.optim import Adam, flatten

MIN_STD = 1e-6
MIN_IMPROVEMENT = 0.99  # of the best validation error: less is no progress


@dataclass(frozen=True)
class ModelData:
    """N transitions, float32: obs and next_obs [N, w], actions [N, a], rewards and terminated [N]."""

    obs: np.ndarray
    next_obs: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray

    def targets(self) -> np.ndarray:
        """Changes and rewards [N, w + 1]."""
        return np.column_stack((self.next_obs - self.obs, self.rewards))

    def inputs(self) -> np.ndarray:
        """[N, w + a]."""
        return np.column_stack((self.obs, self.actions))


class Ensemble(nn.Module):
    """The members, and the means and standard deviations that normalize their inputs and outputs.

    Inputs are observation and action [w + a], outputs change and reward [w + 1] and the logit of termination.
    """

    def __init__(
        self, ensemble_size: int, width: int, action_size: int, hidden: Sequence[int], activation: str
    ) -> None:
        super().__init__()
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.target_mean: torch.Tensor
        self.target_std: torch.Tensor
        self.low: torch.Tensor
        self.high: torch.Tensor
        self.width, self.activation = width, activation
        self.has_terminations = False  # whether an episode has ever terminated
        self.networks = BatchedMLP(ensemble_size, (width + action_size, *hidden, width + 2), activation)
        zeros = {"mean": width + action_size, "target_mean": width + 1, "low": width, "high": width}
        for name, size in zeros.items():
            self.register_buffer(name, torch.zeros(size))
        for name, size in (("std", width + action_size), ("target_std", width + 1)):
            self.register_buffer(name, torch.ones(size))

    def forward(self, obs: torch.Tensor, plans: torch.Tensor) -> torch.Tensor:
        """Returns of plans, float32 [B, N, H, a], from observations [B, w]: H rewards, members' mean, [B, N].

        Each member continues from its own predictions, within the bounds of what has been observed. Rewards
        after a predicted termination count by the probability that the episode still runs.
        """
        count, horizon, width = plans.shape[1], plans.shape[2], self.width
        ensemble_size = len(self.networks.weights[0])
        weights, biases = self._fold_normalization()
        # H times [members, B * N, a]
        actions = plans.flatten(0, 1).transpose(0, 1).unsqueeze(1).expand(-1, ensemble_size, -1, -1).unbind(0)
        # the return so far is a column behind the observation: one addition per step for both
        pad = nn.functional.pad
        states = pad(obs.repeat_interleave(count, 0), (0, 1)).expand(ensemble_size, -1, -1)
        low, high = pad(self.low, (0, 1), value=-torch.inf), pad(self.high, (0, 1), value=torch.inf)
        is_return, running = (torch.arange(width + 1) == width).float(), torch.ones(1)
        activate = ACTIVATIONS[self.activation][0]
        for step in range(horizon):
            x = torch.cat((states, actions[step]), 2)
            for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                x = activate(torch.baddbmm(bias, x, weight))
            outputs = torch.baddbmm(biases[-1], x, weights[-1])
            if self.has_terminations:
                changes = outputs[:, :, :-1] * (1 + is_return * (running - 1))
                running = running * (-outputs[:, :, -1:]).sigmoid()
            else:
                changes = outputs
            states = (states + changes).clamp(low, high)
        return states[:, :, width].mean(0).reshape(-1, count)

    def _fold_normalization(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Weights and biases for unnormalized inputs, with a column for the return so far, and outputs."""
        weights, biases, width = list(self.networks.weights), list(self.networks.biases), self.width
        first = weights[0] / self.std[:, None]
        biases[0] = biases[0] - self.mean @ first[:, None]
        weights[0] = torch.cat((first[:, :width], torch.zeros_like(first[:, :1]), first[:, width:]), 1)
        # the logit of termination isn't normalized
        num_outputs = width + 1 + self.has_terminations
        scale = nn.functional.pad(self.target_std, (0, 1), value=1.0)
        shift = nn.functional.pad(self.target_mean, (0, 1))
        weights[-1] = (weights[-1] * scale)[:, :, :num_outputs]
        biases[-1] = (biases[-1] * scale + shift)[:, :, :num_outputs]
        return weights, biases

    @torch.no_grad()
    def set_normalization(self, data: ModelData) -> None:
        """Take means, standard deviations and bounds from `data`."""
        inputs, targets = data.inputs(), data.targets()
        std = inputs.std(0, np.float64)
        self.mean.copy_(torch.from_numpy(inputs.mean(0, np.float64)))
        # a constant column stays as it is
        self.std.copy_(torch.from_numpy(np.where(std < MIN_STD, 1, std)))
        self.target_mean.copy_(torch.from_numpy(targets.mean(0, np.float64)))
        # and is predicted to stay constant
        self.target_std.copy_(torch.from_numpy(targets.std(0, np.float64).clip(MIN_STD)))
        both = np.concatenate((data.obs, data.next_obs))
        self.low.copy_(torch.from_numpy(both.min(0)))
        self.high.copy_(torch.from_numpy(both.max(0)))
        self.has_terminations = bool(data.terminated.any())


class EnsembleTrainer:
    """Fits an ensemble to transitions, again as there are more of them, from its current weights."""

    def __init__(self, ensemble: Ensemble, learning_rate: float, batch_size: int) -> None:
        self.ensemble, self.learning_rate, self.batch_size = ensemble, learning_rate, batch_size
        self.flat = flatten(ensemble.networks)
        assert self.flat.grad is not None
        self.grad, self.grads = self.flat.grad.numpy(), ensemble.networks.numpy_grads()
        self.layers = ensemble.networks.numpy_layers(slice(None))

    def fit(
        self,
        data: ModelData,
        is_validation: np.ndarray,
        rng: np.random.Generator,
        n_epochs: int,
        patience: int,
    ) -> float:
        """At most `n_epochs` over `data`, until no member has improved on the validation rows for `patience`.

        Every member draws its own bootstrap sample and keeps the weights of its best epoch. Returns the mean
        of the members' errors on the rows of `is_validation` (bool [N]): squares of normalized errors, and
        the cross-entropy of terminations where there are some.
        """
        self.ensemble.set_normalization(data)
        arrays = self._normalize(data)
        train_rows = np.flatnonzero(~is_validation)
        validation = [array[np.flatnonzero(is_validation)] for array in arrays]
        ensemble_size, adam = len(self.layers[0][0]), Adam(self.flat.detach().numpy(), eps=1e-8)
        bootstrap = train_rows[rng.integers(len(train_rows), size=(ensemble_size, len(train_rows)))]
        best_errors = self.errors(*validation)
        parts = [part for layer in self.layers for part in layer]
        best_parts, epochs_without_progress = [part.copy() for part in parts], 0
        for _ in range(n_epochs):
            self._train_epoch(arrays, rng.permuted(bootstrap, axis=1), adam)
            errors = self.errors(*validation)
            has_improved = (errors < MIN_IMPROVEMENT * best_errors).any()
            epochs_without_progress = 0 if has_improved else epochs_without_progress + 1
            is_better = errors < best_errors
            best_errors = np.where(is_better, errors, best_errors)
            for part, best_part in zip(parts, best_parts, strict=True):
                best_part[is_better] = part[is_better]
            if epochs_without_progress >= patience:
                break
        for part, best_part in zip(parts, best_parts, strict=True):
            part[...] = best_part
        return float(best_errors.mean())

    def _train_epoch(self, arrays: Sequence[np.ndarray], rows: np.ndarray, adam: Adam) -> None:
        inputs, targets, terminated = arrays
        activation, num_batches = self.ensemble.activation, max(1, rows.shape[1] // self.batch_size)
        for batch in np.array_split(rows, num_batches, axis=1):
            outputs = forward_all(self.layers, activation, inputs[batch])
            grad = self.grad_outputs(outputs[-1], targets[batch], terminated[batch])
            backward(self.layers, activation, outputs, grad, self.grads)
            adam.step(self.grad, self.learning_rate)

    def grad_outputs(self, outputs: np.ndarray, targets: np.ndarray, terminated: np.ndarray) -> np.ndarray:
        """Gradient of half the sum of `errors` of a batch by the outputs, [members, B, w + 2]."""
        rows, width = targets.shape[-2:]
        grad, logits = np.empty_like(outputs), outputs[..., width]
        grad[..., :width] = (outputs[..., :width] - targets) / np.float32(rows * width)
        grad[..., width] = (
            self.ensemble.has_terminations * (1 / (1 + np.exp(-logits)) - terminated) / np.float32(2 * rows)
        )
        return grad

    def errors(self, inputs: np.ndarray, targets: np.ndarray, terminated: np.ndarray) -> np.ndarray:
        """Of every member at normalized rows: mean square, plus the mean cross-entropy of terminations."""
        outputs, width = forward(self.layers, self.ensemble.activation, inputs), targets.shape[-1]
        squares, logits = np.square(outputs[..., :width] - targets).mean((1, 2)), outputs[..., width]
        cross_entropy = (np.logaddexp(0, logits) - terminated * logits).mean(1)
        errors: np.ndarray = squares + self.ensemble.has_terminations * cross_entropy
        return errors

    def _normalize(self, data: ModelData) -> list[np.ndarray]:
        """Inputs, targets and terminations as the networks take them."""
        model = self.ensemble
        inputs = (data.inputs() - model.mean.numpy()) / model.std.numpy()
        targets = (data.targets() - model.target_mean.numpy()) / model.target_std.numpy()
        return [array.astype(np.float32) for array in (inputs, targets, data.terminated)]
