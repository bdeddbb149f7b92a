"""Classifiers of sounds: the first class decides."""

import base64
import json
from typing import Any

import numpy as np

from handlers.inputs.sound_files import opened_sound
from handlers.inputs.sounds import RATES, SoundInput, read_sound
from handlers.kinds.sound_pictures import spectrogram
from handlers.protocol.errors import RequestError
from handlers.runtime.export import Export
from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.kinds.kind import Answer, Kind, Measured, MeasurementOptions, Progress
from marina.kinds.pictures import draw_classes, same_first_class, summarize_classes
from marina.kinds.recorded_data import data_of, is_trained_on

PART = 32  # sounds that are sent at once
HIGHEST_RATE, DRAWN_SECONDS = 16_000, 10  # of a sound that is drawn


class AudioClassifierKind(Kind):
    """A sound -> its classes."""

    name = "audio_classifier"

    def summarize(self, content: Any) -> str:
        """The first class with its probability."""
        return summarize_classes(content)

    def same_decision(self, answer: Any, other: Any) -> bool:
        """Whether both have the same first class."""
        return same_first_class(answer, other)

    def draw(self, body: bytes, answer: Any) -> Any:
        """The spectrogram of the sound's beginning with a bar per class below it."""
        return draw_classes(drawn(body), answer["predictions"])

    def measurement(self, spec: Spec, options: MeasurementOptions) -> "SoundMetrics":
        """Accuracy on the test split."""
        return SoundMetrics(spec, data_of(spec, options.data), is_trained_on(spec, options.data))


class SoundMetrics:
    """What share of the answers to the test sounds is right."""

    def __init__(self, spec: Spec, data: str, is_recorded: bool) -> None:
        from training import recipes
        from training.recipes.audio_classifier import held_out

        export = Export.open(spec.export_dir)
        settings = recipes.recipe_of(spec).settings(spec).model_copy(update={"data": data})
        self.classes, self.is_recorded = export.labels, is_recorded
        sounds = SoundInput.from_config(export.preprocess)
        self.sounds = held_out(settings, sounds, export.labels, spec.training.seed, not is_recorded)

    def run(self, answer: Answer, progress: Progress, *, is_endpoint: bool) -> Measured:
        """Send the file of every sound as a request of its own."""
        parts = [self.sounds[start : start + PART] for start in range(0, len(self.sounds), PART)]
        answers = []
        for part in progress(parts):
            rows = [(one.path.read_bytes(), "application/octet-stream") for one in part]
            answers += answer(rows, {"top_k": "1"})
        truths = [self.classes[one.label] for one in self.sounds]
        pairs = zip(answers, truths, strict=True)
        right = [reply["predictions"][0]["class"] == truth for reply, truth in pairs]
        return Measured({"accuracy": float(np.mean(right)), "sounds": len(answers)})

    def compare(self, served: Measured, local: Measured) -> dict[str, Any]:
        """Nothing: their metrics stand side by side."""
        return {}


def drawn(body: bytes) -> Any:
    """The spectrogram of a sound's beginning. Raises CallError for what is no sound."""
    try:
        if body.lstrip()[:1] == b"{":
            content = json.loads(body)
            body = base64.b64decode(next(value for value in content.values() if isinstance(value, str)))
        with opened_sound(body, SoundInput.max_seconds, RATES) as file:
            rate = min(HIGHEST_RATE, file.samplerate)
        window = rate * DRAWN_SECONDS
        _, waveform = next(read_sound(body, SoundInput(rate, window, window, 1)).windows())
    except (RequestError, ValueError, StopIteration) as error:
        raise CallError(f"only the file of a sound can be drawn: {error}") from error
    return spectrogram(waveform, rate)


KIND = AudioClassifierKind()
