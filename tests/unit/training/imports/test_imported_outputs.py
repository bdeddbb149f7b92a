"""What an imported classifier may give beside its logits, and what it must not do with its pictures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from marina.core.errors import CallError
from tests.support.foreign_models import classifier, logits_of, noise

OWN = '''
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
import torch
from torch import nn
from torch.nn import functional as F

class Network(nn.Module):
    """Gives what `outputs` makes of the logits [B, 5] and the features [B, 3]."""
    def __init__(self, outputs):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.outputs = nn.Linear(3, 5), outputs
    def forward(self, x):
        features = x.mean((2, 3))
        return self.outputs(self.head(features), features)

Named = namedtuple("Named", "features logits")

@dataclass
class Answer:
    logits: torch.Tensor
    loss: torch.Tensor | None = None

class ModelOutput(OrderedDict):
    pass

class Bag:
    def __init__(self, scores):
        self.scores, self._cache = scores, scores

made = {
    "tensor": lambda y, x: y,
    "tuple": lambda y, x: (y, y.mean()),
    "list": lambda y, x: [x[:, :1], y],
    "two": lambda y, x: (x, y),
    "dict": lambda y, x: {"logits": y, "features": x},
    "unnamed": lambda y, x: {"scores": y, "features": x},
    "model_output": lambda y, x: ModelOutput(logits=y, hidden=(x,)),
    "named": lambda y, x: Named(x, y),
    "answer": lambda y, x: Answer(y),
    "object": lambda y, x: Bag(y),
    "maps": lambda y, x: {"out": y[..., None, None]},
    "nothing": lambda y, x: None,
    "dropout": lambda y, x: F.dropout(y, 0.5),
    "noise": lambda y, x: y + 1e-3 * torch.randn_like(y),
    "mixed": lambda y, x: y - y.mean(0),
}
def make(outputs):
    return Network(made[outputs])
'''


def imported(folder: Path, outputs: str, **settings: Any) -> Any:
    (folder / "outputs.py").write_text(OWN)
    return classifier(
        folder,
        source=f"{folder / 'outputs.py'}:make",
        arguments={"outputs": outputs},
        image_size=16,
        **settings,
    )


def expected(pixels: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    logits: torch.Tensor = nn.Linear(3, 5)((pixels.float() / 255).mean((2, 3)))
    return logits.detach()


@pytest.mark.parametrize(
    ("outputs", "key"),
    [
        ("tensor", None),
        ("tuple", None),
        ("list", None),
        ("dict", None),
        ("model_output", None),
        ("named", None),
        ("answer", None),
        ("object", None),
        ("two", 1),
        ("unnamed", "scores"),
    ],
)
def test_the_logits_are_taken_from_several_outputs(
    outputs: str, key: str | int | None, tmp_path: Path
) -> None:
    trained = imported(tmp_path, outputs, output_key=key)

    pixels = noise(2, 3, 16, 16)
    torch.testing.assert_close(logits_of(trained.module, pixels), expected(pixels))
    program = torch.export.export(trained.module, (pixels,), strict=False).module()
    torch.testing.assert_close(logits_of(program, pixels), expected(pixels))


@pytest.mark.parametrize(
    ("outputs", "key", "message"),
    [
        ("two", None, r"gives tuple \{0: \(4, 3\), 1: \(4, 5\)\}.*--set training.output_key=KEY"),
        ("unnamed", None, r"gives dict \{'scores': \(4, 5\), 'features': \(4, 3\)\}"),
        ("dict", "logit", r"gives dict \{'logits'.*output_key=KEY"),
        ("maps", None, r"gives dict \{'out': \(4, 5, 1, 1\)\}"),
        ("nothing", None, r"gives NoneType \{\} for 4 pictures"),
        ("tensor", 0, r"output_key 0: .* gives a single tensor; leave it out"),
        ("dropout", None, r"answers at random: two equal calls differ"),
        ("noise", None, r"answers at random: two equal calls differ"),
        ("mixed", None, r"answers a picture otherwise in company than alone"),
    ],
)
def test_a_network_without_clear_logits_is_refused_in_words(
    outputs: str, key: str | int | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CallError, match=message):
        imported(tmp_path, outputs, output_key=key)


@pytest.mark.parametrize(
    ("mean", "std", "divided"),
    [
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], r"mean \[0.485, 0.456, 0.406\] and std \[0.229"),
        ([127.5], [127.5], r"mean \[0.5\] and std \[0.5\]"),
        ([0], [255], r"mean \[0.0\] and std \[1.0\]"),
        ([103.9, 116.8, 123.7], [1, 1, 1], r"std \[0.0039, 0.0039, 0.0039\]"),
    ],
)
def test_mean_and_std_of_255_are_refused_with_their_division(
    mean: list[float], std: list[float], divided: str, tmp_path: Path
) -> None:
    with pytest.raises(CallError, match=rf"pixels in 0..255, not 0..1 .*divide both by 255: .*{divided}"):
        imported(tmp_path, "tensor", mean=mean, std=std)


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.5]), ([1.0], [1.0]), ([0.0], [1 / 255])])
def test_mean_and_std_of_1_are_taken(mean: list[float], std: list[float], tmp_path: Path) -> None:
    imported(tmp_path, "tensor", mean=mean, std=std)
