"""Random views of pictures, for learning without labels: whole batches at a time, each picture with numbers
of its own.

A view is a part of the picture, perhaps mirrored, blurred and in other colours, as SimCLR's appendix A has
it; of `ink` (one figure on a plain ground) it is the figure by another hand, perhaps with a piece wiped out
(Zhong et al. 2020).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from training.vision.classification.augmentation import vary_strokes

LEAST_SIDE_TO_BLUR = 96  # pixels; smaller pictures have no detail to lose
WIPED = 0.4  # side of the piece, as a share of the picture's
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
# its hue is an angle in the plane of I and Q
YIQ = torch.tensor([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])


@dataclass(frozen=True)
class Views:
    """uint8 [B, C, H, W] -> another view of each, float32 of the same shape, 0..255."""

    least_part: float = 0.2  # of the picture's area
    mirror: bool = True
    colour: float = 0.5  # strength of the changes of colour and light, 0..1 (SimCLR's s)
    ink: bool = False

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """A view of each picture."""
        if self.ink:
            return _wiped(vary_strokes(images).float())
        pixels = self._part(images.float())
        if self.colour:
            pixels = self._coloured(pixels)
        return _blurred(pixels) if min(pixels.shape[-2:]) >= LEAST_SIDE_TO_BLUR else pixels

    def _part(self, pixels: torch.Tensor) -> torch.Tensor:
        """A part of random area, proportions (3:4 to 4:3) and place, turned, on the whole frame."""
        count, device = len(pixels), pixels.device
        area = _drawn(count, self.least_part, 1, device)
        proportion = _drawn(count, math.log(3 / 4), math.log(4 / 3), device).div(2).exp()
        wide, high = (area.sqrt() * proportion).clamp(max=1), (area.sqrt() / proportion).clamp(max=1)
        right, down = (1 - wide) * _drawn(count, -1, 1, device), (1 - high) * _drawn(count, -1, 1, device)
        sign = (
            torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
            if self.mirror
            else torch.ones(count, device=device)
        )
        none = torch.zeros(count, device=device)
        matrices = torch.stack(
            [torch.stack([sign * wide, none, right], 1), torch.stack([none, high, down], 1)], 1
        )
        grid = F.affine_grid(matrices, list(pixels.shape), align_corners=False)
        return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)

    def _coloured(self, pixels: torch.Tensor) -> torch.Tensor:
        """Light, contrast, saturation and hue, in four of five pictures; one in five without colour."""
        count, device, strength = len(pixels), pixels.device, 0.8 * self.colour
        some = (torch.rand(count, device=device) < 0.8).float()

        def factor() -> torch.Tensor:
            return (1 + some * _drawn(count, -strength, strength, device)).view(-1, 1, 1, 1)

        pixels = pixels * factor()
        mean = pixels.mean((1, 2, 3), keepdim=True)
        pixels = mean + (pixels - mean) * factor()
        if pixels.shape[1] == 3:
            turn = some * _drawn(count, -0.2 * self.colour, 0.2 * self.colour, device) * 2 * math.pi
            saturation = factor().flatten() * (torch.rand(count, device=device) >= 0.2).float()
            pixels = torch.einsum("bij,bjhw->bihw", _hue(turn, saturation), pixels)
        return pixels.clamp(0, 255)


def _wiped(pixels: torch.Tensor) -> torch.Tensor:
    """Half of the pictures without a square piece, black in its place."""
    count, device = len(pixels), pixels.device
    height, width = pixels.shape[-2:]
    rows = torch.arange(height, device=device).view(1, -1, 1) / height
    columns = torch.arange(width, device=device).view(1, 1, -1) / width
    top, left = (_drawn(count, -WIPED / 2, 1 - WIPED / 2, device).view(-1, 1, 1) for _ in range(2))
    inside = (rows >= top) & (rows < top + WIPED) & (columns >= left) & (columns < left + WIPED)
    inside &= torch.rand(count, 1, 1, device=device) < 0.5
    return pixels.masked_fill(inside[:, None], 0)


def _drawn(count: int, low: float, high: float, device: torch.device) -> torch.Tensor:
    return torch.empty(count, device=device).uniform_(low, high)


def _hue(turn: torch.Tensor, saturation: torch.Tensor) -> torch.Tensor:
    """Matrices [B, 3, 3] on red, green and blue that turn the hue by `turn` radians and scale the
    saturation.
    """
    basis = YIQ.to(turn.device)
    middle = torch.zeros(len(turn), 3, 3, device=turn.device)
    middle[:, 0, 0] = 1
    middle[:, 1, 1] = middle[:, 2, 2] = saturation * turn.cos()
    middle[:, 1, 2], middle[:, 2, 1] = -saturation * turn.sin(), saturation * turn.sin()
    matrices: torch.Tensor = torch.linalg.inv(basis) @ middle @ basis
    return matrices


def _blurred(pixels: torch.Tensor) -> torch.Tensor:
    """Half of the pictures under a Gaussian of up to two pixels, one width for all of a batch."""
    sigma = float(torch.empty(1).uniform_(0.1, 2.0))
    reach = math.ceil(2 * sigma)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1, device=pixels.device) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(pixels.shape[1], 1, 1)
    blurred = F.pad(pixels, (reach,) * 4, mode="reflect")
    blurred = F.conv2d(blurred, kernel[:, :, None, :], groups=pixels.shape[1])
    blurred = F.conv2d(blurred, kernel[:, :, :, None], groups=pixels.shape[1])
    some = torch.rand(len(pixels), 1, 1, 1, device=pixels.device) < 0.5
    return torch.where(some, blurred, pixels)
