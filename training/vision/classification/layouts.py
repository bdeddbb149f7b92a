"""In which precision and memory format a network learns fastest on this machine: tried, not guessed."""

import copy
import json
import time
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from training.runs.run import Run
from training.vision.classification.settings import ClassifierSettings
from training.vision.records import Rows

STEPS = 3
GAIN = 0.95  # of the time of the plain layout: less is noise, and not worth another rounding


@dataclass(frozen=True)
class LayoutTrial:
    """bfloat16 layers under automatic mixed precision; pictures with their channels last in memory."""

    bfloat16: bool = False
    channels_last: bool = False


LAYOUTS = (
    LayoutTrial(),
    LayoutTrial(channels_last=True),
    LayoutTrial(bfloat16=True),
    LayoutTrial(bfloat16=True, channels_last=True),
)


def layout_of(model: nn.Module, data: Rows, settings: ClassifierSettings, run: Run) -> LayoutTrial:
    """What the settings say; under "fastest" the layout whose training steps take the least time.

    The trial leaves the model and the random numbers as they are. A run that is gone on with keeps the layout
    that it began with, and several processes take the first one's.
    """
    if settings.precision != "fastest":
        on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return LayoutTrial(settings.precision == "bfloat16" or (settings.precision == "auto" and on_gpu))
    kept = run.checkpoints / "layout.json" if run.checkpoints else None
    if kept and kept.is_file():
        return LayoutTrial(**json.loads(kept.read_text(encoding="utf-8")))
    if run.processes > 1:
        return LayoutTrial(torch.cuda.is_available(), True)  # they could not agree on a trial
    seconds = trial(model, data, settings.batch_size)
    best = min(LAYOUTS, key=seconds.__getitem__)
    layout = best if seconds[best] < GAIN * seconds[LayoutTrial()] else LayoutTrial()
    if kept:
        kept.write_text(json.dumps(asdict(layout)), encoding="utf-8")
    return layout


def trial(model: nn.Module, data: Rows, size: int) -> dict[LayoutTrial, float]:
    """Seconds of a training step on `size` inputs of `data` in each layout, the least of some."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs, labels = (tensor[:size].to(device) for tensor in data.tensors)
    found = {}
    with torch.random.fork_rng():
        for layout in LAYOUTS:
            network = copy.deepcopy(model).to(device).train()
            if layout.channels_last:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            taken = [_step(network, inputs, labels, layout) for _ in range(STEPS + 1)]
            found[layout] = min(taken[1:])  # the first one also chooses its kernels
    return found


def _step(network: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, layout: LayoutTrial) -> float:
    started = time.perf_counter()
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=layout.bfloat16):
        logits = network(inputs)
    F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
    if inputs.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started
