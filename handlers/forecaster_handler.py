"""TorchServe's entry point for forecasters of series."""

from handlers.kinds.forecaster import ForecasterPredictor
from handlers.torchserve.adapter import TorchServeHandler


class ForecasterHandler(TorchServeHandler):
    """Answers by `ForecasterPredictor`."""

    predictor_class = ForecasterPredictor
