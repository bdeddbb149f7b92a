"""Pictures and boxes for training a detector: prepared once by the transform that serves, augmented in whole batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch.nn import functional

from marina.errors import CallError
from training.datasets import Example, coco
from training.detection.architectures import Targets
from training.running import batches

from bundle_images import ImageInput, boxes_to_input, open_image, prepare, view_of_size

GREY = 114 / 255  # what letterbox pads with
MAX_BYTES = 4 << 30  # of prepared pixels, which lie in memory


@dataclass(frozen=True)
class Prepared:
    """Pictures as the graph takes them, uint8 [N, 3, height, width], with their sizes before (width, height) and their objects."""

    pixels: torch.Tensor
    sizes: list[tuple[int, int]]
    targets: Targets

    @classmethod
    def of(cls, examples: Sequence[Example], inputs: ImageInput, what: str, masks: bool = False) -> "Prepared":
        """Read and prepare all `examples` by the serving transform, behind a progress bar; with the objects' masks if asked for.

        Raises CallError for more than MAX_BYTES of pixels, and for an object without a mask.
        """
        layers = 3 * len(examples) + (sum(len(example.labels) for example in examples) if masks else 0)
        needed = layers * inputs.height * inputs.width
        if needed > MAX_BYTES:
            raise CallError(
                f"{len(examples):,} {what} need {needed / 1e9:.0f} GB at this size; set a smaller height and width or take fewer"
            )
        pixels = torch.empty(len(examples), 3, inputs.height, inputs.width, dtype=torch.uint8)
        sizes: list[tuple[int, int]] = []
        targets: Targets = []
        for k, example in enumerate(track(examples, f"preparing {what}", transient=True)):
            image = open_example(example)
            pixels[k] = torch.from_numpy(prepare(image, inputs))
            sizes.append(image.size)
            boxes = torch.from_numpy(boxes_to_input(example.boxes, image.size, inputs))
            targets.append({"boxes": boxes, "labels": torch.from_numpy(example.labels)})
            if masks:
                layers_of_it = [fitted(one, inputs, outside=0) for one in object_masks(example, *image.size)]
                empty = torch.zeros(0, inputs.height, inputs.width, dtype=torch.uint8)
                targets[-1]["masks"] = torch.from_numpy(np.stack(layers_of_it)) if layers_of_it else empty
        return cls(pixels, sizes, targets)


def open_example(example: Example) -> Image.Image:
    """The picture, RGB."""
    if isinstance(example.image, Path):
        return open_image(example.image.read_bytes(), max_bytes=1 << 30, max_pixels=1 << 28)  # one's own files, not a stranger's
    return Image.fromarray(example.image).convert("RGB")


def object_masks(example: Example, width: int, height: int) -> np.ndarray:
    """The pixels of each object, uint8 [N, height, width] of 0 and 1. Raises CallError where an object has no outline that can be read."""
    masks = np.zeros((len(example.labels), height, width), np.uint8)
    for k in range(len(masks)):
        try:
            masks[k] = coco.filled(example.segmentations[k] if k < len(example.segmentations) else None, width, height)
        except (ValueError, TypeError, KeyError) as error:
            wanted = 'give COCO json with a "segmentation" (polygons or RLE) per object, or choose a detector without masks'
            raise CallError(f"{example.image}: object {k + 1} has no outline: {error}; {wanted}") from error
    return masks


def fitted(labels: np.ndarray, inputs: ImageInput, outside: int) -> np.ndarray:
    """What uint8 [H, W] says of a picture's pixels, as the graph sees them: uint8 [height, width], `outside` where it shows no picture."""
    size = (labels.shape[1], labels.shape[0])
    _, _, right, bottom = view_of_size(size, inputs)
    inner = (max(1, round(inputs.width * size[0] / right)), max(1, round(inputs.height * size[1] / bottom)))
    whole = np.full((inputs.height, inputs.width), outside, np.uint8)
    whole[: inner[1], : inner[0]] = np.array(Image.fromarray(labels).resize(inner, Image.Resampling.NEAREST))
    return whole


class Batches(batches.Batches[tuple[torch.Tensor, Targets]]):
    """Shuffled, augmented batches: (float32 [B, 3, height, width] in 0..255, their objects). A short rest is left out."""

    def __init__(self, prepared: Prepared, batch_size: int, light: bool, flip: bool | str, seed: int) -> None:
        super().__init__(seed)
        self.prepared, self.light, self.flip = prepared, light, flip
        self.size = min(batch_size, len(prepared.pixels))

    def __len__(self) -> int:
        return len(self.prepared.pixels) // self.size

    def order(self) -> Sequence[Sequence[int]]:
        """All pictures, shuffled."""
        return batches.shuffled(len(self.prepared.pixels), self.size, self.generator)

    def batch(self, rows: Sequence[int]) -> tuple[torch.Tensor, Targets]:
        """Pictures and objects, augmented."""
        pixels = self.prepared.pixels[rows].float()
        targets = [self.prepared.targets[k] for k in rows]
        if self.light or self.flip:
            pixels, targets = augment(pixels, targets, self.light, self.flip, self.generator)
        return pixels, targets


def augment(
    pixels: torch.Tensor, targets: Targets, light: bool, flip: bool | str, generator: torch.Generator
) -> tuple[torch.Tensor, Targets]:
    """Other scales and places, brightness, contrast and tints (`light`), and mirror images (`flip`, "both" for upside down too).

    Same shapes and units.

    An object of which less than half stays in the picture is no object any more; the others' boxes are cut at the edge.
    """
    x, scale, shift, grid = view(pixels, light, flip, generator)
    height, width = pixels.shape[-2:]
    return x, [_move(target, scale[k], shift[k], grid[k : k + 1], width, height) for k, target in enumerate(targets)]


def view(
    pixels: torch.Tensor, light: bool, flip: bool | str, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures [B, 3, H, W] of 0..255 seen otherwise, as `augment` says: (pictures, scale [B, 2], shift [B, 2], grid [B, H, W, 2]).

    A place from -1 to 1 goes to place x scale + shift; the grid is grid_sample's, the same way back.
    """

    def between(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(len(pixels), *shape, generator=generator)

    scale = torch.exp(between(-0.25, 0.25, 1) + between(-0.12, 0.12, 2)) if light else torch.ones(len(pixels), 2)
    shift = between(-0.15, 0.15, 2) if light else torch.zeros(len(pixels), 2)
    for axis in (0, 1) if flip == "both" else (0,) if flip else ():
        scale[:, axis] *= torch.where(torch.rand(len(pixels), generator=generator) < 0.5, -1.0, 1.0)
    # grid_sample asks for the way back: where in the old picture a place of the new one lies, both from -1 to 1
    theta = torch.cat([torch.diag_embed(1 / scale), (-shift / scale)[:, :, None]], dim=2)
    grid = functional.affine_grid(theta, list(pixels.shape), align_corners=False)
    x = functional.grid_sample(pixels / 255 - GREY, grid, align_corners=False) + GREY
    if light:
        x = (x - 0.5) * between(0.7, 1.3, 1, 1, 1) + 0.5 + between(-0.15, 0.15, 1, 1, 1) + between(-0.06, 0.06, 3, 1, 1)
    return (x * 255).clamp(0, 255), scale, shift, grid


def _move(
    target: dict[str, torch.Tensor], scale: torch.Tensor, shift: torch.Tensor, grid: torch.Tensor, width: int, height: int
) -> dict[str, torch.Tensor]:
    half = torch.tensor([width / 2, height / 2])
    corners = (target["boxes"].view(-1, 2, 2) / half - 1) * scale + shift
    corners = ((corners + 1) * half).sort(dim=1).values  # a mirror image swaps left and right
    inside = corners.clamp(min=0).minimum(half * 2)
    whole, left = ((box[:, 1] - box[:, 0]).prod(1) for box in (corners, inside))
    keep = (left >= whole / 2) & ((inside[:, 1] - inside[:, 0]) >= 2).all(1)
    moved = {"boxes": inside[keep].view(-1, 4), "labels": target["labels"][keep]}
    if "masks" in target:
        masks = target["masks"][keep].float()
        seen = functional.grid_sample(masks[None], grid, mode="nearest", align_corners=False)[0] if len(masks) else masks
        moved["masks"] = seen.round().to(torch.uint8)
    return moved
