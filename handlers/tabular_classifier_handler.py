"""TorchServe's entry point for classifiers of table rows."""

from handlers.kinds.tabular_classifier import TabularClassifierPredictor
from handlers.torchserve.adapter import TorchServeHandler


class TabularClassifierHandler(TorchServeHandler):
    """Answers by `TabularClassifierPredictor`."""

    predictor_class = TabularClassifierPredictor
