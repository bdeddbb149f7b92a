"""What a classifier learns from: pictures as the graph takes them, or what a frozen body makes of them, computed once and kept.

Pictures are brought to the graph's input once, by the transform that serves (`bundle_images.prepare`), and lie in memory as
one uint8 tensor of pictures x channels x height x width bytes: 1.5 GB for ten thousand RGB pictures of 224. Above
MAX_BYTES the call is refused. Prepared pictures from files are kept in cache/pictures/ and features in cache/features/, under a key
of all that they depend on and with a checksum; when a folder outgrows MAX_CACHE_BYTES, what was not used for longest goes.
"""

import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import PIL
import torch
import torchvision
from PIL import Image
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.utils.data import TensorDataset

from marina import paths
from marina.errors import CallError
from training import datasets
from training.classification.augmentation import augmentation
from training.classification.networks import Classifier
from training.classification.settings import Learning
from training.datasets.clip_folder import Clip

from bundle_clips import ClipInput, prepare_clip
from bundle_images import ImageInput, open_input, prepare

MAX_BYTES = 4 << 30
MAX_CACHE_BYTES = 4 << 30
BATCH = 32
FORMAT = 2  # of what is kept; a change of the augmentation, of `prepare` or of this module asks for the next number

log = logging.getLogger("marina")


def picture(example: datasets.Example, config: ImageInput | ClipInput) -> torch.Tensor:
    """One picture as the graph takes it, uint8 [C, H, W]; or one clip, uint8 [T, C, H, W]."""
    if isinstance(config, ClipInput):
        assert isinstance(example, Clip)
        return torch.from_numpy(prepare_clip(example.chosen(config), config))
    if isinstance(example.image, Path):
        return torch.from_numpy(prepare(open_input(example.image.read_bytes(), config).image, config))
    return torch.from_numpy(prepare(Image.fromarray(example.image).convert(config.mode), config))


def pixels(examples: Sequence[datasets.Example], config: ImageInput | ClipInput) -> TensorDataset:
    """All pictures, uint8 [N, C, H, W], or clips, uint8 [N, T, C, H, W], and their labels, int64 [N].

    They come from the cache, or are prepared and, where they are files, kept there. Raises CallError when they don't fit into MAX_BYTES.
    """
    image = config.image if isinstance(config, ClipInput) else config
    frames = (config.frames,) if isinstance(config, ClipInput) else ()
    shape = (*frames, 1 if image.mode == "L" else 3, image.height, image.width)
    what = "clips" if isinstance(config, ClipInput) else "pictures"
    _check_size(len(examples) * math.prod(shape), what, "set a smaller image_size or take fewer")
    from_files = any(isinstance(example.image, Path) for example in examples)
    said = [FORMAT, datasets.fingerprint(examples), config.as_config(), PIL.__version__] if from_files else []
    file = _file(what, said)
    images = _kept(file) if from_files else None
    if images is None:
        images = torch.empty((len(examples), *shape), dtype=torch.uint8)
        for row, one in enumerate(_pictures(examples, config, f"preparing {what}")):
            images[row] = one
        if from_files:
            _keep(file, images)
    return TensorDataset(images, _labels(examples))


def features(
    model: Classifier, examples: Sequence[datasets.Example], config: ImageInput | ClipInput, settings: Learning, views: int, seed: int
) -> TensorDataset:
    """What reaches the head, float32 [N * views, …], with labels: from the cache, or computed and kept there.

    The first view of a picture is the picture itself, the others are varied by the settings' augmentation, drawn from `seed`.
    The random numbers of the caller are left as they are. Raises CallError when the features don't fit into MAX_BYTES.
    """
    file = _file("features", [FORMAT, _relevant(model, examples, config, settings, views, seed)])
    found = _kept(file)
    if found is None:
        found = _computed(model, examples, config, settings, views, seed)
        _keep(file, found)
    return TensorDataset(found, _labels(examples).repeat(views))


def _relevant(
    model: Classifier, examples: Sequence[datasets.Example], config: ImageInput | ClipInput, settings: Learning, views: int, seed: int
) -> dict[str, Any]:
    """All that the features depend on."""
    varied = {"seed": seed, **settings.model_dump(include={"augmentation", "mirror", "spectrum_noise"})} if views > 1 else {}
    digest = hashlib.sha256()
    head = {id(parameter) for parameter in model.heads[0].parameters()}
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if id(value) not in head:
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return {
        "architecture": settings.architecture,
        "weights": digest.hexdigest(),
        "pictures": datasets.fingerprint(examples),
        "input": config.as_config(),
        "views": views,
        "both_ways": model.both_ways,
        "varied": varied,
        "versions": [torch.__version__, torchvision.__version__],
    }


def _computed(
    model: Classifier, examples: Sequence[datasets.Example], config: ImageInput | ClipInput, settings: Learning, views: int, seed: int
) -> torch.Tensor:
    """[views * N, …]: all pictures as they are, then all of them varied for the first time, and so on."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layout = torch.contiguous_format if isinstance(config, ClipInput) else torch.channels_last
    model.to(device, memory_format=layout).eval()  # type: ignore[call-overload]
    vary = augmentation(settings, config)
    table = torch.empty(0)
    made = _pictures(examples, config, "features of the frozen body")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for start in range(0, len(examples), BATCH):
            batch = torch.stack([next(made) for _ in examples[start : start + BATCH]]).to(device)
            for view in range(views):
                found = model.features(vary(batch) if view else batch).float().cpu()
                if not table.numel():
                    _check_size(4 * views * len(examples) * found[0].numel(), "features", "say fewer views, or take fewer pictures")
                    table = torch.empty((views, len(examples), *found.shape[1:]))
                table[view, start : start + BATCH] = found
    model.cpu()
    return table.flatten(0, 1)


def _file(folder: str, said: list[Any]) -> Path:
    """Where something lies that depends on what is `said`."""
    return paths.cache() / folder / f"{hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()}.safetensors"


def _kept(file: Path) -> torch.Tensor | None:
    try:
        with safe_open(file, "pt") as opened:
            found: torch.Tensor = opened.get_tensor("table").clone()  # of its own: the file may go
            if opened.metadata()["sha256"] != _digest(found):
                raise ValueError("its checksum is another")
        os.utime(file)  # used now
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        log.warning("%s can't be read (%s); what it held is computed again", file, error)
        return None
    return found


def _digest(table: torch.Tensor) -> str:
    return hashlib.sha256(table.numpy().data).hexdigest()


def _keep(file: Path, table: torch.Tensor) -> None:
    """Write through a file beside it, so that nobody reads half of one; a full or read-only disk only costs the next run time."""
    if table.nbytes > MAX_CACHE_BYTES:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
            temporary.write(save({"table": table.contiguous()}, {"sha256": _digest(table.contiguous())}))
        Path(temporary.name).chmod(0o644)  # tempfile keeps it private
        Path(temporary.name).replace(file)
        _bound(file.parent)
    except OSError as error:
        log.warning("what was computed was not kept in %s: %s", file.parent, error)


def _bound(folder: Path) -> None:
    """Take away what was not used for longest, until the rest is within MAX_CACHE_BYTES; also what a killed run left."""
    left = MAX_CACHE_BYTES
    for file in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True):
        left -= file.stat().st_size
        if left < 0:
            file.unlink(missing_ok=True)


def _pictures(examples: Sequence[datasets.Example], config: ImageInput | ClipInput, title: str) -> Iterator[torch.Tensor]:
    """The pictures in order, two prepared at a time, some ahead of what is taken."""
    from_files = any(isinstance(example.image, Path) for example in examples)
    with ThreadPoolExecutor(2) as pool:  # Pillow decodes and resizes without holding the interpreter
        parts = [examples[start : start + 8 * BATCH] for start in range(0, len(examples), 8 * BATCH)]
        rows = (image for part in parts for image in pool.map(lambda example: picture(example, config), part))
        yield from track(rows, title, total=len(examples), transient=True, disable=not from_files)


def _labels(examples: Sequence[datasets.Example]) -> torch.Tensor:
    return torch.tensor([example.label for example in examples])


def _check_size(needed: int, what: str, remedy: str) -> None:
    if needed > MAX_BYTES:
        raise CallError(f"the {what} need {needed / 1e9:.0f} GB, {MAX_BYTES / 1e9:.0f} are the most; {remedy}")
