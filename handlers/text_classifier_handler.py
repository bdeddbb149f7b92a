"""TorchServe's entry point for text classifiers."""

from handlers.kinds.text_classifier import TextClassifierPredictor
from handlers.torchserve.adapter import TorchServeHandler


class TextClassifierHandler(TorchServeHandler):
    """Answers by `TextClassifierPredictor`."""

    predictor_class = TextClassifierPredictor
