"""TorchServe's entry point for semantic segmentation."""

from handlers.kinds.segmenter import SegmenterPredictor
from handlers.torchserve.adapter import TorchServeHandler


class SegmenterHandler(TorchServeHandler):
    """Answers by `SegmenterPredictor`."""

    predictor_class = SegmenterPredictor
