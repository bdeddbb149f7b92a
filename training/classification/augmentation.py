"""Augmentation of classifiers: pictures varied one by one, batches mixed, spectra disturbed. All work on what the graph takes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from training.classification.settings import Learning

from bundle_clips import ClipInput
from bundle_images import ImageInput
from bundle_ink import CELLS

Augment = Callable[[torch.Tensor], torch.Tensor]  # uint8 [B, C, H, W] -> the same
Mix = Callable[
    [torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]
]  # float [B, C, H, W], int64 [B] -> mixed, shares [B, classes]


def augmentation(settings: Learning, config: ImageInput | ClipInput) -> Augment:
    """uint8 [B, C, H, W] -> the same, varied picture by picture; or [B, T, C, H, W], all frames of a clip alike."""
    varied = _varied(settings, config.image if isinstance(config, ClipInput) else config)
    if not settings.spectrum_noise:
        return varied
    return lambda images: disturb_spectrum(varied(images), settings.spectrum_noise)


def mix(settings: Learning, classes: int) -> Mix | None:
    """MixUp (Zhang et al. 2018) with Beta(0.2, 0.2), CutMix (Yun et al. 2019) with Beta(1, 1), or one of them at each step."""
    blend, paste = v2.MixUp(alpha=0.2, num_classes=classes), v2.CutMix(alpha=1.0, num_classes=classes)
    chosen: dict[str, Mix | None] = {"none": None, "mixup": blend, "cutmix": paste, "either": v2.RandomChoice([blend, paste])}
    return chosen[settings.mix]


def _varied(settings: Learning, config: ImageInput) -> Augment:
    """RandAugment is Cubuk et al. 2020 (two operations of magnitude 9), TrivialAugment is Müller and Hutter 2021 (one, any magnitude)."""
    if settings.augmentation == "none":
        return lambda images: images
    if config.fit == "ink":
        return vary_strokes
    light = v2.ColorJitter(0.2, 0.2, 0.2) if config.mode == "RGB" else v2.ColorJitter(0.2, 0.2)
    last = {"light": light, "randaugment": v2.RandAugment(), "trivialaugment": v2.TrivialAugmentWide()}[settings.augmentation]
    one = v2.Compose(
        [
            v2.RandomResizedCrop((config.height, config.width), scale=(0.5, 1.0), ratio=(0.8, 1.25), antialias=True),
            v2.RandomHorizontalFlip(0.5 if settings.mirror else 0.0),
            last,
        ]
    )
    return lambda images: torch.stack([one(image) for image in images])


def vary_strokes(images: torch.Tensor) -> torch.Tensor:
    """Other hands: turned, sheared, scaled and shifted, with thinner and thicker strokes, back on the raster of `bundle_ink`."""
    count, device = len(images), images.device

    def draw(low: float, high: float) -> torch.Tensor:
        return torch.empty(count, device=device).uniform_(low, high)

    turn, shear, wide, high = draw(-0.22, 0.22), draw(-0.25, 0.25), draw(0.85, 1.35), draw(0.9, 1.15)
    matrix = torch.stack(
        [
            torch.stack([wide * turn.cos(), shear - high * turn.sin(), draw(-0.14, 0.14)], 1),
            torch.stack([wide * turn.sin(), high * turn.cos(), draw(-0.1, 0.1)], 1),
        ],
        1,
    )
    pixels = images.float()
    pixels = F.grid_sample(pixels, F.affine_grid(matrix, list(pixels.shape), align_corners=False), align_corners=False)
    change = draw(-1, 1).view(-1, 1, 1, 1)
    thinner, thicker = -F.max_pool2d(-pixels, 3, 1, 1), F.max_pool2d(pixels, 3, 1, 1)
    pixels = pixels + change.clamp(min=0) * (thicker - pixels) + change.clamp(max=0) * (pixels - thinner)
    cells = F.adaptive_avg_pool2d(pixels, CELLS)
    return F.interpolate(cells, images.shape[-2:], mode="bicubic").clamp(0, 255).round().to(torch.uint8)


def disturb_spectrum(images: torch.Tensor, deviation: float) -> torch.Tensor:
    """uint8 [B, C, H, W] -> the same with noise on the amplitudes and phases of each picture's Fourier spectrum.

    Phases get Gaussian noise of up to `deviation` radians, amplitudes a log-normal factor of the same deviation; how much is
    drawn anew for each picture, the channels share it, and the mean stays. That amplitudes may be disturbed and phases carry the
    form is Xu et al. 2021 ("A Fourier-based framework for domain generalization", section 3.2) and Chen et al. 2021
    ("Amplitude-phase recombination"); they take another picture's amplitudes where this draws noise.
    """
    pixels = images.float()
    spectrum = torch.fft.rfft2(pixels)
    shape = (len(images), 1, *spectrum.shape[-2:])
    strength = deviation * torch.rand(len(images), 1, 1, 1, device=images.device)
    amplitude, phase = (strength * torch.randn(shape, device=images.device) for _ in range(2))
    amplitude[..., 0, 0] = phase[..., 0, 0] = 0
    disturbed: torch.Tensor = torch.fft.irfft2(spectrum * torch.polar(amplitude.exp(), phase), s=pixels.shape[-2:])
    return disturbed.clamp(0, 255).round().to(torch.uint8)
