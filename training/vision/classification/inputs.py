"""What a classifier learns from: pictures as the graph takes them, or what a frozen body makes of them,
computed once and kept.

Pictures are brought to the graph's input once, by the transform that serves (`inputs.images.prepare`): one
uint8 tensor of pictures x channels x height x width bytes, 150 KB for an RGB picture of 224, in memory or on
disk as `records` says. Pictures from files are kept in cache/pictures/ and features in cache/features/, under
a key of all that they depend on.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import TensorDataset

from handlers.inputs.clips import ClipInput, prepare_clip
from handlers.inputs.images import ImageInput, open_input, prepare
from handlers.protocol.errors import RequestError
from marina.core.errors import CallError
from training.data import Example, fingerprint
from training.data.clip_folder import Clip
from training.findings import Findings
from training.vision.classification.augmentation import Augment, augmentation
from training.vision.classification.networks import Classifier
from training.vision.classification.settings import ClassifierSettings
from training.vision.record_cache import RecordCache
from training.vision.records import (
    UNCACHED,
    Column,
    ColumnDataset,
    LaterTensor,
    Record,
    Records,
    Rows,
    Storage,
    example_records,
)

BATCH = 32


def picture(example: Example, config: ImageInput | ClipInput) -> torch.Tensor:
    """One picture as the graph takes it, uint8 [C, H, W]; or one clip, uint8 [T, C, H, W]."""
    if isinstance(config, ClipInput):
        assert isinstance(example, Clip)
        return torch.from_numpy(prepare_clip(example.chosen(config), config))
    if not isinstance(example.image, np.ndarray):
        return torch.from_numpy(prepare(open_input(example.image.read_bytes(), config).image, config))
    return torch.from_numpy(prepare(Image.fromarray(example.image).convert(config.mode), config))


def stack_pictures(examples: Sequence[Example], config: ImageInput | ClipInput) -> torch.Tensor:
    """Examples as the graph takes them, in one batch, without those that can't be read."""
    pictures = []
    for example in examples:
        with suppress(RequestError, OSError):
            pictures.append(picture(example, config))
    return torch.stack(pictures)


def truths(examples: Sequence[Example], several: int = 0) -> torch.Tensor:
    """The labels of examples, int64 [N]; of those with `several` possible ones float32 [N, several], 0 and
    1.
    """
    if not several:
        return torch.tensor([example.label for example in examples])
    table = torch.zeros(len(examples), several)
    for row, example in enumerate(examples):
        table[row, torch.from_numpy(example.labels)] = 1
    return table


def pixels(
    examples: Sequence[Example],
    config: ImageInput | ClipInput,
    storage: Storage = UNCACHED,
    later: bool = False,
    several: int = 0,
) -> Rows:
    """All pictures, uint8 [N, C, H, W], or clips, uint8 [N, T, C, H, W], and their `truths`.

    In memory they are prepared here, or `later` when they are first needed, unless the cache has them; on
    disk when they are needed. Raises CallError for one that can't be read, if the storage has no findings
    for it.
    """
    what = "clips" if isinstance(config, ClipInput) else "pictures"
    labels = truths(examples, several)
    known = labels.clone()
    records = _pictures(examples, config, what, storage)
    if not storage.holds(records):
        return ColumnDataset(Column(records, "pixels"), labels)

    def prepared() -> torch.Tensor:
        images = torch.empty((len(examples), *_shape(config)), dtype=torch.uint8)
        read = records.all(f"preparing {what}", quiet=records.cache is None)
        for place, (row, record) in enumerate(read):
            images[place], labels[place] = record["pixels"], known[row]
        return images

    if later:
        return ColumnDataset(LaterTensor(prepared, len(examples)), labels)
    return TensorDataset(prepared(), labels)


def _pictures(
    examples: Sequence[Example], config: ImageInput | ClipInput, what: str, storage: Storage
) -> Records:
    """Records of "pixels"; kept on disk where the examples are files, or too many for memory."""

    def make(row: int) -> Record:
        return {"pixels": picture(examples[row], config)}

    return example_records(
        examples, make, math.prod(_shape(config)), [config.as_config()], storage, folder=what
    )


def _shape(config: ImageInput | ClipInput) -> tuple[int, ...]:
    return (config.frames, *config.image.shape) if isinstance(config, ClipInput) else config.shape


def features(
    model: Classifier,
    examples: Sequence[Example],
    config: ImageInput | ClipInput,
    settings: ClassifierSettings,
    views: int,
    seed: int,
    findings: Findings | None = None,
    several: int = 0,
) -> Rows:
    """What reaches the head, float32 [N * views, …], with `truths`: cached, or computed and kept.

    The first view of a picture is the picture itself, the others are varied by the settings' augmentation,
    drawn from `seed`. The random numbers of the caller are left as they are. Pictures that can't be read go
    to the `findings` and are replaced by others. Raises CallError for one where there are no findings, and
    where features that don't fit into memory can't be kept on disk.
    """
    known = truths(examples, several)
    labels = known.repeat(views, *[1] * (known.ndim - 1))
    shape = _feature_shape(model, config)
    key = _read_by(model, examples, config) | _varied_by(settings, views, seed)
    key |= {"labels": several} if several else {}
    size = 4 * math.prod(shape)
    storage = settings.storage(findings)
    cache = RecordCache("features", [key], len(labels), size, storage.cache_bytes)

    def lost(row: int) -> Record:
        raise CallError(f"{cache.path} has lost feature {row}; train again")

    records = Records(len(labels), size, lost, lambda row: f"feature {row}", cache)
    table = torch.empty((len(labels), *shape)) if storage.holds(records) else None
    if not _read_features(records, labels, table):
        made = _pictures(examples, config, "pictures", Storage(0, 0, findings))
        augment = augmentation(settings, config)
        for row, picture_row, found in _computed(model, made, len(examples), augment, views, seed):
            labels[row] = known[picture_row]
            cache.put(row, {"features": found, "label": labels[row].clone()})
            if table is not None:
                table[row] = found
    model.cpu()
    if table is not None:
        return TensorDataset(table, labels)
    _check_complete(cache, len(labels) * size)
    return ColumnDataset(Column(records, "features"), labels)


def _check_complete(cache: RecordCache, size: int) -> None:
    """Raise CallError where not all features are kept; they take `size` bytes."""
    if not cache.is_complete:
        raise CallError(
            f"the features need {size / 1e9:.1f} GB in {cache.path.parent}, where there is no room; set a "
            "larger cache_gb, free some of the disk, or say fewer cached_views"
        )


def _feature_shape(model: Classifier, config: ImageInput | ClipInput) -> torch.Size:
    """What reaches the head of one picture; the model is then where it computes, in eval mode."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layout = torch.contiguous_format if isinstance(config, ClipInput) else torch.channels_last
    model.to(device, memory_format=layout).eval()  # type: ignore[call-overload]
    with torch.no_grad():
        empty = torch.zeros(1, *_shape(config), dtype=torch.uint8, device=device)
        return model.features(empty).shape[1:]


def _read_features(records: Records, labels: torch.Tensor, table: torch.Tensor | None) -> bool:
    """Whether the cache has all of them, undamaged; they are put into the table, where there is one."""
    assert records.cache is not None
    missing = 0
    for row in range(len(records)):
        found = records.cache.get(row)
        if found is None:
            missing += 1
            continue
        labels[row] = found["label"]
        if table is not None:
            table[row] = found["features"]
    return not missing


def _read_by(
    model: Classifier, examples: Sequence[Example], config: ImageInput | ClipInput
) -> dict[str, Any]:
    """What the features of the pictures themselves depend on, beside the architecture."""
    return {
        "weights": _body_digest(model),
        "pictures": fingerprint(examples),
        "input": config.as_config(),
        "both_ways": model.both_ways,
        "versions": [torch.__version__, torchvision.__version__],
    }


def _varied_by(settings: ClassifierSettings, views: int, seed: int) -> dict[str, Any]:
    """The architecture, and what the views beside the picture itself depend on."""
    by = {"seed": seed, **settings.model_dump(include={"augmentation", "horizontal_flip", "fourier_noise"})}
    return {"architecture": settings.architecture, "views": views, "varied": by if views > 1 else {}}


def _body_digest(model: Classifier) -> str:
    """Of all weights but the head's."""
    digest = hashlib.sha256()
    head = {id(parameter) for parameter in model.heads[0].parameters()}
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if id(value) not in head:
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _computed(
    model: Classifier, pictures: Records, count: int, vary: Augment, views: int, seed: int
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Row, the picture's own row and features: of all pictures as they are, then of all of them varied for
    the first time, and so on.
    """
    device = next(model.parameters()).device
    read = pictures.all("features of the frozen body")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for start in range(0, count, BATCH):
            rows, records = zip(*islice(read, BATCH), strict=True)
            batch = torch.stack([record["pixels"] for record in records]).to(device)
            for view in range(views):
                found = model.features(vary(batch) if view else batch).float().cpu()
                for k, feature in enumerate(found):
                    yield view * count + start + k, rows[k], feature.contiguous()
