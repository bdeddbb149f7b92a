"""TorchServe's entry point for classifiers of signals."""

from handlers.kinds.sequence_classifier import SequenceClassifierPredictor
from handlers.torchserve.adapter import TorchServeHandler


class SequenceClassifierHandler(TorchServeHandler):
    """Answers by `SequenceClassifierPredictor`."""

    predictor_class = SequenceClassifierPredictor
