"""Why a served graph answered as it did: where in a picture the evidence lies.

Classifiers are explained by Grad-CAM (Selvaraju et al. 2017) at the last layer that still has places, which
is found in the graph itself; networks without such a layer (transformers on tokens) by the gradient of the
pixels (Simonyan et al. 2013). Nothing of the graph is changed: weights get no
gradients. Policies are explained in `policy_saliency`.

What is not covered: detectors, and how far an explanation is to be trusted; both methods look at one picture
alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import fx

from ..inputs.images import View
from ..protocol.errors import BadRequest, ModelError, NotSupported

LARGEST_OVERLAY = 1024  # pixels of the longer side
LARGEST_GRID = 32  # cells of the longer side
SAMPLES = 8  # of the heat per cell and axis
# turbo (Mikhailov 2019) without its dark ends, blue to red: told from most photos, from ink and from paper
COLORS = np.array(
    [(70, 117, 237), (27, 207, 213), (97, 252, 108), (209, 233, 52), (254, 155, 45), (240, 60, 30)]
)
OPAQUE = 0.6  # share of the colour where it is hottest
NO_GRADIENT = (
    "this model's scores have no gradient with respect to {}, so that they can't be explained; call "
    "/predictions"
)


@dataclass(frozen=True)
class HeatMap:
    """Where the evidence for class `target` lies.

    `values` is float32 [h, w] in 0..1, 1 the hottest, all 0 where nothing speaks for the class: equal cells
    over the whole of the graph's input. `logits` is what the graph answered, float [classes].
    """

    values: np.ndarray
    method: Literal["grad-cam", "saliency"]
    target: int
    logits: torch.Tensor


class GradCam:
    """Explains classes of a graph as `torch.export.load(...).module()` gives it: uint8 [B, C, H, W] -> logits
    [B, classes].

    `method` says how: "grad-cam" at `layer`, the last activation [B, C, h, w] that everything passes on its
    way from the picture to the logits, before it is pooled or flattened; "saliency" when there is none.
    Raises NotSupported for a graph that never has the picture in real numbers.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        path = _path(module.graph)
        spatial = _last_spatial(path)
        self.method: Literal["grad-cam", "saliency"] = "grad-cam" if spatial else "saliency"
        layer = spatial or next(
            (node for node in _bottlenecks(path) if _has_real_pixels(node, path[0])), None
        )
        if layer is None:
            raise NotSupported(NO_GRADIENT.format("the picture"))
        self.layer = layer

    def __call__(self, image: torch.Tensor, target: int | None = None) -> HeatMap:
        """Explain class `target` (by default the most probable one) of one picture, uint8 [1, C, H, W] on the
        graph's device.

        Raises BadRequest for a class that there isn't, NotSupported where no gradient leads back and
        ModelError where numbers are not finite.
        """
        with torch.inference_mode(False), torch.enable_grad():
            run = _FromLayer(self.module, self.layer)
            logits: torch.Tensor = run.run(image.clone())[0]
            chosen = int(logits.argmax()) if target is None else target
            if not 0 <= chosen < len(logits):
                raise BadRequest(
                    f"class {chosen} can't be explained; send a class index from 0 to {len(logits) - 1}"
                )
            gradient = gradient_of(logits[chosen], run.leaf, "the picture").float()[0]
        heat = (
            _grad_cam(run.leaf.detach().float()[0], gradient)
            if self.method == "grad-cam"
            else _saliency(gradient)
        )
        if not bool(heat.isfinite().all()):
            raise ModelError(
                "the explanation is not finite; the picture may be out of the range that the model was "
                "trained on"
            )
        values = (heat / heat.max() if bool(heat.max() > 0) else heat).cpu().numpy()
        return HeatMap(values, self.method, chosen, logits.detach())


def _grad_cam(activation: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """[C, h, w] each -> [h, w]: Selvaraju et al. 2017, equations 1 (weights of the channels) and 2 (their
    weighted sum).
    """
    weights = gradient.mean((1, 2), keepdim=True)
    heat: torch.Tensor = (weights * activation).sum(0).relu()
    return heat


def _saliency(gradient: torch.Tensor) -> torch.Tensor:
    """[C, H, W] -> [H, W]: Simonyan et al. 2013, section 3, blurred by a 56th of the longer side, as
    single pixels only flicker.
    """
    from torchvision.transforms.functional import gaussian_blur  # seconds, for those who ask

    size = gradient.abs().amax(0, keepdim=True)
    deviation = max(size.shape) / 56
    reach = math.ceil(2 * deviation)
    kernel = [2 * min(reach, side - 1) + 1 for side in (size.shape[2], size.shape[1])]
    blurred: torch.Tensor = gaussian_blur(size, kernel, [deviation, deviation])[0]
    return blurred


class _FromLayer(fx.Interpreter):
    """Runs a graph without gradients up to the value of `layer`, and from its copy `leaf` on with
    gradients.
    """

    def __init__(self, module: fx.GraphModule, layer: fx.Node) -> None:
        super().__init__(module)
        self.layer = layer
        self.leaf = torch.empty(0)

    def run_node(self, n: fx.Node) -> Any:
        """One node; called by `run` for each in turn."""
        with torch.set_grad_enabled(self.leaf.requires_grad):
            value = super().run_node(n)
        if n is not self.layer:
            return value
        self.leaf = value.detach().clone().requires_grad_()
        return self.leaf.clone()  # what follows may write into it, which a leaf forbids


def gradient_of(score: torch.Tensor, leaf: torch.Tensor, of: str, more: bool = False) -> torch.Tensor:
    """Of `score` by `leaf`; `more` where the graph is used again. Raises NotSupported where nothing
    differentiable leads there.
    """
    gradient = None
    if score.requires_grad:
        (gradient,) = torch.autograd.grad(score, leaf, retain_graph=more, allow_unused=True)
    if gradient is None:
        raise NotSupported(NO_GRADIENT.format(of))
    return gradient


def _path(graph: fx.Graph) -> list[fx.Node]:
    """The tensors on the way from the picture (the first input) to the output, which comes last, in the
    order of their making.
    """
    nodes, output = list(graph.nodes), graph.output_node()
    reached = {next(node for node in nodes if node.op == "placeholder")}
    for node in nodes:  # whole numbers like the size of the batch are no part of it
        if isinstance(node.meta.get("val"), torch.Tensor | tuple | list) and not reached.isdisjoint(
            node.all_input_nodes
        ):
            reached.add(node)
    needed = {output}
    for node in reversed(nodes):
        if node in needed:
            needed.update(reached.intersection(node.all_input_nodes))
    return [node for node in nodes if node in needed]


def _bottlenecks(path: Sequence[fx.Node]) -> list[fx.Node]:
    """Those of `path` that all the others before them must pass: when they are made nothing older is used
    any more.
    """
    place = {node: index for index, node in enumerate(path)}
    found, last_use = [], 0
    for index, node in enumerate(path[:-1]):
        if last_use <= index:
            found.append(node)
        last_use = max(last_use, *(place[user] for user in node.users if user in place))
    return found


def _last_spatial(path: Sequence[fx.Node]) -> fx.Node | None:
    """The last activation with places that all must pass, before pooling; None where weights work on
    places later, as on tokens.
    """
    place, picture = {node: index for index, node in enumerate(path)}, _shape(path[0])
    weighted = [
        node
        for node in path
        if any(arg not in place and _long(_shape(arg)) > 1 for arg in node.all_input_nodes)
    ]
    for node in reversed(_bottlenecks(path)):
        if "pool" not in str(node.target) and _like(_shape(node), picture):
            later = [_shape(other) for other in weighted if place[other] > place[node]]
            kept = all(_like(shape, picture) or _long(shape[1:]) < 2 for shape in later)
            return node if kept and len(later) < len(weighted) else None
    return None


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Sizes, 0 for one that varies (the batch's); () for what is no tensor."""
    value = node.meta.get("val")
    return (
        tuple(size if isinstance(size, int) else 0 for size in value.shape)
        if isinstance(value, torch.Tensor)
        else ()
    )


def _has_real_pixels(node: fx.Node, picture: fx.Node) -> bool:
    return _like(_shape(node), _shape(picture)) and node.meta["val"].is_floating_point()


def _long(sizes: Sequence[int]) -> int:
    """How many dimensions are longer than 1."""
    return sum(size > 1 for size in sizes)


def _like(shape: tuple[int, ...], picture: tuple[int, ...]) -> bool:
    """Whether `shape` is [B, C, h, w] with several places, in about the picture's proportions (channels at
    the end are not).
    """
    if len(shape) != 4 or len(picture) != 4 or min(*shape[2:], *picture[2:]) < 1 or shape[2] * shape[3] < 2:
        return False
    return 2 / 3 < (picture[2] / shape[2]) / (picture[3] / shape[3]) < 3 / 2


def overlay(image: Image.Image, values: np.ndarray, view: View) -> Image.Image:
    """The picture that was sent in RGB, reduced to 1024 pixels at most, with the heat laid over the part that
    `view` says.

    `values` is float32 [h, w] in 0..1; cold places show the picture, and so does everything outside the view.
    """
    shrink = max(1.0, max(image.size) / LARGEST_OVERLAY)
    size = (max(1, round(image.width / shrink)), max(1, round(image.height / shrink)))
    picture = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX), np.float32)
    heat = _resampled(values, view, image.size, size)
    steps = np.linspace(0, 1, len(COLORS))
    colours = np.stack([np.interp(heat, steps, channel) for channel in COLORS.T], axis=-1)
    # rises slowly at first, so that the view has no edge
    opacity = (OPAQUE * heat**2 * (3 - 2 * heat))[:, :, None]
    return Image.fromarray(np.round(picture * (1 - opacity) + colours * opacity).astype(np.uint8))


def on_image(values: np.ndarray, view: View, size: tuple[int, int]) -> np.ndarray:
    """The heat on equal cells over the whole of the picture of `size` (width, height): float32 [rows,
    columns] in 0..1.

    At most 32 cells along the longer side. Each is the mean over its area, 0 outside the view.
    """
    shrink = max(1.0, max(size) / LARGEST_GRID)
    columns, rows = (max(1, round(side / shrink)) for side in size)
    fine = _resampled(values, view, size, (columns * SAMPLES, rows * SAMPLES))
    cells: np.ndarray = fine.reshape(rows, SAMPLES, columns, SAMPLES).mean((1, 3))
    return cells


def _resampled(values: np.ndarray, view: View, size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """The heat at grid (columns, rows) of equal cells over a picture of `size`, float32 [rows, columns]; 0
    outside the view.
    """
    left, top, right, bottom = view
    rows, columns = values.shape
    # cells of `values` per pixel of the picture
    across, down = columns / (right - left), rows / (bottom - top)
    matrix = (across * size[0] / grid[0], 0, -left * across, 0, down * size[1] / grid[1], -top * down)
    heat = Image.fromarray(values.astype(np.float32))
    return np.asarray(heat.transform(grid, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)).clip(
        0, 1
    )
