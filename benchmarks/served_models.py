"""The models of the serving benchmarks: random weights of seed 0, exported and archived like trained ones."""

import argparse
import io
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
import yaml
from PIL import Image
from sklearn.datasets import load_sample_image

from handlers.inputs.images import ImageInput, open_image, prepare
from marina.core import spec
from marina.packaging import archive
from training.export.trained import Sample, Trained
from training.export.writer import export
from training.vision.classification.networks import SmallCNN

WORKERS = {"policy": 1}  # several would share the batches of a tiny model out among them; of all others 2


class Normalized(torch.nn.Module):
    """uint8 pictures -> logits, normalized in the graph as in a trained classifier."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, C, H, W] -> [B, classes]."""
        logits: torch.Tensor = self.network((images.float() - 118) / 58)
        return logits


class Perceptron(torch.nn.Module):
    """A policy of 4-128-128-2."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 128),
            torch.nn.ReLU(),
            torch.nn.Linear(128, 128),
            torch.nn.ReLU(),
            torch.nn.Linear(128, 2),
        )

    def forward(self, observations: torch.Tensor) -> dict[str, torch.Tensor]:
        """[B, 4] -> action [B], q_values [B, 2]."""
        values = self.layers(observations)
        return {"action": values.argmax(1), "q_values": values}


def policy() -> tuple[Trained, bytes, str]:
    """The smallest model: it shows what the server itself costs."""
    observations = torch.randn(8, 4)
    body = json.dumps({"observation": [round(value, 4) for value in observations[0].tolist()]}).encode()
    trained = _trained("policy", Perceptron(), observations)
    trained.preprocess = {
        "input": "observation",
        "shape": [4],
        "dtype": "float32",
        "environment": "CartPole-v1",
    }
    trained.postprocess = {
        "type": "policy",
        "action_space": {"type": "discrete", "n": 2},
        "outputs": ["q_values"],
    }
    return trained, body, "application/json"


def digits() -> tuple[Trained, bytes, str]:
    """A small CNN on 16 x 16 pixels."""
    inputs = ImageInput(16, 16, mode="L", fit="stretch")
    return _classifier(
        Normalized(SmallCNN(1, 10)),
        inputs,
        10,
        [_crop(seed, 28, 28).convert("L") for seed in range(120)],
        "PNG",
    )


def resnet(architecture: str, weights: Path | None = None) -> tuple[Trained, bytes, str]:
    """A ResNet of torchvision on a JPEG of 500 x 375; `weights` is a state dict of torchvision's own."""
    inputs = ImageInput(224, 224, fit="crop", resize=256)
    network = torchvision.models.get_model(architecture, weights=None)
    if weights:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return _classifier(
        Normalized(network), inputs, 1000, [_crop(seed, 500, 375) for seed in range(120)], "JPEG"
    )


MODELS: dict[str, Callable[..., tuple[Trained, bytes, str]]] = {
    "policy": policy,
    "digits": digits,
    "resnet18": partial(resnet, "resnet18"),
    "resnet50": partial(resnet, "resnet50"),
}


def _crop(seed: int, width: int, height: int) -> Image.Image:
    """A random crop of one of scikit-learn's two photographs, by seed."""
    random = np.random.default_rng(seed)
    photo = Image.fromarray(load_sample_image("china.jpg" if seed % 2 else "flower.jpg"))
    scale = random.uniform(max(width / photo.width, height / photo.height, 0.2), 1)
    wide, high = min(photo.width, width / scale), min(photo.height, height / scale)
    left, top = random.uniform(0, photo.width - wide), random.uniform(0, photo.height - high)
    return photo.resize((width, height), box=(left, top, left + wide, top + high))


def _classifier(
    module: torch.nn.Module, inputs: ImageInput, classes: int, pictures: list[Image.Image], kind: str
) -> tuple[Trained, bytes, str]:
    files = [_file(picture, kind) for picture in pictures]
    pixels = torch.from_numpy(np.stack([prepare(open_image(file, inputs.mode), inputs) for file in files]))
    trained = _trained("classifier", module, pixels[:8])
    trained.validation = (pixels,)
    trained.preprocess = inputs.as_config()
    trained.postprocess = {"type": "classification", "top_k": 5}
    trained.classes = [str(index) for index in range(classes)]
    return trained, files[0], f"image/{kind.lower()}"


def _file(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=90)
    return buffer.getvalue()


def _trained(kind: Any, module: torch.nn.Module, example: torch.Tensor) -> Trained:
    return Trained(
        kind, module.eval().requires_grad_(False), (example,), {"none": 1.0}, {}, {}, [], {"name": "none"}
    )


def build_model(
    name: str, arguments: argparse.Namespace, home: Path, **serving: Any
) -> tuple[spec.Spec, bytes, str]:
    """Export and archive a model into `home`, or archive the export that `arguments` names; `serving` are
    settings of its spec, and `runtimes` those that are tried (export.runtimes).
    """
    if name == "resnet18" and arguments.export:
        model = _spec(name, "classifier", arguments, home, serving)
        shutil.copytree(arguments.export, model.export_dir)
        archive.build(model)
        return model, _file(_crop(0, 500, 375), "JPEG"), "image/jpeg"
    torch.manual_seed(0)
    has_weights = name.startswith("resnet")
    trained, body, content_type = MODELS[name](arguments.weights) if has_weights else MODELS[name]()
    with torch.inference_mode():
        output = trained.module(*(part[:1] for part in trained.example))
    if trained.kind == "policy":
        expected: dict[str, Any] = {"action": int(output["action"][0])}
        body = json.dumps({"observation": trained.example[0][0].tolist()}).encode()
    else:
        expected = {"class": trained.classes[int(output[0].argmax())]}  # type: ignore[index]
    trained.samples = [Sample("first", body, content_type, expected)]
    model = _spec(name, trained.kind, arguments, home, serving)
    folder = model.export_dir.parent / ".making"
    (folder / "report").mkdir(parents=True)
    export(model, trained, folder)
    archive.build(model)
    return model, body, content_type


def _spec(
    name: str, kind: str, arguments: argparse.Namespace, home: Path, serving: dict[str, Any]
) -> spec.Spec:
    runtimes = {"runtimes": list(serving.pop("runtimes"))} if "runtimes" in serving else {}
    batch = 32 if name == "policy" else 8
    defaults = {"workers": WORKERS.get(name, 2), "batch_size": batch, "max_batch_delay_ms": arguments.delay}
    content = {
        "kind": kind,
        "training": {"recipe": "benchmark"},
        "floor": {"none": 0},
        "serving": {**defaults, **serving},
        "export": {"agreement": arguments.agreement, **runtimes},
    }
    (home / "models").mkdir(exist_ok=True)
    (home / "models" / f"{name}.yaml").write_text(f"# {name}\n{yaml.safe_dump(content)}", encoding="utf-8")
    return spec.load(name, home=home)
