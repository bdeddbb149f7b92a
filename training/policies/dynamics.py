"""A learned model of an environment: an ensemble that foretells what a plan of actions earns.

Every member is a small network from an observation and an action to the change of the observation, the reward and whether the
episode terminates there, as Nagabandi et al. 2018 ("Neural Network Dynamics for Model-Based Deep Reinforcement Learning with
Model-Free Fine-Tuning", section IV) learn it; several that learned from different draws of the same transitions disagree where they know
little (Chua et al. 2018, "Deep Reinforcement Learning in a Handful of Trials using Probabilistic Dynamics Models", the ensemble "DE").
All members stand side by side, and all plans of all observations go through one product per layer and step.

Not covered: noise of the environment itself; a member gives the mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from training.policies.small_networks import ACTIVATIONS, Adam, Perceptrons, answer, backward, flatten, passes

LEAST_DEVIATION = 1e-6
IMPROVED = 0.99  # of the best error on held-out transitions: less is no progress


@dataclass(frozen=True)
class Steps:
    """N transitions, float32: observations and following ones [N, w], actions as the model takes them [N, a], rewards and ends [N]."""

    observations: np.ndarray
    following: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray

    def targets(self) -> np.ndarray:
        """Changes and rewards [N, w + 1]."""
        return np.column_stack((self.following - self.observations, self.rewards))

    def inputs(self) -> np.ndarray:
        """[N, w + a]."""
        return np.column_stack((self.observations, self.actions))


class Ensemble(nn.Module):
    """The members, and the means and deviations by which their inputs and outputs are normalised.

    Inputs of a network are observation and action [w + a], outputs change and reward [w + 1] and the logit of a termination.
    """

    def __init__(self, members: int, width: int, actions: int, hidden: Sequence[int], activation: str) -> None:
        super().__init__()
        self.mean: torch.Tensor
        self.deviation: torch.Tensor
        self.target_mean: torch.Tensor
        self.target_deviation: torch.Tensor
        self.low: torch.Tensor
        self.high: torch.Tensor
        self.width, self.activation = width, activation
        self.terminates = False  # whether an episode has ever terminated
        self.networks = Perceptrons(members, (width + actions, *hidden, width + 2), activation)
        for name, size in (("mean", width + actions), ("target_mean", width + 1), ("low", width), ("high", width)):
            self.register_buffer(name, torch.zeros(size))
        for name, size in (("deviation", width + actions), ("target_deviation", width + 1)):
            self.register_buffer(name, torch.ones(size))

    def forward(self, observations: torch.Tensor, plans: torch.Tensor) -> torch.Tensor:
        """What plans, float32 [B, N, H, a], earn from observations [B, w] on: sums of H rewards, the members' mean, [B, N].

        Each member goes on from what it foretells itself, within the bounds of what has been observed. No reward follows a
        termination: what comes later counts by the probability that the episode still runs.
        """
        count, horizon, members, width = plans.shape[1], plans.shape[2], len(self.networks.weights[0]), self.width
        weights, biases = self._in_own_units()
        actions = plans.flatten(0, 1).transpose(0, 1).unsqueeze(1).expand(-1, members, -1, -1).unbind(0)  # H times [members, B * N, a]
        # the return so far is a column behind the observation, so that a step adds the rewards with the changes: few nodes per step
        states = nn.functional.pad(observations.repeat_interleave(count, 0), (0, 1)).expand(members, -1, -1)
        low, high = nn.functional.pad(self.low, (0, 1), value=-torch.inf), nn.functional.pad(self.high, (0, 1), value=torch.inf)
        reward, going = (torch.arange(width + 1) == width).float(), torch.ones(1)
        activate = ACTIVATIONS[self.activation][0]
        for step in range(horizon):
            latent = torch.cat((states, actions[step]), 2)
            for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                latent = activate(torch.baddbmm(bias, latent, weight))
            found = torch.baddbmm(biases[-1], latent, weights[-1])
            if self.terminates:
                changes = found[:, :, :-1] * (1 + reward * (going - 1))
                going = going * (-found[:, :, -1:]).sigmoid()
            else:
                changes = found
            states = (states + changes).clamp(low, high)
        return states[:, :, width].mean(0).reshape(-1, count)

    def _in_own_units(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Weights and biases of networks that take (observation, return so far, action) as they are and give changes as they are."""
        weights, biases, width = list(self.networks.weights), list(self.networks.biases), self.width
        first = weights[0] / self.deviation[:, None]
        biases[0] = biases[0] - self.mean @ first[:, None]
        weights[0] = torch.cat((first[:, :width], torch.zeros_like(first[:, :1]), first[:, width:]), 1)
        more, outputs = (0, 1), width + 1 + self.terminates  # the logit of a termination stays as it is
        scale, shift = (nn.functional.pad(self.target_deviation, more, value=1.0), nn.functional.pad(self.target_mean, more))
        weights[-1] = (weights[-1] * scale)[:, :, :outputs]
        biases[-1] = (biases[-1] * scale + shift)[:, :, :outputs]
        return weights, biases

    @torch.no_grad()
    def scale(self, steps: Steps) -> None:
        """Take means, deviations and bounds from `steps`."""
        inputs, targets = steps.inputs(), steps.targets()
        deviation = inputs.std(0, np.float64)
        self.mean.copy_(torch.from_numpy(inputs.mean(0, np.float64)))
        self.deviation.copy_(torch.from_numpy(np.where(deviation < LEAST_DEVIATION, 1, deviation)))  # what is constant tells nothing
        self.target_mean.copy_(torch.from_numpy(targets.mean(0, np.float64)))
        self.target_deviation.copy_(torch.from_numpy(targets.std(0, np.float64).clip(LEAST_DEVIATION)))  # and is foretold to stay
        both = np.concatenate((steps.observations, steps.following))
        self.low.copy_(torch.from_numpy(both.min(0)))
        self.high.copy_(torch.from_numpy(both.max(0)))
        self.terminates = bool(steps.terminated.any())


class Fitting:
    """Learns an ensemble from transitions, again and again as there are more of them; it goes on from the weights that it has."""

    def __init__(self, ensemble: Ensemble, learning_rate: float, batch_size: int) -> None:
        self.ensemble, self.learning_rate, self.batch_size = ensemble, learning_rate, batch_size
        self.flat = flatten(ensemble.networks)
        assert self.flat.grad is not None
        self.gradient, self.gradients = self.flat.grad.numpy(), ensemble.networks.gradients()
        self.arrays = ensemble.networks.arrays(slice(None))

    def fit(self, steps: Steps, held_out: np.ndarray, random: np.random.Generator, epochs: int, patience: int) -> float:
        """At most `epochs` epochs over `steps`, fewer when no member has gained for `patience` of them on those of `held_out` (bool [N]).

        Every member draws its own transitions, with replacement, and keeps the weights of its best epoch. Returns the mean of the
        members' errors on the held-out transitions: squares of normalised errors, and the nats of terminations where there are some.
        """
        self.ensemble.scale(steps)
        inputs, targets, ends = self._normalised(steps)
        kept, learned = np.flatnonzero(held_out), np.flatnonzero(~held_out)
        members, adam = len(self.arrays[0][0]), Adam(self.flat.detach().numpy(), epsilon=1e-8)
        own = learned[random.integers(len(learned), size=(members, len(learned)))]
        best = self.errors(inputs[kept], targets[kept], ends[kept])
        states, waited = [[part.copy() for part in layer] for layer in self.arrays], 0
        for _ in range(epochs):
            for chosen in np.array_split(random.permuted(own, axis=1), max(1, len(learned) // self.batch_size), axis=1):
                passed = passes(self.arrays, self.ensemble.activation, inputs[chosen])
                by_output = self.by_outputs(passed[-1], targets[chosen], ends[chosen])
                backward(self.arrays, self.ensemble.activation, passed, by_output, self.gradients)
                adam.step(self.gradient, self.learning_rate)
            errors = self.errors(inputs[kept], targets[kept], ends[kept])
            waited = 0 if (errors < IMPROVED * best).any() else waited + 1
            better = errors < best
            best = np.where(better, errors, best)
            for layer, state in zip(self.arrays, states, strict=True):
                for part, before in zip(layer, state, strict=True):
                    before[better] = part[better]
            if waited >= patience:
                break
        for layer, state in zip(self.arrays, states, strict=True):
            for part, before in zip(layer, state, strict=True):
                part[...] = before
        return float(best.mean())

    def by_outputs(self, found: np.ndarray, targets: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Half the gradient of `errors`, over the rows of a batch, by the outputs, [members, B, w + 2]."""
        rows, wanted = targets.shape[-2:]
        gradient = np.empty_like(found)
        gradient[..., :wanted] = (found[..., :wanted] - targets) / np.float32(rows * wanted)
        gradient[..., wanted] = self.ensemble.terminates * (1 / (1 + np.exp(-found[..., wanted])) - ends) / np.float32(2 * rows)
        return gradient

    def errors(self, inputs: np.ndarray, targets: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Of every member at normalised rows: mean square, plus the mean cross-entropy of terminations, [members]."""
        found, wanted = answer(self.arrays, self.ensemble.activation, inputs), targets.shape[-1]
        squares, logits = np.square(found[..., :wanted] - targets).mean((1, 2)), found[..., wanted]
        errors: np.ndarray = squares + self.ensemble.terminates * (np.logaddexp(0, logits) - ends * logits).mean(1)
        return errors

    def _normalised(self, steps: Steps) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        model = self.ensemble
        inputs = (steps.inputs() - model.mean.numpy()) / model.deviation.numpy()
        targets = (steps.targets() - model.target_mean.numpy()) / model.target_deviation.numpy()
        return inputs.astype(np.float32), targets.astype(np.float32), steps.terminated.astype(np.float32)
