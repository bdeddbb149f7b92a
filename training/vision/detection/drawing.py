"""The pictures of a detector's report: how it learned, how precision falls with recall, what it finds in
test pictures.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageColor, ImageDraw, ImageFont

from handlers.inputs.masks import read_mask
from training.data import Example, ImageData
from training.data.overview import draw_boxes
from training.runs.curves import draw_curves
from training.vision.detection.evaluation import Found, match_detections
from training.vision.detection.pixels import open_example

RIGHT, WRONG, MISSED = "#1a9850", "#d73027", "#fdae61"
COLUMNS, ROWS, CELL, WORST = 4, 5, 340, 12


def draw_report(
    history: Sequence[dict[str, float]],
    precision: np.ndarray,
    found: Sequence[Found],
    data: ImageData,
    report: Path,
) -> None:
    """curves.png, precision_recall.png, examples.png and worst.png in `report`; `found` is what is served."""
    measures = {"ap50": "AP50", "map": "mAP 50-95"}
    draw_curves(history, measures, "Validation average precision", report / "curves.png")
    precision_recall(precision, data.classes, report / "precision_recall.png")
    examples(found, data.test, data.classes, report / "examples.png")
    worst(found, data.test, data.classes, report / "worst.png")


def truth(pixels: torch.Tensor, target: dict[str, torch.Tensor], names: Sequence[str]) -> Image.Image:
    """A training picture, float32 [3, H, W] of 0..255, with its boxes."""
    image = Image.fromarray(pixels.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
    draw_boxes(image, target["boxes"].tolist(), [names[label] for label in target["labels"]], names)
    return image


def precision_recall(precision: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Precision over recall at IoU 0.5 per class, from [101, classes] with -1 where a class has no
    objects.
    """
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    recall = np.linspace(0, 1, len(precision))
    shown = [k for k in range(precision.shape[1]) if precision[0, k] >= 0]
    for k in shown[:20]:
        axes.plot(recall, precision[:, k], linewidth=1, label=f"{classes[k]}  {precision[:, k].mean():.3f}")
    if shown:
        axes.plot(
            recall,
            precision[:, shown].mean(1),
            color="black",
            linewidth=2.5,
            label=f"mean  {precision[:, shown].mean():.3f}",
        )
        figure.legend(loc="outside right upper", title="AP50", fontsize="small", frameon=False)
    axes.set(
        title="Precision over recall, test pictures, IoU 0.5",
        xlabel="recall",
        ylabel="precision",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def examples(found: Sequence[Found], truth: Sequence[Example], names: Sequence[str], path: Path) -> None:
    """Test pictures with what was found: right in green, wrong in red, missed in orange. Half of them have
    a fault, if there are.
    """
    verdicts = [match_detections(one, example) for one, example in zip(found, truth, strict=True)]
    faulty = [k for k, (right, taken) in enumerate(verdicts) if not (right.all() and taken.all())]
    well = [k for k in range(len(truth)) if k not in set(faulty)]
    many = COLUMNS * ROWS
    faults = min(len(faulty), max(many // 2, many - len(well)))
    rows = well[: many - faults] + faulty[:faults]
    _sheet([_drawn(truth[k], found[k], *verdicts[k], names) for k in rows], path)


def worst(found: Sequence[Found], truth: Sequence[Example], names: Sequence[str], path: Path) -> None:
    """The test pictures with the gravest faults, gravest first: each object that is missed counts 1, each
    false find its score.
    """
    verdicts = [match_detections(one, example) for one, example in zip(found, truth, strict=True)]
    gravity = [
        float((~taken).sum()) + float(one.scores.numpy()[~right].sum())
        for one, (right, taken) in zip(found, verdicts, strict=True)
    ]
    rows = [k for k in sorted(range(len(truth)), key=lambda k: -gravity[k])[:WORST] if gravity[k]]
    _sheet([_drawn(truth[k], found[k], *verdicts[k], names) for k in rows], path)


def _sheet(cells: list[Image.Image], path: Path) -> None:
    if not cells:
        return
    height = max(cell.height for cell in cells)
    sheet = Image.new(
        "RGB", (COLUMNS * (CELL + 8) + 8, -(-len(cells) // COLUMNS) * (height + 8) + 44), "white"
    )
    _legend(ImageDraw.Draw(sheet))
    for k, cell in enumerate(cells):
        sheet.paste(cell, (8 + k % COLUMNS * (CELL + 8), 40 + k // COLUMNS * (height + 8)))
    sheet.save(path)


def _legend(draw: ImageDraw.ImageDraw) -> None:
    left = 12.0
    font = ImageFont.load_default(18)
    for colour, text in (
        (RIGHT, "right, with its score"),
        (WRONG, "wrong class, bad box, or nothing there"),
        (MISSED, "missed"),
    ):
        draw.rectangle((left, 12, left + 18, 30), fill=colour)
        draw.text((left + 26, 10), text, fill="black", font=font)
        left += 60 + draw.textlength(text, font=font)


def _drawn(
    example: Example, found: Found, right: np.ndarray, taken: np.ndarray, names: Sequence[str]
) -> Image.Image:
    image = open_example(example)
    scale = CELL / max(image.size)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC
    )
    image = _shaded(image, found, right)
    draw = ImageDraw.Draw(image)
    for box, label in zip(example.boxes[~taken], example.labels[~taken], strict=True):
        _mark(draw, box * scale, names[label], MISSED, below=True)
    for box, label, score, good in zip(
        found.boxes.numpy(), found.labels.tolist(), found.scores.tolist(), right, strict=True
    ):
        _mark(draw, box * scale, f"{names[label]} {score:.2f}", RIGHT if good else WRONG)
    return image


def _shaded(image: Image.Image, found: Found, right: np.ndarray) -> Image.Image:
    """The picture with the masks laid on it, each in the colour of its box."""
    pixels = np.array(image, float)
    for sent, good in zip(found.masks or [], right, strict=False):
        whole = read_mask(sent)
        assert whole is not None
        mask = np.array(Image.fromarray(whole).resize(image.size, Image.Resampling.NEAREST))
        pixels[mask] = 0.5 * pixels[mask] + 0.5 * np.array(ImageColor.getrgb(RIGHT if good else WRONG))
    return Image.fromarray(pixels.astype(np.uint8))


def _mark(draw: ImageDraw.ImageDraw, box: np.ndarray, text: str, colour: str, below: bool = False) -> None:
    left, top, right, bottom = box.tolist()
    draw.rectangle((left, top, right, bottom), outline=colour, width=2)
    font = ImageFont.load_default(12)
    at = (left, min(bottom, CELL - 14)) if below else (left, max(0.0, top - 14))
    draw.rectangle(draw.textbbox(at, text, font=font), fill=colour)
    draw.text(at, text, fill="black" if colour == MISSED else "white", font=font)
