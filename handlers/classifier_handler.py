"""TorchServe's entry point for classifiers of pictures."""

from handlers.kinds.classifier import ClassifierPredictor
from handlers.torchserve.adapter import TorchServeHandler


class ClassifierHandler(TorchServeHandler):
    """Answers by `ClassifierPredictor`."""

    predictor_class = ClassifierPredictor
