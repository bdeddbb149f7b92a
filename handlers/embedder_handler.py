"""TorchServe's entry point for embedders."""

from handlers.kinds.embedder import EmbedderPredictor
from handlers.torchserve.adapter import TorchServeHandler


class EmbedderHandler(TorchServeHandler):
    """Answers by `EmbedderPredictor`."""

    predictor_class = EmbedderPredictor
