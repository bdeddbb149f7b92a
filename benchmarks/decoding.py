"""Measures several paths from a JPEG to the graph's input, and how far each is from Pillow's.

    .venv/bin/marina bench decode                       # a photograph of scikit-learn's, with grain, at three
                                                        sizes
    .venv/bin/marina bench decode ~/pictures --side 64  # one's own files as they are, all together

The input is 224 x 224, a crop of 256, unless said otherwise. Printed are medians of the CPU milliseconds from
bytes to uint8 pixels, on one thread, and the largest and mean difference of those pixels from Pillow's, in
levels of 255. The paths take turns. "served" is what handlers do, with all checks. `pip install simplejpeg`
adds a path. A second table has what follows: from eight pictures of the input's size to one batch, by way of
arrays or straight into the slots that a worker keeps, before and after the first table. Once a process has
given back a large picture's memory, the C library keeps more of what is given back, so that arrays cost fewer
page faults.
"""

import argparse
import io
import json
import math
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_image

from handlers.inputs.batch_buffer import BatchBuffer
from handlers.inputs.images import ImageInput, open_input, prepare, view_of_size
from handlers.inputs.levels import in_mode

SIZES = ((500, 375), (1600, 1200), (4000, 3000))
PIXELS_TIMED = 30_000_000  # so many for each path and size, at least five pictures
BATCH, BATCHES_TIMED = 8, 200


def pillow(file: bytes, config: ImageInput) -> np.ndarray:
    """The reference: decode all, then resize the view."""
    return prepare(in_mode(Image.open(io.BytesIO(file)), config.mode), config)


def pillow_gap(file: bytes, config: ImageInput) -> np.ndarray:
    """Pillow's resize in two steps, the first a mean of whole blocks."""
    image = in_mode(Image.open(io.BytesIO(file)), config.mode)
    box = view_of_size(image.size, config)
    return _planes(
        image.resize((config.width, config.height), Image.Resampling.BILINEAR, box, reducing_gap=3.0)
    )


def pillow_draft(file: bytes, config: ImageInput) -> np.ndarray:
    """Pillow's own decoding at a fraction, never below twice what is needed."""
    image = Image.open(io.BytesIO(file))
    image.draft(config.mode, (2 * config.resize, 2 * config.resize))
    return prepare(in_mode(image, config.mode), config)


def from_memory(file: bytes, config: ImageInput) -> np.ndarray:
    """libjpeg-turbo without Pillow around it; its pixels are copied for Pillow's resize."""
    import simplejpeg

    return prepare(Image.fromarray(simplejpeg.decode_jpeg(file)), config)


def whole(file: bytes, config: ImageInput) -> np.ndarray:
    """As served, with nothing left out."""
    return served(file, replace(config, decode="exact"))


def served(file: bytes, config: ImageInput) -> np.ndarray:
    """What handlers do."""
    return prepare(open_input(file, config).image, config)


PATHS: dict[str, Callable[[bytes, ImageInput], np.ndarray]] = {
    "Pillow": pillow,
    "Pillow, reducing_gap 3": pillow_gap,
    "Pillow, draft": pillow_draft,
    **({"simplejpeg": from_memory} if find_spec("simplejpeg") else {}),
    "served, decode: exact": whole,
    "served, decode: fast": served,
}


def _planes(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image)[:, :, :3].transpose(2, 0, 1))


def photograph(width: int, height: int) -> bytes:
    """scikit-learn's temple, enlarged, with sensor noise in place of the missing detail."""
    photo = np.asarray(
        Image.fromarray(load_sample_image("china.jpg")).resize((width, height), Image.Resampling.LANCZOS),
        np.float32,
    )
    grain = np.random.default_rng(0).normal(0, 6, (height, width, 1)).astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray((photo + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def batching(side: int) -> dict[str, tuple[float, float]]:
    """Time ways from `BATCH` pictures to one batch.

    Returns way -> (median CPU microseconds per picture, mean page faults per batch).
    """
    config = ImageInput(side, side)
    image, slots = Image.effect_noise((side, side), 60).convert("RGB"), BatchBuffer(BATCH, config.shape)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "into arrays, then together": lambda: np.array([prepare(image, config) for _ in range(BATCH)]),
        "into the worker's slots": lambda: slots.together(
            [prepare(image, config, slot) for slot in slots.slots[:BATCH]]
        ),
    }
    spent: dict[str, list[tuple[float, int]]] = {name: [] for name in ways}
    for _ in range(BATCHES_TIMED):
        for name, way in ways.items():
            faults, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.thread_time()
            batch = way()
            del batch  # its memory goes back, as when a batch is answered
            seconds = time.thread_time() - started
            spent[name].append((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults))
    return {
        name: (
            1e6 * statistics.median(seconds for seconds, _ in samples) / BATCH,
            statistics.mean(count for _, count in samples),
        )
        for name, samples in spent.items()
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "pictures",
        nargs="*",
        type=Path,
        help="JPEG files and folders of them; default: made ones of three sizes",
    )
    parser.add_argument(
        "--side", type=int, default=224, help="of the graph's input, pixels; the crop is of 8/7 of that"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures there, as JSON")
    arguments = parser.parse_args()
    config = ImageInput(arguments.side, arguments.side, fit="crop", resize=arguments.side * 8 // 7)
    folders = [sorted(path.rglob("*.jpg")) if path.is_dir() else [path] for path in arguments.pictures]
    own = [file.read_bytes() for files in folders for file in files]
    batches = {"in a new process": batching(arguments.side)}
    groups = {f"{len(own)} files": own} if own else {f"{w} x {h}": [photograph(w, h)] for w, h in SIZES}
    table = Table("CPU ms (max, mean difference)", *groups)
    milliseconds = [_timed(files, config) for files in groups.values()]
    for name, path in PATHS.items():
        cells = (
            f"{ms[name]:.2f} ({_distance(path, files, config)})"
            for ms, files in zip(milliseconds, groups.values(), strict=True)
        )
        table.add_row(name, *cells)
    Console(width=150).print(table)
    batches["after these"] = batching(arguments.side)
    table = Table(f"CPU µs per picture of {BATCH} (page faults per batch)", *batches)
    for name in batches["after these"]:
        table.add_row(name, *(f"{batch[name][0]:.0f} ({batch[name][1]:.0f})" for batch in batches.values()))
    Console(width=150).print(table)
    if arguments.out:
        content = {"cpu_ms": dict(zip(groups, milliseconds, strict=True)), "batches": batches}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _timed(files: list[bytes], config: ImageInput) -> dict[str, float]:
    """Median CPU milliseconds by path."""
    pixels = statistics.mean(math.prod(Image.open(io.BytesIO(file)).size) for file in files)
    seconds: dict[str, list[float]] = {name: [] for name in PATHS}
    for turn in range(max(5, len(files), round(PIXELS_TIMED / pixels))):
        for name, path in PATHS.items():
            started = time.thread_time()
            path(files[turn % len(files)], config)
            seconds[name].append(time.thread_time() - started)
    return {name: 1000 * statistics.median(spent) for name, spent in seconds.items()}


def _distance(path: Callable[[bytes, ImageInput], np.ndarray], files: list[bytes], config: ImageInput) -> str:
    """Largest and mean difference from Pillow's."""
    differences = [np.abs(path(file, config).astype(np.int16) - pillow(file, config)) for file in files]
    return (
        f"{max(int(part.max()) for part in differences)}, "
        f"{statistics.mean(float(part.mean()) for part in differences):.2f}"
    )


if __name__ == "__main__":
    main()
