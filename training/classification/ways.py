"""In which precision and memory format a network learns fastest on this machine: tried, not guessed."""

import copy
import json
import time
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from training.classification.settings import Learning
from training.running.run import current

STEPS = 3
GAIN = 0.95  # of the time of the plain way: less is noise, and not worth another rounding


@dataclass(frozen=True)
class Way:
    """bfloat16 layers under automatic mixed precision; pictures with their channels last in memory."""

    bfloat16: bool = False
    channels_last: bool = False


WAYS = (Way(), Way(channels_last=True), Way(bfloat16=True), Way(bfloat16=True, channels_last=True))


def way_of(model: nn.Module, data: TensorDataset, settings: Learning) -> Way:
    """What the settings say; under "fastest" the way whose training steps take the least time.

    The trial leaves the model and the random numbers as they are. A run that is gone on with keeps the way that it began with,
    and several processes take the first one's.
    """
    if settings.precision != "fastest":
        on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return Way(settings.precision == "bfloat16" or (settings.precision == "auto" and on_gpu))
    run = current()
    kept = run.folder / "way.json" if run.folder else None
    if kept and kept.is_file():
        return Way(**json.loads(kept.read_text(encoding="utf-8")))
    if run.processes > 1:
        return Way(torch.cuda.is_available(), True)  # they could not agree on a trial
    seconds = trial(model, data, settings.batch_size)
    best = min(WAYS, key=seconds.__getitem__)
    way = best if seconds[best] < GAIN * seconds[Way()] else Way()
    if kept:
        kept.write_text(json.dumps(asdict(way)), encoding="utf-8")
    return way


def trial(model: nn.Module, data: TensorDataset, size: int) -> dict[Way, float]:
    """Seconds of a training step on `size` inputs of `data` in each way, the least of some."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs, labels = (tensor[:size].to(device) for tensor in data.tensors)
    found = {}
    with torch.random.fork_rng():
        for way in WAYS:
            network = copy.deepcopy(model).to(device).train()
            if way.channels_last:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            taken = [_step(network, inputs, labels, way) for _ in range(STEPS + 1)]
            found[way] = min(taken[1:])  # the first one also chooses its kernels
    return found


def _step(network: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, way: Way) -> float:
    started = time.perf_counter()
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=way.bfloat16):
        logits = network(inputs)
    F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
    if inputs.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started
