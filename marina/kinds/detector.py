"""Detectors: boxes with classes, and masks where a model has some."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

from handlers.runtime.export import Export
from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.kinds.kind import Kind, MeasurementOptions
from marina.kinds.pictures import COLORS, PictureMeasurement, canvas, font, limits_of, opened, with_classes_of
from marina.kinds.recorded_data import data_of, is_import, is_trained_on


class DetectorKind(Kind):
    """A picture -> the objects in it."""

    name = "detector"
    # detectors' inputs are large, and the export computes a whole batch of this size
    import_spec: ClassVar[Mapping[str, Any]] = {"export": {"max_batch": 8}}

    def summarize(self, content: Any) -> str:
        """How many of each class."""
        counts = Counter(str(item["class"]) for item in content["detections"])
        words = (name if count == 1 else f"{name}×{count}" for name, count in sorted(counts.items()))
        return " ".join(words) or "nothing"

    def same_decision(self, answer: Any, other: Any) -> bool:
        """Whether both found the same classes, each as often."""
        names = [sorted(item["class"] for item in reply["detections"]) for reply in (answer, other)]
        return names[0] == names[1]

    def draw(self, body: bytes, answer: Any) -> Any:
        """The picture with boxes and masks, the surest on top."""
        page = canvas(opened(body))
        return draw_boxes(page.image, answer["detections"], page.scale)

    def measurement(self, spec: Spec, options: MeasurementOptions) -> "AveragePrecision":
        """Average precision on the test split, of masks too where model and data have some."""
        from training import data

        folder, limits = data_of(spec, options.data), limits_of(spec)
        if is_import(spec):
            images = data.held_out_objects(folder, limits=limits)
        else:
            images = data.load_objects(folder, spec.training.seed, limits=limits)
        images = with_classes_of(spec, images)
        return AveragePrecision(spec, images, is_recorded=is_trained_on(spec, options.data))


class AveragePrecision(PictureMeasurement):
    """mAP and AP50, from the score on from which training counted boxes."""

    def __init__(self, spec: Spec, images: Any, is_recorded: bool) -> None:
        from training.vision.detection.evaluation import LEAST

        super().__init__(spec, images, is_recorded)
        outlines = [outline is not None for example in images.test for outline in example.segmentations]
        has_outlines = len(outlines) == sum(len(example.labels) for example in images.test) and all(outlines)
        self.masks = bool(Export.open(spec.export_dir).postprocess.get("masks")) and has_outlines
        self.headers = {
            "confidence_threshold": str(LEAST),
            **({"masks": "compressed_rle"} if self.masks else {}),
        }

    def score(self, answers: list[Any]) -> dict[str, float]:
        """COCO's average precision of boxes, and of masks."""
        import torch

        from training.vision.detection.evaluation import Found, mask_precision, precision_recall

        index = {name: position for position, name in enumerate(self.images.classes)}
        detections = [
            Found(
                torch.tensor([item["bbox"] for item in answer["detections"]]).reshape(-1, 4),
                torch.tensor([item["score"] for item in answer["detections"]]),
                torch.tensor([index[item["class"]] for item in answer["detections"]], dtype=torch.int64),
                [item["mask"] for item in answer["detections"]] if self.masks else None,
            )
            for answer in answers
        ]
        summary, _ = precision_recall(detections, self.images.test)
        return {**summary, **(mask_precision(detections, self.images.test) if self.masks else {})}


def draw_boxes(image: Any, detections: list[dict[str, Any]], scale: float) -> Any:
    """`image`, enlarged by `scale`, with the boxes, scores and masks of `detections`."""
    from PIL import ImageDraw

    image = draw_masks(image, detections, scale)
    pen = ImageDraw.Draw(image)
    letters, line = font(max(image.size)), max(2, max(image.size) // 240)
    for item in reversed(detections):  # the surest on top
        color = COLORS[item["class_index"] % len(COLORS)]
        x1, y1, x2, y2 = (edge * scale for edge in item["bbox"])
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=line)
        text = f"{item['class']} {item['score']:.2f}"
        left, top, right, bottom = pen.textbbox((0, 0), text, font=letters)
        width, height = right - left + 6, bottom - top + 6
        corner = (min(max(0, x1), image.width - width), y1 - height if y1 >= height else y1)
        pen.rectangle((*corner, corner[0] + width, corner[1] + height), fill=color)
        pen.text((corner[0] + 3 - left, corner[1] + 3 - top), text, fill="black", font=letters)
    return image


def draw_masks(image: Any, detections: list[dict[str, Any]], scale: float) -> Any:
    """The picture with the masks of the detections that have one, the surest on top."""
    from PIL import Image, ImageDraw

    from handlers.inputs.masks import read_mask

    for item in reversed([item for item in detections if "mask" in item]):
        inside = Image.new("L", image.size)
        if "polygons" in item["mask"]:
            pen = ImageDraw.Draw(inside)
            for polygon in item["mask"]["polygons"]:
                pen.polygon([edge * scale for edge in polygon], fill=140)
        else:
            pixels = read_mask(item["mask"])
            if pixels is None:
                raise CallError("an answer with a broken mask can't be drawn")
            whole = Image.fromarray(pixels).convert("L").resize(image.size)
            inside = whole.point(lambda value: 140 if value > 127 else 0)
        image.paste(COLORS[item["class_index"] % len(COLORS)], mask=inside)
    return image


KIND = DetectorKind()
