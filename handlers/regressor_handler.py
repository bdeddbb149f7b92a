"""TorchServe's entry point for regressors of table rows."""

from handlers.kinds.regressor import RegressorPredictor
from handlers.torchserve.adapter import TorchServeHandler


class RegressorHandler(TorchServeHandler):
    """Answers by `RegressorPredictor`."""

    predictor_class = RegressorPredictor
