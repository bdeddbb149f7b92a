"""TorchServe's entry point for policies."""

from handlers.kinds.policy import PolicyPredictor
from handlers.torchserve.adapter import TorchServeHandler


class PolicyHandler(TorchServeHandler):
    """Answers by `PolicyPredictor`."""

    predictor_class = PolicyPredictor
