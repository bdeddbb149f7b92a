"""Classifiers of pictures: the first class decides, or the labels do."""

from typing import Any

from handlers.runtime.export import Export
from marina.core.spec import Spec
from marina.kinds.kind import MeasurementOptions
from marina.kinds.labels import LabelsKind, PictureLabels
from marina.kinds.pictures import (
    Accuracy,
    canvas,
    draw_classes,
    limits_of,
    opened,
    with_classes_of,
)
from marina.kinds.recorded_data import data_of, is_import, is_trained_on


class ClassifierKind(LabelsKind):
    """A picture -> its classes, or its labels."""

    name = "classifier"

    def draw(self, body: bytes, answer: Any) -> Any:
        """The picture with a bar per class below it."""
        return draw_classes(canvas(self.picture(body)).image, answer["predictions"])

    def measurement(self, spec: Spec, options: MeasurementOptions) -> Accuracy | PictureLabels:
        """Accuracy on the test split, or F1 of several labels."""
        folder, is_recorded = data_of(spec, options.data), is_trained_on(spec, options.data)
        if Export.open(spec.export_dir).postprocess["type"] == "labels":
            labeled = with_classes_of(spec, labels_of(spec, folder, is_recorded))
            return PictureLabels(spec, labeled, is_recorded)
        examples = with_classes_of(spec, self.load_data(spec, folder))
        return Accuracy(spec, examples, is_recorded)

    def picture(self, body: bytes) -> Any:
        """What was sent, as a picture."""
        return opened(body)

    def load_data(self, spec: Spec, folder: str) -> Any:
        """The data to measure on, in its splits; all of it for a model that learned elsewhere."""
        from training import data

        if is_import(spec):
            return data.held_out_images(folder, limits=limits_of(spec))
        return data.load_images(folder, spec.training.seed, limits=limits_of(spec))


def labels_of(spec: Spec, data: str, is_recorded: bool) -> Any:
    """Pictures with several labels each: the test split of what was learned from, or of other data what it
    holds out.
    """
    from training import data as sets

    separator = Export.open(spec.export_dir).metadata["training"].get("label_separator")
    if is_recorded:
        return sets.load_labels(data, spec.training.seed, limits=limits_of(spec), separator=separator)
    return sets.held_out_labels(data, limits=limits_of(spec), separator=separator)


KIND = ClassifierKind()
