"""Serves reinforcement-learning policies: observations -> actions, exactly as in evaluation."""

from typing import Any

import torch

from bundle_errors import NotUnderstood
from bundle_handler import BundleHandler, Decoded
from bundle_requests import flat_numbers, only_key


class PolicyHandler(BundleHandler):
    """Answers {"action": number or list, ...} with what else the policy gives: "q_values", "probabilities" or "value"."""

    def decode(self, payload: Any) -> Decoded:
        """{"observation": nested list of the space's shape}, or the list alone."""
        if isinstance(payload, bytes):
            raise NotUnderstood('send JSON like {"observation": [...]}')
        shape = tuple(self.preprocess_config["shape"])
        numbers = flat_numbers(only_key(payload, "observation", "data"), shape, "observation")
        kind = getattr(torch, self.preprocess_config["dtype"])
        tensor = torch.tensor(numbers, dtype=kind).reshape(shape)
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise NotUnderstood(f"observation must fit into {self.preprocess_config['dtype']}")
        return Decoded(tensor)

    def postprocess(self, outputs: dict[str, torch.Tensor], decoded: list[Decoded], options: list[dict[str, Any]]) -> list[Any]:
        """Tensors [B, ...] by name -> one dict per row, "action" first."""
        names = ["action", *(name for name in outputs if name != "action")]
        columns = [outputs[name].tolist() for name in names]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
