"""TorchServe's entry point for classifiers of clips."""

from handlers.kinds.video_classifier import VideoClassifierPredictor
from handlers.torchserve.adapter import TorchServeHandler


class VideoClassifierHandler(TorchServeHandler):
    """Answers by `VideoClassifierPredictor`."""

    predictor_class = VideoClassifierPredictor
