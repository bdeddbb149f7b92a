"""Why a policy acts as it does: how its score changes with each number that it observes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..protocol.errors import ModelError, NotSupported
from .explanations import gradient_of

SCORES = ("q_values", "logits", "probabilities")  # what a policy chose by, the first that it has


@dataclass(frozen=True)
class PolicySaliency:
    """Why a policy took `action` (a number, or a list of numbers).

    `gradient` is float [*observation's shape], per unit of the observation. For a discrete action: of the
    lead of its score over the best other action's, all 0 where no other is allowed. For a continuous one: the
    Euclidean norm over the action's components. `saliency` is its size, summing to 1; all 0 where nothing
    moves the action.
    """

    action: Any
    gradient: torch.Tensor
    saliency: torch.Tensor


def policy_saliency(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> PolicySaliency:
    """Explain what `module` does at `inputs`: the observation, float [1, *shape], and what further inputs the
    graph has.

    One that is bool [1, actions] says which actions are allowed. Raises NotSupported for observations that
    are whole numbers and for policies without a score that a gradient leads to; ModelError where the gradient
    is not finite.
    """
    if not inputs[0].is_floating_point():
        raise NotSupported(
            "this policy observes whole numbers, which have no gradient, so that it can't be explained; "
            "call /predictions"
        )
    with torch.inference_mode(False), torch.enable_grad():
        leaf = inputs[0].detach().clone().requires_grad_()
        outputs = module(leaf.clone(), *(one.clone() for one in inputs[1:]))
        continuous = outputs["action"].is_floating_point()
        gradient = (
            _of_continuous(outputs["action"], leaf) if continuous else _of_discrete(outputs, inputs[1:], leaf)
        )
    if not bool(gradient.isfinite().all()):
        raise ModelError(
            "the explanation is not finite; the observation may be out of the range that the policy was "
            "trained on"
        )
    size = gradient.double().abs()
    total = size.sum()
    return PolicySaliency(
        outputs["action"][0].tolist(),
        gradient.cpu(),
        (size / total if bool(total > 0) else size).float().cpu(),
    )


def _of_discrete(
    outputs: dict[str, torch.Tensor], inputs: Sequence[torch.Tensor], leaf: torch.Tensor
) -> torch.Tensor:
    """The gradient, shaped as one observation, of the lead of the chosen action's score over the best
    other allowed one's.
    """
    name = next((name for name in SCORES if name in outputs), None)
    if name is None or outputs["action"].numel() != 1:
        raise NotSupported(
            "this policy gives no scores of its actions to compare, so that it can't be explained; call "
            "/predictions"
        )
    scores = outputs[name].flatten()
    chosen = torch.arange(len(scores), device=scores.device) == outputs["action"].flatten()
    # the least that there is marks what is forbidden
    others = ~chosen & (scores > (0 if name == "probabilities" else -torch.inf))
    for mask in (one.flatten() for one in inputs if one.dtype == torch.bool and one.numel() == len(scores)):
        others &= mask
    own = scores[chosen].squeeze()
    best = scores[others].max() if bool(others.any()) else own
    lead = own.log() - best.log() if name == "probabilities" else own - best
    return gradient_of(lead, leaf, "the observation")[0]


def _of_continuous(action: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    """The Euclidean norm over the components of `action` of their gradients, shaped as one observation."""
    rows = [gradient_of(part, leaf, "the observation", more=True)[0] for part in action.flatten()]
    norm: torch.Tensor = torch.stack(rows).norm(dim=0)
    return norm
