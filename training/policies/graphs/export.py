"""A policy's graph as the export takes it: example inputs, configuration, and golden samples."""

import json
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from training.export.trained import Sample
from training.policies.envs.evaluate import Act
from training.policies.graphs.policies import Policy
from training.policies.spaces import ActionSpec, ObservationSpec

MAX_SAMPLES = 64  # a spec asks for no more
ROWS_AT_ONCE = 256  # an episode of images would fill the memory


def example_inputs(
    policy: Policy, observation_spec: ObservationSpec, action_spec: ActionSpec
) -> tuple[torch.Tensor, ...]:
    """A batch of two: observations of zeros, all actions valid, no noise."""
    dtype = getattr(torch, observation_spec.dtype)
    inputs = {
        "observation": torch.zeros(2, *observation_spec.shape, dtype=dtype),
        "action_mask": torch.ones(2, action_spec.size, dtype=torch.bool),
        "noise": torch.zeros(2, action_spec.size),
    }
    return tuple(inputs[name] for name in policy.inputs)


def describe_policy(
    policy: Policy,
    inputs: tuple[torch.Tensor, ...],
    observation_spec: ObservationSpec,
    action_spec: ActionSpec,
) -> dict[str, Any]:
    """The fields of `Trained` that describe a policy: module, example, and configuration for the handler."""
    noise = {"noise": "normal" if action_spec.type == "box" else "gumbel"} if "noise" in policy.inputs else {}
    outputs = [name for name in policy(*inputs) if name != "action"]
    return {
        "kind": "policy",
        "module": policy,
        "example": inputs,
        "preprocess": {**observation_spec.to_json(), "inputs": [*policy.inputs]},
        "postprocess": {
            "type": "policy",
            "action_space": action_spec.to_json(),
            **noise,
            "deterministic": True,
            "outputs": outputs,
        },
    }


def make_act(policy: Policy, inputs: tuple[torch.Tensor, ...]) -> Act:
    """Deterministic actions of observations [n, ...] and, if there are any, masks, as evaluations ask."""
    return lambda obs, action_mask=None: predict(policy, inputs, obs, "action", action_mask)


@torch.no_grad()
def predict(
    policy: Policy,
    inputs: tuple[torch.Tensor, ...],
    obs: np.ndarray,
    name: str,
    action_mask: np.ndarray | None = None,
) -> np.ndarray:
    """The policy's output `name` for observations [n, ...].

    `action_mask` is bool [n, choices]; None: all are valid. `inputs` are those of `example_inputs`.
    """
    outputs, defaults = [], dict(zip(policy.inputs[1:], inputs[1:], strict=True))
    for start in range(0, len(obs), ROWS_AT_ONCE):
        part = torch.from_numpy(obs[start : start + ROWS_AT_ONCE]).to(inputs[0].dtype)
        others = {key: default[:1].expand(len(part), -1) for key, default in defaults.items()}
        if action_mask is not None:
            others["action_mask"] = torch.from_numpy(action_mask[start : start + ROWS_AT_ONCE])
        outputs.append(policy(part, *others.values())[name].numpy())
    return np.concatenate(outputs)


def golden_episode(
    policy: Policy,
    inputs: tuple[torch.Tensor, ...],
    action_spec: ActionSpec,
    obs: np.ndarray,
    action_mask: np.ndarray | None = None,
) -> tuple[np.ndarray, list[Sample]]:
    """The actions [T, ...] at an episode's observations [T, ...], and its clearest steps as sample requests.

    `action_mask`, bool [T, choices], are the masks of the episode, if it had any.
    """
    actions = make_act(policy, inputs)(obs, action_mask)
    if not action_spec.branch_sizes:
        return actions, golden_samples(obs, actions, np.ones(len(actions), bool))
    with torch.no_grad():
        parts = torch.split(torch.from_numpy(obs).to(inputs[0].dtype), ROWS_AT_ONCE)
        scores = torch.cat([policy.scores(part) for part in parts])  # type: ignore[operator,union-attr]
    largest = scores.abs().max()
    if action_mask is not None:
        scores = scores.masked_fill(~torch.from_numpy(action_mask), -torch.inf)
    margins = []
    for branch in torch.split(scores, [*action_spec.branch_sizes], 1):
        top = functional.pad(branch, (0, 1), value=-torch.inf).topk(2).values
        margins.append(top[:, 0] - top[:, 1])
    margin = torch.stack(margins).amin(0)
    # other arithmetic can't change these actions
    is_clear = margin >= torch.maximum(margin.median(), 1e-3 * largest)
    return actions, golden_samples(obs, actions, is_clear.numpy(), action_mask)


def golden_samples(
    obs: np.ndarray, actions: np.ndarray, is_clear: np.ndarray, action_mask: np.ndarray | None = None
) -> list[Sample]:
    """Up to 64 sample requests from the steps of an episode whose action is beyond doubt (`is_clear`, [T]).

    `actions` are integers [T], or [T, ...] with several numbers per action; `action_mask`, bool [T, n], is
    sent along if given. The first few samples are spread over the episode and, where an action is one
    integer, take turns among the actions.
    """
    is_single = actions.ndim == 1 and actions.dtype.kind in "iu"
    groups = actions if is_single else np.zeros(len(actions))
    turns = [spread(np.flatnonzero(is_clear & (groups == group))) for group in np.unique(groups)]
    order = [steps[turn] for turn in range(max(map(len, turns))) for steps in turns if turn < len(steps)]
    samples = []
    for step in order[:MAX_SAMPLES]:
        # the shortest numbers that read back the same
        numbers = [json.loads(str(number)) for number in np.ravel(obs[step])]
        nested = np.array(numbers, object).reshape(obs.shape[1:]).tolist()
        mask = {} if action_mask is None else {"action_mask": action_mask[step].astype(int).tolist()}
        body = json.dumps({"observation": nested, **mask}).encode()
        samples.append(Sample(f"step-{step}", body, "application/json", {"action": actions[step].tolist()}))
    return samples


def spread(steps: np.ndarray) -> list[int]:
    """The same steps in an order of which every beginning is spread over them.

    Multiples of the golden section, modulo 1.
    """
    places = (np.arange(4 * len(steps)) * 0.6180339887 % 1 * len(steps)).astype(int)
    return [int(steps[place]) for place in dict.fromkeys(places.tolist())]
