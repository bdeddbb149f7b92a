"""TorchServe's entry point for models of named tensors."""

from handlers.kinds.tensor import TensorPredictor
from handlers.torchserve.adapter import TorchServeHandler


class TensorHandler(TorchServeHandler):
    """Answers by `TensorPredictor`."""

    predictor_class = TensorPredictor
