"""Measures what a request to a model of named tensors costs beside the bare loop.

    marina bench tensors                      three modules of about 0.2 ms, made here
    marina bench tensors plant --rounds 500   an exported model of this project

A request is the first golden sample of a model, as bytes. The bare loop reads the same JSON, makes arrays,
computes the same graph in the same runtime and writes JSON, with no check, in the same process. Numbers are
medians of processor time, measured in turns.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from handlers.kinds.tensor import TensorPredictor
from marina.core import spec
from marina.core.errors import CallError
from marina.core.scratch import scratch_folder
from training.train import train

HEADERS = {"content-type": "application/json"}
WARM_UP = 20  # calls of each that are not counted
LENGTH = {"minimum": 1, "maximum": 64}


class Perceptron(nn.Module):
    """One vector -> one vector."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Linear(64, 768), nn.ReLU()]
        for _ in range(3):
            layers += [nn.Linear(768, 768), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(768, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 64] -> [B, 8]."""
        return self.layers(x)  # type: ignore[no-any-return]


class Heads(nn.Module):
    """A vector, a series of any length and a flag -> a vector, a scalar and a series."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.state = nn.Sequential(nn.Linear(3, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
        layers = [nn.Conv1d(4, 128, 5, padding=2), nn.ReLU(), nn.Conv1d(128, 128, 5, padding=2)]
        self.filters = nn.Sequential(*layers)
        self.force, self.drift = nn.Linear(640, 4), nn.Linear(640, 1)

    def forward(
        self, position: torch.Tensor, history: torch.Tensor, forward: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """[B, 3], [B, time, 4], bool [B] -> force [B, 4], drift [B], trace [B, time]."""
        filtered = self.filters(history.transpose(1, 2))
        body = torch.cat([self.state(position), filtered.amax(2)], 1)
        force = self.force(body) * (forward.float() * 2 - 1)[:, None]
        return {"force": force, "drift": self.drift(body)[:, 0], "trace": filtered.mean(1)}


class Attention(nn.Module):
    """A series of any length -> one of the same length."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, dropout=0)
        self.ends = nn.ModuleList([nn.Linear(4, 64), nn.Linear(64, 2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, time, 4] -> [B, time, 2]."""
        return self.ends[1](self.layer(self.ends[0](x)))  # type: ignore[no-any-return]


HISTORY = {"shape": ["time", 4]}
# name -> the class, its inputs, and the sizes that a request has
MODULES: dict[str, tuple[type[nn.Module], dict[str, Any], dict[str, Any]]] = {
    "perceptron": (Perceptron, {"x": {"shape": [64]}}, {}),
    "heads": (
        Heads,
        {
            "position": {"shape": [3], "unit": "m", "minimum": -10, "maximum": 10},
            "history": HISTORY,
            "forward": {"dtype": "bool", "default": True},
        },
        {"time": LENGTH},
    ),
    "attention": (Attention, {"x": HISTORY}, {"time": LENGTH}),
}
SENT: dict[str, Callable[[np.random.Generator], Any]] = {
    "position": lambda rng: rng.normal(size=3).round(4).tolist(),
    "history": lambda rng: rng.normal(size=(24, 4)).round(4).tolist(),
    "forward": lambda rng: bool(rng.random() < 0.5),
}


def made(name: str, home: Path) -> tuple[spec.Spec, dict[str, Any]]:
    """A module of MODULES with its weights of seed 0, exported in `home`; and what a request sends."""
    module, inputs, dimensions = MODULES[name]
    weights = home / f"{name}.pt"
    torch.save(module().state_dict(), weights)
    training = {
        "recipe": "imported_tensor",
        "source": f"{Path(__file__).resolve()}:{module.__name__}",
        "weights": str(weights),
        "inputs": inputs,
        "dimensions": dimensions,
    }
    (home / "models").mkdir(exist_ok=True)
    text = f"# To be measured.\nkind: tensor\ntraining: {json.dumps(training)}\n"
    (home / "models" / f"{name}.yaml").write_text(text, encoding="utf-8")
    model = spec.load(name, home=home)
    train(model)
    rng = np.random.default_rng(0)
    alone = {"perceptron": rng.normal(size=64).round(4).tolist(), "attention": SENT["history"](rng)}
    return model, {"x": alone[name]} if name in alone else {key: SENT[key](rng) for key in inputs}


def milliseconds(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median processor time of each call, all in turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + WARM_UP):
        for name, call in calls.items():
            started = time.process_time_ns()
            call()
            if turn >= WARM_UP:
                found[name].append((time.process_time_ns() - started) / 1e6)
    return {name: statistics.median(times) for name, times in found.items()}


def measured(model: spec.Spec, sent: dict[str, Any] | None, rounds: int) -> dict[str, Any]:
    """One exported model. Raises CallError where it is of another kind."""
    predictor = model.predictor()
    if not isinstance(predictor, TensorPredictor):
        raise CallError(f"{model.name} is a {model.kind}; this measures the kind tensor")
    predictor.load(model.export_dir, {"handler": {"threads": 1}})
    sent = sent or json.loads(predictor.export.samples[0]["body"])
    body = json.dumps(sent).encode()
    rows: Any = [({"body": body}, HEADERS)]
    inputs = [(field.name, field.numpy_dtype, field.default) for field in predictor.fields]
    names = [field.name for field in predictor.outputs]

    def bare() -> bytes:
        read = json.loads(body)
        arrays = [np.array([read.get(name, default)], dtype) for name, dtype, default in inputs]
        outputs = predictor.model(*arrays)
        return json.dumps({name: outputs[name][0].tolist() for name in names}, separators=(",", ":")).encode()

    def request() -> bytes:
        return predictor.reply(rows, ["1"])[0].content

    if bare() != request():
        raise CallError(
            f"{model.name}: the bare loop answers {bare()[:200]!r}, a request {request()[:200]!r}"
        )
    found = milliseconds({"bare": bare, "request": request}, rounds)
    runtime = {key: predictor.computing[key] for key in ("runtime", "precision")}
    ratio = found["request"] / found["bare"]
    return {
        "name": model.name,
        "bytes": len(body),
        **runtime,
        "milliseconds": found,
        "request_to_bare": ratio,
    }


def main() -> None:
    """Measure each model, print a line for each, write --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="exported models; default: three modules made here")
    parser.add_argument("--rounds", type=int, default=1000, help="calls of each")
    parser.add_argument("--out", type=Path, help="file for the results")
    options = parser.parse_args()
    results = []
    with scratch_folder("marina-bench-") as home:
        for name in options.names or MODULES:
            model, sent = (spec.load(name), None) if options.names else made(name, home)
            model.check_exported()
            row = measured(model, sent, options.rounds)
            times = row["milliseconds"]
            about = f"{name} ({row['runtime']} {row['precision']}), {row['bytes']:,} bytes"
            print(
                f"{about}: request {times['request']:.3f} ms, bare {times['bare']:.3f}, "
                f"ratio {row['request_to_bare']:.2f}",
                flush=True,
            )
            results.append(row)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
