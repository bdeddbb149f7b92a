"""A classifier of plain colors that needs no training, its export, and a worker's start with it."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from handlers.inputs.images import ImageInput
from handlers.kinds import predictor_of
from handlers.runtime.export import Export
from handlers.runtime.runtimes import form_of
from marina.core import spec
from marina.core.spec import Spec
from training.export.runtimes.candidates import ExportInputs
from training.export.trained import Sample, Trained
from training.export.writer import export

SIDE = 32
CLASSIFIER = "kind: classifier\nfloor: {accuracy: 0.5}\n"


class Colours(torch.nn.Module):
    """Says which channel of a picture is the strongest; `sharpness` makes it sure of it, or unsure."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, 2, 1), torch.nn.ReLU()
        )
        self.sharpness = sharpness

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, H, W] -> logits [B, 3]."""
        values = images.float() / 255
        return self.sharpness * values.mean((2, 3)) + 1e-3 * self.layers(values).mean((1, 2, 3))[:, None]


def coloured(count: int, seed: int = 0) -> torch.Tensor:
    """Pictures of one plain colour each, uint8 [count, 3, SIDE, SIDE]."""
    colours = torch.randint(
        0, 256, (count, 3, 1, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    return colours.expand(-1, -1, SIDE, SIDE).contiguous()


def classifier(module: torch.nn.Module | None = None, held_out: int = 120) -> Trained:
    torch.manual_seed(0)
    pure = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    samples = []
    for index, name in enumerate(("red", "green", "blue")):
        pure[index, :, :, index] = 255
        body = png_of(pure[index])
        samples.append(Sample(name, body, "image/png", {"class": name}))
    return Trained(
        kind="classifier",
        module=(module or Colours(10)).eval().requires_grad_(False),
        example=(coloured(4),),
        validation=(coloured(held_out, seed=1),) if held_out else (),
        metrics={"accuracy": 1.0},
        preprocess=ImageInput(SIDE, SIDE, fit="stretch").as_config(),
        postprocess={"type": "classification", "top_k": 3},
        samples=samples,
        data={"name": "none"},
        classes=["red", "green", "blue"],
    )


def calibrated(trained: Trained) -> Trained:
    """With training pictures."""
    return replace(trained, calibration=lambda: (coloured(32, seed=2),))


def png_of(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def exported_classifier(home: Path, trained: Trained | None = None, more: str = "") -> Spec:
    (home / "models").mkdir(exist_ok=True)
    text = f"# Names the strongest colour.\ntraining: {{recipe: classifier}}\n{CLASSIFIER}{more}"
    (home / "models" / "colours.yaml").write_text(text, encoding="utf-8")
    one = spec.load("colours", home=home)
    folder = one.export_dir.parent / ".making"
    (folder / "report").mkdir(parents=True)
    export(one, trained or classifier(), folder)
    return one


def export_inputs(one: Spec, trained: Trained) -> ExportInputs:
    """What candidates of an export are built from."""
    program = torch.export.load(one.export_dir / "model.pt2")
    form = form_of(trained.module(*trained.example))
    return ExportInputs(one, trained, predictor_of(one.kind), program, form)


def table(one: Spec) -> dict[tuple[str, str], dict[str, Any]]:
    """runtime.json's candidates by runtime and precision."""
    rows = json.loads((one.export_dir / "runtime.json").read_text())["candidates"]
    return {(row["runtime"], row["precision"]): row for row in rows}


def started(one: Spec) -> Any:
    handler = predictor_of(one.kind)
    handler.load(one.export_dir, one.serving.model_config_yaml())
    return handler


def answers(handler: Any, one: Spec) -> list[Any]:
    return handler.answer_rows(
        [({"body": sample["body"]}, {}) for sample in Export.open(one.export_dir).samples]
    )


STARTED = """
import sys
from handlers.runtime.lazy_imports import without
with without(later=("torch",)):  # as worker.py does
    import ts.protocol.otf_message_handler
from handlers.kinds import predictor_of
handler = predictor_of({kind!r})
handler.load(__import__("pathlib").Path({folder!r}), {{}})
print(handler.computing["runtime"], *(name for name in {names} if name in sys.modules))
"""
