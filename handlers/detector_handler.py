"""TorchServe's entry point for detectors."""

from handlers.kinds.detector import DetectorPredictor
from handlers.torchserve.adapter import TorchServeHandler


class DetectorHandler(TorchServeHandler):
    """Answers by `DetectorPredictor`."""

    predictor_class = DetectorPredictor
