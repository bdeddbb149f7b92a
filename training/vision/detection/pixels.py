"""Pictures and boxes for training a detector: prepared once by the transform that serves, augmented in
whole batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, get_args

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from handlers.inputs.images import ImageInput, boxes_to_input, open_image, prepare, view_of_size
from marina.core.errors import CallError
from training.data import Example, coco
from training.runs import batches
from training.vision.detection.architectures import Targets
from training.vision.records import UNCACHED, Column, Record, Records, Storage, Stream, example_records
from training.vision.transforms import with_boxes

Flip = Literal["horizontal", "vertical"]
GREY = 114 / 255  # what letterbox pads with
MAX_PIXELS = 1 << 28  # of one's own pictures


def flips(horizontal: bool, vertical: bool) -> tuple[Flip, ...]:
    """The directions to mirror in."""
    directions: tuple[tuple[Flip, bool], ...] = (("horizontal", horizontal), ("vertical", vertical))
    return tuple(flip for flip, wanted in directions if wanted)


@dataclass(frozen=True)
class Prepared:
    """Pictures as the graph takes them, uint8 [N, 3, height, width], with their sizes before (width,
    height) and their objects.

    Where the pictures lie on disk, the objects' masks lie there with them.
    """

    pixels: torch.Tensor | Column
    sizes: list[tuple[int, int]]
    targets: Targets

    @classmethod
    def of(
        cls,
        examples: Sequence[Example],
        inputs: ImageInput,
        what: str,
        masks: bool = False,
        storage: Storage = UNCACHED,
    ) -> "Prepared":
        """Prepare `examples` by the serving transform, with the objects' masks if asked for: here, behind a
        progress bar, where they fit into memory, else when they are needed.

        The place of a picture that can't be read is taken by another one where the storage has findings for
        it. Raises CallError where it has none, and for an object without a mask.
        """
        records = _records(examples, inputs, masks, storage)
        sizes = [size_of(example) for example in examples]
        targets: Targets = [
            {
                "boxes": torch.from_numpy(boxes_to_input(example.boxes, size, inputs)),
                "labels": torch.from_numpy(example.labels),
            }
            for example, size in zip(examples, sizes, strict=True)
        ]
        if not storage.holds(records):
            return cls(Column(records, "pixels"), sizes, targets)
        pixels = torch.empty(len(examples), 3, inputs.height, inputs.width, dtype=torch.uint8)
        taken: Targets = []
        for place, (row, record) in enumerate(records.all(f"preparing {what}")):
            pixels[place] = record["pixels"]
            taken.append({**targets[row], **({"masks": record["masks"]} if masks else {})})
        return cls(pixels, sizes, taken)

    def ahead(self, steps: batches.Steps) -> Stream[tuple[torch.Tensor, Targets]]:
        """The pictures and objects of each step, read ahead where they lie on disk."""
        if isinstance(self.pixels, torch.Tensor):
            for rows in steps:
                yield self.pixels[rows], [self.targets[row] for row in rows]
            return
        for rows, read in self.pixels.records.ahead(steps):
            objects = [
                {**self.targets[row], **{name: value for name, value in record.items() if name == "masks"}}
                for row, record in zip(rows, read, strict=True)
            ]
            yield torch.stack([record["pixels"] for record in read]), objects


def _records(examples: Sequence[Example], inputs: ImageInput, masks: bool, storage: Storage) -> Records:
    """Records of "pixels", and of "masks" uint8 [objects, height, width] if asked for."""

    def make(row: int) -> Record:
        image = open_example(examples[row])
        record = {"pixels": torch.from_numpy(prepare(image, inputs))}
        if masks:
            fitted_ = [fitted(mask, inputs, outside=0) for mask in object_masks(examples[row], *image.size)]
            empty = torch.zeros(0, inputs.height, inputs.width, dtype=torch.uint8)
            record["masks"] = torch.from_numpy(np.stack(fitted_)) if fitted_ else empty
        return record

    most = max((len(example.labels) for example in examples), default=0) if masks else 0
    return example_records(
        examples, make, (3 + most) * inputs.height * inputs.width, [inputs.as_config(), masks], storage
    )


def size_of(example: Example) -> tuple[int, int]:
    """Width and height of the picture, upright."""
    if isinstance(example.image, np.ndarray):
        return example.image.shape[1], example.image.shape[0]
    return example.size or open_example(example).size


def two_pictures(pixels: torch.Tensor | Column) -> torch.Tensor:
    """The first two of uint8 [N, 3, height, width]; the first one twice where there is no other."""
    return pixels[:2] if len(pixels) > 1 else pixels[:1].repeat(2, 1, 1, 1)


def open_example(example: Example) -> Image.Image:
    """The picture, RGB."""
    if not isinstance(example.image, np.ndarray):
        # one's own files, not a stranger's
        content = example.image.read_bytes()
        return open_image(content, max_bytes=1 << 30, max_pixels=MAX_PIXELS, value_range=example.value_range)
    return Image.fromarray(example.image).convert("RGB")


Truth = TypeVar("Truth")


def object_masks(example: Example, width: int, height: int) -> np.ndarray:
    """The pixels of each object, uint8 [N, height, width] of 0 and 1. Raises CallError where an object has
    no outline that can be read.
    """
    masks = np.zeros((len(example.labels), height, width), np.uint8)
    for k in range(len(masks)):
        try:
            masks[k] = coco.filled(
                example.segmentations[k] if k < len(example.segmentations) else None, width, height
            )
        except (ValueError, TypeError, KeyError) as error:
            wanted = (
                'give COCO json with a "segmentation" (polygons or RLE) per object, or choose a detector '
                "without masks"
            )
            raise CallError(f"{example.image}: object {k + 1} has no outline: {error}; {wanted}") from error
    return masks


def fitted(labels: np.ndarray, inputs: ImageInput, outside: int) -> np.ndarray:
    """What uint8 [H, W] says of a picture's pixels, as the graph sees them: uint8 [height, width],
    `outside` where it shows no picture.
    """
    size = (labels.shape[1], labels.shape[0])
    _, _, right, bottom = view_of_size(size, inputs)
    inner = (max(1, round(inputs.width * size[0] / right)), max(1, round(inputs.height * size[1] / bottom)))
    whole = np.full((inputs.height, inputs.width), outside, np.uint8)
    whole[: inner[1], : inner[0]] = np.array(Image.fromarray(labels).resize(inner, Image.Resampling.NEAREST))
    return whole


class PictureBatches(batches.Batches[tuple[torch.Tensor, Truth]], Generic[Truth]):
    """Shuffled batches of prepared pictures with their truth; a subclass augments them. A short rest is left
    out.
    """

    def __init__(self, prepared: Any, batch_size: int, light: bool, flips: Sequence[Flip], seed: int) -> None:
        super().__init__(seed)
        self.prepared, self.light, self.flips = prepared, light, flips
        self.transforms: Any = None  # torchvision's, of each picture with its truth
        self.size = min(batch_size, len(prepared.pixels))

    def __len__(self) -> int:
        return len(self.prepared.pixels) // self.size

    def order(self) -> Sequence[Sequence[int]]:
        """All pictures, shuffled."""
        return batches.shuffled(len(self.prepared.pixels), self.size, self.generator)

    def read(self, steps: batches.Steps) -> Stream[tuple[torch.Tensor, Truth]]:
        """Pictures and their truth."""
        read: Stream[tuple[torch.Tensor, Truth]] = self.prepared.ahead(steps)
        return read


class Batches(PictureBatches[Targets]):
    """Augmented batches: (float32 [B, 3, height, width] in 0..255, their objects)."""

    def batch(self, read: tuple[torch.Tensor, Targets]) -> tuple[torch.Tensor, Targets]:
        """Pictures and objects, augmented."""
        pixels, targets = read
        if self.transforms is not None:
            seen = [with_boxes(self.transforms, *pair) for pair in zip(pixels, targets, strict=True)]
            pixels, targets = torch.stack([each for each, _ in seen]), [target for _, target in seen]
        pixels = pixels.float()
        if self.light or self.flips:
            pixels, targets = augment(pixels, targets, self.light, self.flips, self.generator)
        return pixels, targets


def augment(
    pixels: torch.Tensor, targets: Targets, light: bool, flips: Sequence[Flip], generator: torch.Generator
) -> tuple[torch.Tensor, Targets]:
    """Other scales and places, brightness, contrast and tints (`light`), and mirror images (`flips`).

    Same shapes and units. An object of which less than half stays in the picture is no object any more; the
    others' boxes are cut at the edge.
    """
    x, scale, shift, grid = view(pixels, light, flips, generator)
    height, width = pixels.shape[-2:]
    return x, [
        _move(target, scale[k], shift[k], grid[k : k + 1], width, height) for k, target in enumerate(targets)
    ]


def view(
    pixels: torch.Tensor, light: bool, flips: Sequence[Flip], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures [B, 3, H, W] of 0..255 seen otherwise, as `augment` says: (pictures, scale [B, 2], shift [B,
    2], grid [B, H, W, 2]).

    A place from -1 to 1 goes to place x scale + shift; the grid is grid_sample's, the same way back.
    """

    def between(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(len(pixels), *shape, generator=generator)

    scale = (
        torch.exp(between(-0.25, 0.25, 1) + between(-0.12, 0.12, 2)) if light else torch.ones(len(pixels), 2)
    )
    shift = between(-0.15, 0.15, 2) if light else torch.zeros(len(pixels), 2)
    for axis in [get_args(Flip).index(flip) for flip in flips]:
        scale[:, axis] *= torch.where(torch.rand(len(pixels), generator=generator) < 0.5, -1.0, 1.0)
    # grid_sample asks for the way back: where in the old picture a place of the new one lies, both from -1 to
    # 1
    theta = torch.cat([torch.diag_embed(1 / scale), (-shift / scale)[:, :, None]], dim=2)
    grid = functional.affine_grid(theta, list(pixels.shape), align_corners=False)
    x = functional.grid_sample(pixels / 255 - GREY, grid, align_corners=False) + GREY
    if light:
        x = (
            (x - 0.5) * between(0.7, 1.3, 1, 1, 1)
            + 0.5
            + between(-0.15, 0.15, 1, 1, 1)
            + between(-0.06, 0.06, 3, 1, 1)
        )
    return (x * 255).clamp(0, 255), scale, shift, grid


def _move(
    target: dict[str, torch.Tensor],
    scale: torch.Tensor,
    shift: torch.Tensor,
    grid: torch.Tensor,
    width: int,
    height: int,
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
        seen = (
            functional.grid_sample(masks[None], grid, mode="nearest", align_corners=False)[0]
            if len(masks)
            else masks
        )
        moved["masks"] = seen.round().to(torch.uint8)
    return moved
