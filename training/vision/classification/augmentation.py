"""Augmentation for classifiers: transforms of single pictures, mixing within a batch, Fourier noise. All work
on the graph's input.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from handlers.inputs.clips import ClipInput
from handlers.inputs.images import ImageInput
from handlers.inputs.ink import CELLS
from training.vision.classification.settings import ClassifierSettings
from training.vision.transforms import build, of_batch

Augment = Callable[[torch.Tensor], torch.Tensor]  # uint8 [B, C, H, W] -> the same
Mix = Callable[
    [torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]
]  # float [B, C, H, W], int64 [B] -> mixed, shares [B, classes]


def augmentation(settings: ClassifierSettings, config: ImageInput | ClipInput) -> Augment:
    """The transform of a batch, uint8 [B, C, H, W], drawn for each picture; or of clips [B, T, C, H, W], with
    the same draw for all frames of a clip.
    """
    varied = _varied(settings, config.image if isinstance(config, ClipInput) else config)
    if not settings.fourier_noise:
        return varied
    return lambda images: add_fourier_noise(varied(images), settings.fourier_noise)


def mix(settings: ClassifierSettings, classes: int) -> Mix | None:
    """MixUp (Zhang et al. 2018) with Beta(0.2, 0.2), CutMix (Yun et al. 2019) with Beta(1, 1), or at each
    step one of both at random.
    """
    blend, paste = v2.MixUp(alpha=0.2, num_classes=classes), v2.CutMix(alpha=1.0, num_classes=classes)
    if settings.mixup and settings.cutmix:
        return v2.RandomChoice([blend, paste])  # type: ignore[no-any-return]
    return blend if settings.mixup else paste if settings.cutmix else None


def _varied(settings: ClassifierSettings, config: ImageInput) -> Augment:
    """The transform without Fourier noise.

    RandAugment: Cubuk et al. 2020, two operations of magnitude 9. TrivialAugment: Müller and Hutter 2021,
    one operation of random magnitude.
    """
    if settings.augmentation == "none":
        return lambda images: images
    if isinstance(settings.augmentation, list):
        return of_batch(build(settings.augmentation, (config.height, config.width)))
    if config.fit == "ink":
        return vary_strokes
    light = v2.ColorJitter(0.2, 0.2, 0.2) if config.mode == "RGB" else v2.ColorJitter(0.2, 0.2)
    last = {"light": light, "randaugment": v2.RandAugment(), "trivialaugment": v2.TrivialAugmentWide()}[
        settings.augmentation
    ]
    one = v2.Compose(
        [
            v2.RandomResizedCrop(
                (config.height, config.width), scale=(0.5, 1.0), ratio=(0.8, 1.25), antialias=True
            ),
            v2.RandomHorizontalFlip(0.5 if settings.horizontal_flip else 0.0),
            last,
        ]
    )
    return lambda images: torch.stack([one(image) for image in images])


def vary_strokes(images: torch.Tensor) -> torch.Tensor:
    """Vary handwriting: rotate, shear, scale and shift it, make its strokes thinner or thicker, and sample it
    again on the raster of `inputs.ink`.
    """
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
    pixels = F.grid_sample(
        pixels, F.affine_grid(matrix, list(pixels.shape), align_corners=False), align_corners=False
    )
    change = draw(-1, 1).view(-1, 1, 1, 1)
    thinner, thicker = -F.max_pool2d(-pixels, 3, 1, 1), F.max_pool2d(pixels, 3, 1, 1)
    pixels = pixels + change.clamp(min=0) * (thicker - pixels) + change.clamp(max=0) * (pixels - thinner)
    cells = F.adaptive_avg_pool2d(pixels, CELLS)
    return F.interpolate(cells, images.shape[-2:], mode="bicubic").clamp(0, 255).round().to(torch.uint8)


def add_fourier_noise(images: torch.Tensor, deviation: float) -> torch.Tensor:
    """Add noise to the amplitudes and phases of each picture's Fourier spectrum, uint8 [B, C, H, W].

    Phases get Gaussian noise of up to `deviation` radians, amplitudes a log-normal factor of the same
    deviation. The strength is drawn per picture, its channels share the noise, and its mean stays. After Xu
    et al. 2021 ("A Fourier-based framework for domain generalization", section 3.2) and Chen et al. 2021
    ("Amplitude-phase recombination"), who show that phases carry the shape; they swap in the amplitudes of
    another picture, this draws noise.
    """
    pixels = images.float()
    spectrum = torch.fft.rfft2(pixels)
    shape = (len(images), 1, *spectrum.shape[-2:])
    strength = deviation * torch.rand(len(images), 1, 1, 1, device=images.device)
    amplitude, phase = (strength * torch.randn(shape, device=images.device) for _ in range(2))
    amplitude[..., 0, 0] = phase[..., 0, 0] = 0
    disturbed: torch.Tensor = torch.fft.irfft2(
        spectrum * torch.polar(amplitude.exp(), phase), s=pixels.shape[-2:]
    )
    return disturbed.clamp(0, 255).round().to(torch.uint8)
