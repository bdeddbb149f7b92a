"""TorchServe's entry point for classifiers of sounds."""

from handlers.kinds.audio_classifier import AudioClassifierPredictor
from handlers.torchserve.adapter import TorchServeHandler


class AudioClassifierHandler(TorchServeHandler):
    """Answers by `AudioClassifierPredictor`."""

    predictor_class = AudioClassifierPredictor
