"""Classifiers of pictures: the first class decides."""

from typing import Any, ClassVar

from marina.core.spec import Spec
from marina.kinds.kind import Kind, MeasurementOptions
from marina.kinds.pictures import (
    Accuracy,
    canvas,
    draw_classes,
    limits_of,
    opened,
    same_first_class,
    summarize_classes,
    with_classes_of,
)
from marina.kinds.recorded_data import data_of, is_import, is_trained_on


class ClassifierKind(Kind):
    """A picture -> its classes."""

    name = "classifier"
    import_recipe: ClassVar[str | None] = "imported_classifier"

    def summarize(self, content: Any) -> str:
        """The class."""
        return summarize_classes(content)

    def same_decision(self, answer: Any, other: Any) -> bool:
        """Whether both have the same first class."""
        return same_first_class(answer, other)

    def draw(self, body: bytes, answer: Any) -> Any:
        """The picture with a bar per class below it."""
        return draw_classes(canvas(self.picture(body)).image, answer["predictions"])

    def measurement(self, spec: Spec, options: MeasurementOptions) -> Accuracy:
        """Accuracy on the test split."""
        folder = data_of(spec, options.data)
        examples = with_classes_of(spec, self.load_data(spec, folder))
        return Accuracy(spec, examples, is_recorded=is_trained_on(spec, options.data))

    def picture(self, body: bytes) -> Any:
        """What was sent, as a picture."""
        return opened(body)

    def load_data(self, spec: Spec, folder: str) -> Any:
        """The data to measure on, in its splits; all of it for a model that learned elsewhere."""
        from training import data

        if is_import(spec):
            return data.held_out_images(folder, limits=limits_of(spec))
        return data.load_images(folder, spec.training.seed, limits=limits_of(spec))


KIND = ClassifierKind()
