"""What the kinds for pictures and clips share: drawing answers, and measuring on held-out examples."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from handlers.runtime.export import Export
from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.kinds.kind import Answer, Measured, Progress

# Okabe and Ito's colors (2008), which people with any kind of color vision can tell apart
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
LEAST_SIDE = 480  # small pictures are enlarged to it, so that the writing can be read
PART = 32  # requests that are sent before progress is shown


@dataclass(frozen=True)
class Canvas:
    """A picture to draw an answer on: enlarged by `scale` from what was sent."""

    image: Any
    scale: float


def opened(body: bytes) -> Any:
    """The picture in `body`, upright, in RGB."""
    from PIL import Image, ImageOps

    return ImageOps.exif_transpose(Image.open(io.BytesIO(body))).convert("RGB")


def canvas(image: Any) -> Canvas:
    """`image`, enlarged where it is small."""
    from PIL import Image

    scale = max(1.0, LEAST_SIDE / max(image.size))
    sharp = Image.Resampling.NEAREST if scale >= 4 else Image.Resampling.BICUBIC
    return Canvas(image.resize((round(image.width * scale), round(image.height * scale)), sharp), scale)


def save_picture(image: Any, target: Path) -> None:
    """Write `image` to `target`, whose suffix decides the format.

    Raises CallError for one that Pillow doesn't write.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        image.save(target)
    except ValueError as error:
        raise CallError(f"can't write {target}: {error}; use a name like answer.png") from error


def font(side: int) -> Any:
    """A font that can be read on a picture with this longer side."""
    from PIL import ImageFont

    return ImageFont.load_default(size=max(16, side // 24))


def draw_classes(image: Any, predictions: Sequence[dict[str, Any]]) -> Any:
    """The picture with a bar per class below it."""
    from PIL import Image, ImageDraw

    letters = font(max(image.size))
    row = round(letters.size * 1.7)
    sheet = Image.new("RGB", (image.width, image.height + row * len(predictions) + row // 2), "white")
    sheet.paste(image, (0, 0))
    pen = ImageDraw.Draw(sheet)
    for index, prediction in enumerate(predictions):
        top = image.height + row // 4 + index * row
        pen.rectangle((0, top + 2, prediction["probability"] * sheet.width, top + row - 2), fill=COLORS[1])
        text = f"{prediction['class']}  {prediction['probability']:.3f}"
        pen.text((8, top + row / 2), text, fill="black", font=letters, anchor="lm")
    return sheet


class PictureMeasurement:
    """Sends every test example and scores the answers.

    A kind says which headers, and how answers are scored.
    """

    headers: Mapping[str, str] = {}

    def __init__(self, spec: Spec, images: Any, is_recorded: bool) -> None:
        self.spec, self.images, self.is_recorded = spec, images, is_recorded

    def run(self, answer: Answer, progress: Progress, *, is_endpoint: bool) -> Measured:
        """Accuracy, mAP or IoU of the answers to all test examples."""
        rows = [example.encoded() for example in self.images.test]
        parts = [rows[start : start + PART] for start in range(0, len(rows), PART)]
        answers = [reply for part in progress(parts) for reply in answer(part, self.headers)]
        return Measured({**self.score(answers), "images": len(answers)})

    def compare(self, served: Measured, local: Measured) -> dict[str, Any]:
        """Nothing: their metrics stand side by side."""
        return {}

    def score(self, answers: list[Any]) -> dict[str, float]:
        """Metrics of the answers, in the order of the examples."""
        raise NotImplementedError


class Accuracy(PictureMeasurement):
    """The share of examples whose first class is right."""

    headers: Mapping[str, str] = {"top_k": "1"}

    def score(self, answers: list[Any]) -> dict[str, float]:
        """{"accuracy": share}."""
        names = [self.images.classes[example.label] for example in self.images.test]
        right = [reply["predictions"][0]["class"] == name for reply, name in zip(answers, names, strict=True)]
        return {"accuracy": sum(right) / len(right)}


def summarize_classes(content: dict[str, Any]) -> str:
    """The expected class, or the first class of an answer with its probability."""
    if "predictions" not in content:
        return str(content.get("class", content))
    best = content["predictions"][0]
    return f"{best['class']} ({best['probability']:.3f})"


def same_first_class(answer: Any, other: Any) -> bool:
    """Whether two answers have the same first class."""
    return bool(answer["predictions"][0]["class"] == other["predictions"][0]["class"])


def limits_of(spec: Spec) -> Any:
    """The limits of the export's pictures or clips (`training.data.limits.Limits`): what is above them is
    left out, as in training.
    """
    from training.data.limits import Limits

    config = Export.open(spec.export_dir).preprocess
    return Limits(**{field.name: config[field.name] for field in fields(Limits) if field.name in config})


def check_classes(spec: Spec, images: Any) -> None:
    """Raise CallError if `images` have other classes than the model."""
    labels = Export.open(spec.export_dir).labels
    if sorted(labels) != sorted(images.classes):
        listed = _listed(images.classes)
        raise CallError(f"the data has the classes {listed}; {spec.name} knows {_listed(labels)}")


def with_classes_of(spec: Spec, images: Any) -> Any:
    """`images` with the model's classes in the place of their own, which may be a part of them, by name or
    by number. Raises CallError for a class that the model doesn't know.
    """
    labels = Export.open(spec.export_dir).labels

    def index(name: str) -> int:
        if name in labels:
            return labels.index(name)
        if name.isdigit() and int(name) < len(labels):
            return int(name)
        raise CallError(f"the data has the class {name!r}; {spec.name} knows {_listed(labels)}")

    of_data = np.array([index(name) for name in images.classes])
    test = [
        replace(
            example,
            label=int(of_data[example.label]) if example.label >= 0 else -1,
            labels=of_data[example.labels],
        )
        for example in images.test
    ]
    return replace(images, classes=tuple(labels), test=test)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" … ({len(names)} in all)" if len(names) > 6 else "")
