"""Augmentation by name: torchvision's transforms (v2) with their arguments, as a spec lists them, in order.

    augmentation:
      - RandomRotation: {degrees: 15}
      - RandomApply: {transforms: [{GaussianBlur: {kernel_size: 5}}], p: 0.3}
      - RandomHorizontalFlip

They see pictures as the graph does, uint8 [3, height, width]; boxes and masks follow. What they make
larger or smaller is resized to the graph's input again.
"""

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import AfterValidator
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

GREY = 114  # what letterbox pads with
LEAST_PIXELS = 2  # an object that is narrower is none any more
NESTED = ("RandomApply", "RandomChoice", "RandomOrder", "Compose")
# those that give something else than a picture of 0..255, or that need a batch or code
EXCLUDED = {
    *("ConvertBoundingBoxFormat", "ConvertImageDtype", "CutMix", "FiveCrop", "Identity", "Lambda"),
    *("LinearTransformation", "MixUp", "Normalize", "PILToTensor", "RGB", "SanitizeBoundingBoxes"),
    *("SanitizeKeyPoints", "SetClampingMode", "ClampBoundingBoxes", "ClampKeyPoints", "TenCrop", "ToDtype"),
    *("ToImage", "ToPILImage", "ToPureTensor", "ToTensor", "Transform", "UniformTemporalSubsample"),
}
Entry = str | dict[str, dict[str, Any] | None]


def known() -> dict[str, type[v2.Transform]]:
    """The transforms that a list may name."""
    every = {name: each for name, each in vars(v2).items() if inspect.isclass(each) and name not in EXCLUDED}
    return {name: each for name, each in every.items() if issubclass(each, v2.Transform)}


def build(entries: Sequence[Entry], size: tuple[int, int] = (64, 64), ignored: int = 0) -> v2.Compose:
    """The transforms of a list, for pictures of `size` (height, width); what comes from outside is gray, and
    `ignored` in masks.

    Raises ValueError, with near names, for what is unknown, and for arguments that a transform doesn't take.
    """
    return v2.Compose([_transform(entry, size, ignored) for entry in entries])


def _transform(entry: Entry, size: tuple[int, int], ignored: int) -> v2.Transform:
    name, given = _read(entry)
    classes = known()
    if name not in classes:
        raise ValueError(f"no transform {name!r} of torchvision.transforms.v2{_near(name, classes)}")
    takes = inspect.signature(classes[name]).parameters
    if unknown := [key for key in given if key not in takes]:
        hint = _near(unknown[0], takes)
        raise ValueError(f"{name} takes no {unknown[0]!r}{hint}; it takes {', '.join(takes)}")
    arguments = dict(given)
    if name in NESTED:
        inner = arguments.get("transforms")
        if not isinstance(inner, list) or not inner:
            raise ValueError(f"{name} needs transforms, a list as this one")
        arguments["transforms"] = [_transform(each, size, ignored) for each in inner]
    if "size" in takes and "size" not in given:
        arguments["size"] = size
    if "fill" in takes and "fill" not in given:
        arguments["fill"] = {tv_tensors.Mask: ignored, "others": GREY}
    try:
        return classes[name](**{key: _sequence(value) for key, value in arguments.items()})
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{name}: {error}") from error


def _read(entry: Entry) -> tuple[str, dict[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, dict) and len(entry) == 1:
        ((name, arguments),) = entry.items()
        if arguments is None or isinstance(arguments, dict):
            return str(name), dict(arguments or {})
    raise ValueError(f"write a transform as its name, or as {{NAME: {{argument: value}}}}, not {entry!r}")


def _sequence(value: Any) -> Any:
    """Lists as torchvision wants pairs; transforms stay a list."""
    is_pair = isinstance(value, list) and not any(isinstance(each, v2.Transform) for each in value)
    return tuple(value) if is_pair else value


def _near(name: str, names: Any) -> str:
    lower = {each.lower(): each for each in names}
    close = [lower[each] for each in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _checked(entries: list[Entry]) -> list[Entry]:
    if not entries:
        raise ValueError("the list is empty; say none for no augmentation")
    transforms = build(entries)
    picture = torch.zeros(3, 64, 64, dtype=torch.uint8)
    try:  # once, so that what fails says so before anything is read
        with torch.random.fork_rng():
            _resized(transforms(tv_tensors.Image(picture)), (64, 64))
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"the transforms can't be applied to a picture of uint8: {error}") from error
    return entries


Transforms = Annotated[list[Entry], AfterValidator(_checked)]


def of_batch(transforms: v2.Compose) -> Callable[[torch.Tensor], torch.Tensor]:
    """The transform of a batch uint8 [B, ..., C, H, W], drawn for each of it; all frames of a clip alike."""

    def vary(images: torch.Tensor) -> torch.Tensor:
        return torch.stack([_resized(transforms(image), images.shape[-2:]) for image in images])

    return vary


def with_boxes(
    transforms: v2.Compose, picture: torch.Tensor, target: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A picture, uint8 [3, H, W], and its objects: boxes [N, 4], labels [N] and perhaps masks [N, H, W].

    An object whose box keeps less than half of its area inside the picture is none any more, nor one narrower
    than LEAST_PIXELS.
    """
    height, width = picture.shape[-2:]
    canvas: Any = {"format": "XYXY", "canvas_size": (height, width), "clamping_mode": None}
    boxes: Any = tv_tensors.BoundingBoxes(target["boxes"], **canvas)
    wrapped: dict[str, Any] = {"boxes": boxes, "labels": target["labels"]}
    if "masks" in target:
        wrapped["masks"] = tv_tensors.Mask(target["masks"])
    seen, moved = transforms(tv_tensors.Image(picture), wrapped)
    if seen.shape[-2:] != (height, width):
        seen, moved = v2.Resize((height, width), antialias=True)(seen, moved)
    boxes = moved["boxes"].as_subclass(torch.Tensor).float()
    limit = torch.tensor([width, height, width, height])
    inside = boxes.clamp(min=0).minimum(limit)
    whole, left = ((each[:, 2:] - each[:, :2]).clamp(min=0).prod(1) for each in (boxes, inside))
    keep = (left >= whole / 2) & ((inside[:, 2:] - inside[:, :2]) >= LEAST_PIXELS).all(1)
    kept = {name: value.as_subclass(torch.Tensor)[keep] for name, value in moved.items()}
    return seen.as_subclass(torch.Tensor), {**kept, "boxes": inside[keep]}


def with_labels(
    transforms: v2.Compose, picture: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture, uint8 [3, H, W], and the class of every pixel, uint8 [H, W]."""
    size = list(labels.shape)
    seen, moved = transforms(tv_tensors.Image(picture), tv_tensors.Mask(labels[None]))
    if seen.shape[-2:] != labels.shape:
        moved = functional.resize(moved, size, interpolation=v2.InterpolationMode.NEAREST)
    return _resized(seen, labels.shape), moved.as_subclass(torch.Tensor)[0]


def _resized(image: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if image.shape[-2:] != tuple(size):
        image = functional.resize(image, list(size), antialias=True)
    return image.as_subclass(torch.Tensor)
