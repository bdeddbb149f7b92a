"""Serves classifiers of signals: steps of one or several channels -> logits -> the classes, and which steps
and channels they rest on.

preprocess_config.json is a `inputs.signals.SignalInput`. The graph takes signals float32 [B, T, C], filled up
with zeros to the longest of a batch (or to `graph_steps`), and how many steps of each count, int64 [B]; what
it is filled up with changes no answer.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..inputs.signals import SIGNAL, SignalInput, padded
from ..protocol.options import Number
from ..protocol.requests import Instance, Prepared
from ..runtime.export import Export
from .classes import ClassPredictor

LEAST_GROUP = 16  # steps; shorter signals are computed with those of this length
PARTS = 64  # of a signal; neighbors of a longer one are left out together, so that an explanation is bounded


class SequenceClassifierPredictor(ClassPredictor):
    """Answers `ClassAnswers`."""

    file_types: ClassVar[tuple[str, ...]] = ("text/csv",)

    def configure(self, export: Export) -> None:
        """Read the channels of an export."""
        super().configure(export)
        self.input = SignalInput.from_config(export.preprocess)
        about = "the class to explain; by default the first of the answer"
        self.explain_options = {"class_index": Number(int, 0, len(self.labels) - 1, about)}

    def input_names(self) -> list[str]:
        """One tensor [N, steps, channels]; a tensor [N, steps] per channel, by its name, is taken too."""
        return [SIGNAL]

    def rows_of(self, payload: Any, most: int) -> list[Any] | None:
        """The signals of a CSV that names them, and of a list of signals."""
        return self.input.signals_of(payload, most)

    def decode(self, instance: Instance) -> np.ndarray:
        """The signal float32 [T, C]."""
        return self.input.read(instance.payload)

    def preprocess(self, item: np.ndarray, instance: Instance) -> Prepared:
        """The signal and its number of steps."""
        return Prepared((item, np.array(len(item), np.int64)), instance.options)

    def groups(self, prepared: Sequence[Prepared]) -> list[list[int]]:
        """Signals of nearly the same length are computed together: none is filled up to more than twice its
        own, or to LEAST_GROUP.
        """
        if self.input.graph_steps:
            return super().groups(prepared)
        groups: dict[int, list[int]] = {}
        for position, one in enumerate(prepared):
            length = max(LEAST_GROUP, len(one.arrays[0]))
            groups.setdefault((length - 1).bit_length(), []).append(position)
        return list(groups.values())

    def collate(self, prepared: Sequence[Prepared]) -> tuple[np.ndarray, ...]:
        """Signals float32 [B, T, C] and their steps int64 [B]."""
        signals, steps = zip(*(one.arrays for one in prepared), strict=True)
        return padded(signals, self.input.graph_steps), np.array(steps, np.int64)

    def explanation(self, item: np.ndarray, prepared: Prepared) -> Any:
        """How much the log-odds of a class fall with the mean of training in the place of each step's values,
        and of each channel's (occlusion; Zeiler and Fergus 2014, section 4.2, of pictures).
        """
        parts = np.array_split(np.arange(len(item)), min(len(item), PARTS))
        variants = [item, *(self._without_steps(item, part) for part in parts)]
        variants += [self._without_channel(item, place) for place in range(len(self.input.channels))]
        logits = self._logits(variants)
        (answer,) = self.answers.of(logits[:1], [prepared])
        index = prepared.options.get("class_index", answer["predictions"][0]["class_index"])
        odds = self.answers.log_odds(logits, index)
        falls = (odds[0] - odds[1:]).tolist()
        steps = [0.0] * len(item)
        for part, fall in zip(parts, falls, strict=False):
            for step in part:
                steps[step] = round(fall / len(part), 6)
        channels = zip(self.input.names, falls[len(parts) :], strict=True)
        return {
            **self.answers.named(index, float(self.answers.probabilities(logits[:1])[0, index])),
            "method": "occlusion",
            "steps": steps,
            "channels": {name: round(fall, 6) for name, fall in channels},
        }

    def limits(self) -> dict[str, int]:
        """Steps of a signal."""
        return {"minimum_steps": self.input.minimum_steps, "maximum_steps": self.input.maximum_steps}

    def request_schema(self) -> dict[str, Any]:
        """A signal under its key, by channel, or as it is."""
        return {"anyOf": self.input.schemas({name: one.schema() for name, one in self.options.items()})}

    def explanation_schema(self) -> dict[str, Any]:
        """The class that is explained, and what each step and each channel counts."""
        about = (
            "what the class's log-odds lose with the mean of training in its place; below 0 it speaks against"
        )
        number = {"type": "number", "description": about}
        channels = dict.fromkeys(self.input.names, number)
        properties = {
            **self.answers.named_schema(),
            "method": {"type": "string", "enum": ["occlusion"]},
            "steps": {"type": "array", "items": number, "x-dimension": "steps"},
            "channels": {"type": "object", "properties": channels, "required": list(channels)},
        }
        return {"type": "object", "properties": properties, "required": list(properties)}

    def _logits(self, variants: Sequence[np.ndarray]) -> np.ndarray:
        """Of signals of one length: float32 [N, classes]."""
        most = int(self.metadata["max_batch"])
        parts = []
        for start in range(0, len(variants), most):
            signals = padded(variants[start : start + most], self.input.graph_steps)
            steps = np.full(len(signals), len(variants[0]), np.int64)
            parts.append(self.model(signals, steps))
        return np.concatenate(parts)

    def _without_steps(self, item: np.ndarray, part: np.ndarray) -> np.ndarray:
        changed = item.copy()
        changed[part] = self.input.means
        return changed

    def _without_channel(self, item: np.ndarray, place: int) -> np.ndarray:
        changed = item.copy()
        changed[:, place] = self.input.means[place]
        return changed


PREDICTOR = SequenceClassifierPredictor
