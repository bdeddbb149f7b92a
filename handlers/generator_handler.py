"""TorchServe's entry point for generators."""

from handlers.kinds.generator import GeneratorPredictor
from handlers.torchserve.adapter import TorchServeHandler


class GeneratorHandler(TorchServeHandler):
    """Answers by `GeneratorPredictor`."""

    predictor_class = GeneratorPredictor
