"""Serves classifiers of sounds: a file, or samples -> windows -> the classes, and where in time and frequency
the evidence lies.

preprocess_config.json is an `inputs.sounds.SoundInput`. The graph takes waveforms float32 [B, T] of one
channel at its rate, filled up with zeros to the longest of a batch, and how many samples of each count, int64
[B]. Features are computed inside it. A sound of several windows is answered by the mean of their
logits; its windows are computed in batches while it is read, so that hours need no more memory than
their file.
"""

import io
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from ..inputs.payloads import bytes_of, only_key
from ..inputs.sound_files import WAYS
from ..inputs.sounds import RATES, Sound, SoundInput, read_sound
from ..protocol.errors import BrokenArchive
from ..protocol.options import Choice, Flag, Number, keyed_schema
from ..protocol.replies import Picture
from ..protocol.requests import Instance, Prepared
from ..runtime.export import Export
from .classes import ClassPredictor
from .sound_occlusion import BANDS, PARTS, without_tiles
from .sound_pictures import spectrogram

KEYS = ("audio", "data", "b64")
# as clients of other servers name it
ALSO = ("sound", "wav", "speech", "audio_bytes", "audio_b64", "base64", "bytes", "content", "file", "samples")
WINDOWS = 8  # of a long sound that are computed at once: more take memory, and little less time
GROUP = 4_000  # samples; shorter sounds are computed with those of this length


class AudioClassifierPredictor(ClassPredictor):
    """Takes a sound as the raw bytes or base64 text of its file, as a list of samples, or as a tensor of them
    (KServe v2).

    Answers `ClassAnswers` with the sound's seconds, and its windows where the request asks for them.
    """

    ragged: ClassVar[bool] = True
    file_types: ClassVar[tuple[str, ...]] = (
        *("audio/wav", "audio/x-wav", "audio/flac", "audio/mpeg", "audio/ogg", "audio/aiff", "audio/basic"),
        *("audio/x-caf", "application/octet-stream"),
    )

    def configure(self, export: Export) -> None:
        """Read the JSON files of an export. Raises BrokenArchive without the packages that read sounds."""
        super().configure(export)
        self.input = SoundInput.from_config(export.preprocess)
        check_packages()
        least, most = RATES
        self.options |= {
            "windows": Flag("whether each window of the sound is answered, too, with its times"),
            "sample_rate": Number(int, least, most, "of samples that come as numbers; default: the graph's"),
        }
        about = "the class to explain; by default the first of the answer"
        self.explain_options = {
            "class_index": Number(int, 0, len(self.labels) - 1, about),
            "format": Choice(("json", "png"), "json: a number for each part; png: laid over the spectrogram"),
        }

    def decode(self, instance: Instance) -> Sound:
        """The sound, read and checked."""
        payload = only_key(instance.payload, *KEYS, also=ALSO)
        if isinstance(payload, bytes | str):
            payload = bytes_of(payload)
        return read_sound(payload, self.input, instance.options.get("sample_rate"))

    def preprocess(self, item: Sound, instance: Instance) -> Prepared:
        """A sound of one window as the graph's inputs; a longer one is cut when it is computed."""
        if item.is_long:
            return Prepared((), instance.options, basis=item)
        assert item.waveform is not None
        arrays = (item.waveform, np.array(len(item.waveform), np.int64))
        return Prepared(arrays, instance.options, basis=item)

    def groups(self, prepared: Sequence[Prepared]) -> list[list[int]]:
        """Sounds of nearly the same length are computed together: none is filled up to more than twice its
        own, or to GROUP. Longer ones than a window come last, each by itself.
        """
        groups: dict[int, list[int]] = {}
        longer = []
        for position, one in enumerate(prepared):
            if one.arrays:
                groups.setdefault((max(GROUP, len(one.arrays[0])) - 1).bit_length(), []).append(position)
            else:
                longer.append([position])
        return [*groups.values(), *longer]

    def collate(self, prepared: Sequence[Prepared]) -> tuple[np.ndarray, ...]:
        """Waveforms float32 [B, T] and their samples int64 [B]."""
        return filled([one.arrays[0] for one in prepared])

    def postprocess(self, outputs: np.ndarray, prepared: list[Prepared]) -> list[Any]:
        """Logits [B, classes] of sounds of one window each."""
        answers = self.answers.of(outputs, prepared)
        for row, (answer, one) in enumerate(zip(answers, prepared, strict=True)):
            # without a sound where an export tries a graph on inputs of its own
            windows = [(0.0, one.basis.seconds if one.basis else 0.0)]
            answer.update(self._facts(one, outputs[row : row + 1], windows))
        return answers

    def explanation(self, item: Sound, prepared: Prepared) -> Any:
        """How much the log-odds of a class fall with a hundredth of the power in each part of time and
        frequency (occlusion; Zeiler and Fergus 2014, section 4.2, of pictures), in the window that has the
        class most.
        """
        index = prepared.options.get("class_index")
        logits, starts = self._heard(item)
        if index is None:
            (answer,) = self.answers.of(self._overall(logits), [prepared])
            index = answer["predictions"][0]["class_index"]
        best = int(self.answers.log_odds(logits, index).argmax())
        waveform = next(islice((window for _, window in item.windows()), best, None))
        heat, edges = self._heat(waveform, index)
        start = starts[best] / self.input.sample_rate
        if prepared.options.get("format") == "png":
            buffer = io.BytesIO()
            spectrogram(waveform, self.input.sample_rate, start, heat, edges).save(buffer, "PNG")
            return Picture(buffer.getvalue(), "image/png")
        probability = float(self.answers.probabilities(logits[best : best + 1])[0, index])
        return {
            **self.answers.named(index, probability),
            "method": "occlusion",
            "start": round(start, 4),
            "end": round(start + len(waveform) / self.input.sample_rate, 4),
            "frequencies": [round(edge, 1) for edge in edges],
            "heat_map": [[round(value, 4) for value in row] for row in heat.tolist()],
        }

    def limits(self) -> dict[str, int]:
        """Bytes of a file, seconds of a sound."""
        return {"max_bytes": self.input.max_bytes, "max_seconds": int(self.input.max_seconds)}

    def request_schema(self) -> dict[str, Any]:
        """An object with base64 text, or with samples, under one of the keys."""
        text = {"type": "string", "contentEncoding": "base64", "description": "the file of a sound"}
        number = {"type": "number", "format": "float", "minimum": -1, "maximum": 1}
        about = f"samples of one channel, {self.input.sample_rate:,} a second where sample_rate says nothing"
        samples = {"type": "array", "items": number, "minItems": 1, "description": about}
        return keyed_schema(KEYS, {"oneOf": [text, samples], "description": WAYS}, self.options)

    def answer_schema(self) -> dict[str, Any]:
        """The predictions, the sound's length, and its windows."""
        schema = super().answer_schema()
        seconds = {"type": "number", "minimum": 0}
        window = {
            "start": {**seconds, "description": "seconds"},
            "end": {**seconds, "description": "seconds"},
            "answer": {"type": "string", "enum": list(self.labels)},
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        }
        schema["properties"] |= {
            "seconds": {**seconds, "description": "of the sound"},
            "clipped": {
                **seconds,
                "maximum": 1,
                "description": "share of the samples at full scale; above 0 where a sound was recorded too "
                "loud",
            },
            "windows": {
                "type": "array",
                "items": {"type": "object", "properties": window, "required": list(window)},
                "description": "where the request says windows: true",
            },
        }
        schema["required"] += ["seconds", "clipped"]
        return schema

    def explanation_schema(self) -> dict[str, Any]:
        """The class that is explained, the window, and what each part counts."""
        second = {"type": "number", "minimum": 0, "description": "seconds, of the window that is explained"}
        about = (
            f"for each of {BANDS} bands, from low to high, and {PARTS} equal parts of the window at most: "
            "what the class's log-odds lose without it; below 0 it speaks against"
        )
        edges = {"type": "array", "items": {"type": "number"}, "description": "hertz, between the bands"}
        row = {"type": "array", "items": {"type": "number"}}
        properties = {
            **self.answers.named_schema(),
            "method": {"type": "string", "enum": ["occlusion"]},
            "start": second,
            "end": second,
            "frequencies": edges,
            "heat_map": {"type": "array", "items": row, "description": about},
        }
        return {"type": "object", "properties": properties, "required": list(properties)}

    def _forward(self, prepared: list[Prepared]) -> list[Any]:
        """A group, as in Predictor; a sound of several windows comes alone."""
        if prepared[0].arrays:
            return super()._forward(prepared)
        (one,) = prepared
        with self.telemetry.inference:
            logits, starts = self._heard(one.basis)
        with self.telemetry.postprocess:
            rate = self.input.sample_rate
            windows = [(start / rate, (start + self.input.window) / rate) for start in starts]
            (answer,) = self.answers.of(self._overall(logits), [one])
            return [answer | self._facts(one, logits, windows)]

    def _heard(self, sound: Sound) -> tuple[np.ndarray, list[int]]:
        """Logits [windows, classes] and the first sample of each window, computed in batches."""
        most = min(WINDOWS, int(self.metadata["max_batch"]))
        logits, starts = [], []
        for batch in _batches(sound.windows(), most):
            starts += [start for start, _ in batch]
            logits.append(self.model(*filled([window for _, window in batch])))
        return np.concatenate(logits), starts

    def _overall(self, logits: np.ndarray) -> np.ndarray:
        """Logits of the whole of a sound, [1, classes]: the mean of those of its windows."""
        overall: np.ndarray = logits.mean(0, dtype=np.float64, keepdims=True).astype(np.float32)
        return overall

    def _facts(
        self, prepared: Prepared, logits: np.ndarray, windows: Sequence[tuple[float, float]]
    ) -> dict[str, Any]:
        """What an answer says beside its classes; `logits` are [windows, classes]."""
        facts: dict[str, Any] = {}
        if prepared.basis:
            sound: Sound = prepared.basis
            facts = {"seconds": round(sound.seconds, 4), "clipped": round(sound.clipped, 6)}
        if prepared.options.get("windows"):
            probabilities = self.answers.probabilities(logits)
            best = probabilities.argmax(1).tolist()
            facts["windows"] = [
                {
                    "start": round(start, 4),
                    "end": round(end, 4),
                    "answer": self.labels[index],
                    "confidence": float(row[index]),
                }
                for (start, end), index, row in zip(windows, best, probabilities, strict=True)
            ]
        return facts

    def _heat(self, waveform: np.ndarray, index: int) -> tuple[np.ndarray, list[float]]:
        """What each part counts, float64 [bands, parts], and the frequencies between the bands."""
        edges, shape, variants = without_tiles(waveform, self.input.sample_rate)
        odds = [
            self.answers.log_odds(self.model(*filled(batch)), index)
            for batch in _batches(variants, int(self.metadata["max_batch"]))
        ]
        found = np.concatenate(odds)
        return (found[0] - found[1:]).reshape(shape), edges


def check_packages() -> None:
    """Raise BrokenArchive where the packages that read and resample sounds are not installed."""
    try:
        import soundfile  # noqa: F401
        import soxr  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: without its library libsndfile
        raise BrokenArchive(
            "this model hears sounds, which needs the packages soundfile and soxr: "
            "pip install 'marina[audio]', or these two where only archives are served"
        ) from error


def filled(waveforms: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Waveforms with zeros behind the shorter ones, float32 [B, T], and their samples int64 [B]."""
    samples = np.array([len(one) for one in waveforms], np.int64)
    batch = np.zeros((len(waveforms), int(samples.max())), np.float32)
    for row, one in zip(batch, waveforms, strict=True):
        row[: len(one)] = one
    return batch, samples


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(items, size)):
        yield batch


PREDICTOR = AudioClassifierPredictor
