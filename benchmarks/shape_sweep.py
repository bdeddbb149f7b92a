"""Random networks through OpenVINO and ONNX Runtime: each must equal torch, and none may end its process.

    .venv/bin/python benchmarks/shape_sweep.py --count 300 --seed 0

Perceptrons of 0 to 4 hidden layers of 1 to 512 units, with masks, noise, branches and several heads as
policies have them, convolutional networks with such heads, and recurrent cells. Each is exported as a model
is, built and run in a trial process, alone and in batches, by OpenVINO with and without fixed shapes. Prints
what differs, what can't be converted and what crashed, with the seed that makes it again.
"""

import argparse
import math
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from handlers.runtime.export import PROGRAM
from handlers.runtime.runtimes import arrays, form_of
from marina.core import spec
from training.export.runtimes.agreement import distance
from training.export.runtimes.candidates import Entry, ExportInputs, Rejected
from training.export.runtimes.choosing import BUILDERS
from training.export.runtimes.trial_process import (
    RemoteRuntime,
    TrialCrashed,
    TrialProcess,
    shared_trial_process,
)
from training.export.trained import Trained

TOLERANCE = 1e-4  # relative to values above 1: the parity that an export asks for
SIZES = (1, 2, 3, 8)
OPTIONS: dict[str, Sequence[dict[str, Any]]] = {"openvino": ({}, {"one_by_one": True}), "onnxruntime": ({},)}
ACTIVATIONS = (
    nn.Tanh,
    nn.ReLU,
    nn.SiLU,
    nn.GELU,
    nn.Sigmoid,
    nn.ELU,
    nn.LeakyReLU,
    nn.Hardswish,
    nn.Mish,
    nn.Softplus,
    nn.Identity,
)
TAKES = {"masked": ("mask",), "sampled": ("mask", "noise"), "squashed": ("noise",), "gaussian": ("noise",)}
KINDS = ("perceptron", "perceptron", "branches", "convolutional", "recurrent")
HEADS = ("plain", "masked", "sampled", "dueling", "squashed", "gaussian", "value", "residual")
SPEC = "# A random network.\nkind: policy\ntraining: {recipe: dqn}\nfloor: {mean_return: 0}\n"


@dataclass(frozen=True)
class Case:
    """A network with the inputs of a batch of the largest size."""

    seed: int
    kind: str
    about: str
    module: nn.Module
    example: tuple[torch.Tensor, ...]


class Finding(NamedTuple):
    """What one runtime made of a case: "equal", "differs", "rejected" or "crashed"."""

    case: Case
    runtime: str
    verdict: str
    reason: str = ""


class Head(nn.Module):
    """What policies do with a network's features: scores of actions, and the one that is taken."""

    def __init__(self, kind: str, layers: Callable[[int], nn.Module], width: int, actions: int) -> None:
        super().__init__()
        self.kind = kind
        self.scores, self.value = layers(actions), layers(1)
        self.skip = nn.Linear(width, actions)
        self.spread = nn.Parameter(torch.randn(actions) / 4)

    def forward(self, features: torch.Tensor, *drawn: torch.Tensor) -> dict[str, torch.Tensor]:
        """[B, width], and by TAKES a bool mask or noise [B, actions] -> action, scores, maybe a value."""
        scores = self.scores(features)
        if self.kind in ("masked", "sampled"):
            scores = scores.masked_fill(~drawn[0], -1e9)
        if self.kind == "sampled":
            scores = torch.where(
                drawn[1].abs().sum(1, keepdim=True) > 0, scores.log_softmax(1) + drawn[1], scores
            )
        if self.kind == "dueling":
            scores = self.value(features) + scores - scores.mean(1, keepdim=True)
        if self.kind == "squashed":
            return {"scores": torch.tanh(scores + drawn[0] * self.spread.exp()).clamp(-0.99, 0.99)}
        if self.kind == "gaussian":
            return {"scores": scores + drawn[0] * self.spread.exp(), "value": self.value(features)}
        if self.kind == "residual":
            scores = scores + self.skip(features)
        outputs = {"action": scores.argmax(1), "scores": scores}
        return {**outputs, "value": self.value(features).squeeze(1)} if self.kind == "value" else outputs


class Network(nn.Module):
    """A body, a recurrent cell where there is one, and a head."""

    def __init__(self, body: nn.Module, head: Head, cell: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.head, self.cell = body, head, cell

    def forward(self, observations: torch.Tensor, *more: torch.Tensor) -> dict[str, torch.Tensor]:
        """Observations, the cell's state, then what the head takes -> as of `Head`, and the next state."""
        features = self.body(observations)
        if self.cell is None:
            outputs: dict[str, torch.Tensor] = self.head(features, *more)
            return outputs
        state, *drawn = more
        if isinstance(self.cell, nn.GRUCell):
            features = after = self.cell(features, state)
        else:
            features, memory = self.cell(features, (state[:, 0], state[:, 1]))
            after = torch.stack((features, memory), 1)
        return {**self.head(features, *drawn), "state": after}


class Generator:
    """Draws the network of a seed, and says in `words` what it is."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.seed, self.random = seed, Random(seed)
        self.kind = self.random.choice(KINDS)
        self.actions, self.batch = self.random.randint(1, 18), max(SIZES)
        self.activation, self.head_kind = self.random.choice(ACTIVATIONS), self.random.choice(HEADS)
        self.is_normalized = self.random.random() < 0.2
        self.words = [self.kind, self.head_kind, self.activation.__name__, f"{self.actions} actions"]
        if self.is_normalized:
            self.words.append("LayerNorm")

    def case(self) -> Case:
        """The network with its example."""
        cell: nn.Module | None = None
        state: tuple[torch.Tensor, ...] = ()
        draw_body = self.convolutional_body if self.kind == "convolutional" else self.perceptron_body
        body, observations, features = draw_body()
        if self.kind == "recurrent":
            cell, state, features = self.cell(features)
        widths = self.widths(4 if self.kind == "perceptron" else 2)
        make_layers = partial(self.perceptron, features, widths)
        head = Head(self.head_kind, make_layers, features, self.actions)
        self.words.append(f"head {widths}")
        mask = torch.rand(self.batch, self.actions) < 0.7
        mask[:, 0] = True
        drawn = {"mask": mask, "noise": torch.randn(self.batch, self.actions)}
        example = (observations, *state, *(drawn[name] for name in TAKES.get(self.head_kind, ())))
        module = Network(body, head, cell).eval().requires_grad_(False)
        return Case(self.seed, self.kind, ", ".join(self.words), module, example)

    def convolutional_body(self) -> tuple[nn.Module, torch.Tensor, int]:
        """Convolutions and a pooling, with observations and the number of features."""
        random = self.random
        channels, side = random.choice((1, 3, 4)), random.choice((8, 12, 28, 36))
        observations = torch.randn(self.batch, channels, side, side)
        layers: list[nn.Module] = []
        inputs, rows = channels, side
        for _ in range(random.randint(1, 3)):
            width, kernel, stride = self.size(48), random.choice((1, 3, 5)), random.choice((1, 2))
            norm = [nn.BatchNorm2d(width)] if random.random() < 0.5 else []
            layers += [nn.Conv2d(inputs, width, kernel, stride, kernel // 2), *norm, self.activation()]
            inputs, rows = width, -(-rows // stride)
        pool = random.choice((nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(2), nn.MaxPool2d(min(2, rows))))
        body = nn.Sequential(*layers, pool, nn.Flatten())
        self.words.append(f"{channels}x{side}x{side}, {len(layers)} layers")
        with torch.no_grad():
            return body, observations, body.eval()(observations).shape[1]

    def perceptron_body(self) -> tuple[nn.Module, torch.Tensor, int]:
        """Shared layers, none for a plain perceptron, with observations and the number of features."""
        observed = self.size(600)
        observations = torch.randn(self.batch, observed)
        widths = self.widths(2) if self.kind != "perceptron" else []
        self.words.append(f"{observed} observed, body {widths}")
        return self.perceptron(observed, widths, None), observations, widths[-1] if widths else observed

    def cell(self, features: int) -> tuple[nn.Module, tuple[torch.Tensor, ...], int]:
        """A recurrent cell, its state and its width."""
        hidden = self.size(256)
        cell = self.random.choice((nn.GRUCell, nn.LSTMCell))(features, hidden)
        shape = (self.batch, hidden) if isinstance(cell, nn.GRUCell) else (self.batch, 2, hidden)
        self.words.append(f"{type(cell).__name__} of {hidden}")
        return cell, (torch.randn(shape),), hidden

    def perceptron(self, inputs: int, widths: Sequence[int], outputs: int | None) -> nn.Sequential:
        """Hidden layers of `widths`, and an output layer unless `outputs` is None."""
        layers: list[nn.Module] = []
        for width in widths:
            norm = [nn.LayerNorm(width)] if self.is_normalized else []
            layers += [nn.Linear(inputs, width), *norm, self.activation()]
            inputs = width
        return nn.Sequential(*layers, *([nn.Linear(inputs, outputs)] if outputs else []))

    def widths(self, most: int) -> list[int]:
        """Of up to `most` layers."""
        return [self.size(512) for _ in range(self.random.randint(0, most))]

    def size(self, largest: int) -> int:
        """A size of 1 to `largest`, small ones as often as large ones."""
        return round(math.pow(largest, self.random.random()))


def make(seed: int) -> Case:
    """The case of a seed."""
    return Generator(seed).case()


def findings(case: Case, folder: Path, trials: TrialProcess) -> Iterator[Finding]:
    """Build and run a case in every runtime; `folder` is for their files."""
    batch = torch.export.Dim("batch", min=1, max=64)
    rest = tuple({0: batch} for _ in case.example[1:])
    shapes = {"observations": {0: batch}, **({"more": rest} if rest else {})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(case.module, case.example, dynamic_shapes=shapes, strict=False)
        torch.export.save(program, folder / PROGRAM)
    with torch.inference_mode():
        expected = {size: arrays(case.module(*(part[:size] for part in case.example))) for size in SIZES}
    trained = Trained("policy", case.module, case.example, {}, {}, {}, [], {})
    parsed, form = spec.parse(SPEC, "sweep", "sweep", {}), form_of(expected[1])
    export_inputs = ExportInputs(
        parsed, trained, cast(Any, None), program, form
    )  # no builder needs a predictor
    trials.open(export_inputs, folder / PROGRAM)
    for runtime, option_sets in OPTIONS.items():
        try:
            entry = trials.build(BUILDERS[runtime].build, export_inputs, "fp32", folder)
        except Rejected as reason:
            yield Finding(case, runtime, _verdict(reason), str(reason))
            continue
        for options in option_sets:
            name = " ".join([runtime, *options])
            with_options = {**entry, "options": options}
            yield Finding(case, name, *_compare(case, expected, folder, with_options, trials))
    for path in folder.iterdir():
        path.unlink()


def _verdict(reason: Rejected) -> str:
    return "crashed" if isinstance(reason, TrialCrashed) else "rejected"


def _compare(
    case: Case, expected: dict[int, Any], folder: Path, entry: Entry, trials: TrialProcess
) -> tuple[str, str]:
    worst = 0.0
    try:
        runtime = RemoteRuntime(trials, folder, entry)
        runtime.set_threads(1)
        for size, outputs in expected.items():
            results = runtime(*(part[:size].numpy() for part in case.example))
            values = [(outputs[key], results[key]) for key in outputs if key != "action"]
            worst = max(worst, *(distance(*pair) for pair in values))
            if "action" in outputs:  # of two that are equally good either may be taken
                taken = np.take_along_axis(outputs["scores"], np.asarray(results["action"])[:, None], 1)[:, 0]
                worst = max(worst, distance(outputs["scores"].max(1), taken))
    except Rejected as reason:
        return _verdict(reason), str(reason)
    return ("equal", f"{worst:.1e}") if worst <= TOLERANCE else ("differs", f"by {worst:.3g}")


def sweep(seeds: Sequence[int], seconds: float = float("inf")) -> list[Finding]:
    """The findings of all seeds, as far as the seconds allow."""
    collected: list[Finding] = []
    ends = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            if time.monotonic() > ends:
                break
            collected += findings(make(seed), Path(folder), shared_trial_process())
    return collected


def main() -> None:
    """Print what was found, and how often."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = sweep(range(arguments.seed, arguments.seed + arguments.count), arguments.seconds)
    for finding in results:
        if finding.verdict != "equal":
            seed = f"seed {finding.case.seed}: {finding.case.about}"
            print(f"{finding.verdict}: {finding.runtime}: {finding.reason} ({seed})")
    kinds = Counter(finding.case.kind for finding in results if finding.runtime == "openvino")
    print(len({finding.case.seed for finding in results}), "networks:", dict(kinds))
    verdicts = Counter((finding.runtime, finding.verdict) for finding in results)
    for (runtime, verdict), count in sorted(verdicts.items()):
        print(f"{runtime}: {verdict} {count}")


if __name__ == "__main__":
    main()
