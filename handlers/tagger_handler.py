"""TorchServe's entry point for taggers."""

from handlers.kinds.tagger import TaggerPredictor
from handlers.torchserve.adapter import TorchServeHandler


class TaggerHandler(TorchServeHandler):
    """Answers by `TaggerPredictor`."""

    predictor_class = TaggerPredictor
