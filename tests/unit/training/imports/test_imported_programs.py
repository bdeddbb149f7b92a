"""Imported exported programs: served as they are, and refused if code is hidden in them."""

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from marina.core import spec
from marina.core.errors import CallError
from tests.support.foreign_models import Payload, classifier, logits_of, noise
from training.imports.files import read_program


class Mean(nn.Module):
    """Logits of the mean colour, of pixels in 0..1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * 10


def program(path: Path, module: nn.Module, example: torch.Tensor, dynamic: bool = True) -> str:
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},) if dynamic else None
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False), path)
    return str(path)


def test_a_program_of_floats_gets_our_normalisation_in_front(tmp_path: Path) -> None:
    source = program(tmp_path / "mean.pt2", Mean(), torch.rand(2, 3, 20, 30))

    trained = classifier(tmp_path, source=source, mean=[0.5], std=[0.25], resize="stretch")

    pixels = noise(5, 3, 20, 30)
    torch.testing.assert_close(logits_of(trained.module, pixels), (pixels / 255).mean((2, 3)) * 40 - 20)
    assert (trained.preprocess["height"], trained.preprocess["width"]) == (20, 30)


def test_the_digits_program_is_imported_as_it_is_and_reads_as_well(
    tmp_path: Path, exported_digits: Path
) -> None:
    trained = classifier(tmp_path, source=str(exported_digits / "model.pt2"), resize="ink", data="digits")

    metadata = json.loads((exported_digits / "model_metadata.json").read_text())
    assert trained.metrics["accuracy"] == pytest.approx(metadata["metrics"]["accuracy"])
    assert trained.classes == list("0123456789")
    assert trained.preprocess["mode"] == "L"


@pytest.fixture
def exported_digits(built_in: list[spec.Spec]) -> Path:
    return next(one.export_dir for one in built_in if one.name == "digits")


@pytest.mark.parametrize(
    ("example", "dynamic", "settings", "words"),
    [
        (torch.rand(2, 3, 8, 8), False, {}, r"takes batches of 2 only, .*dynamic_shapes="),
        (torch.rand(2, 8, 8, 3), True, {}, r"must take one batch of pictures \[B, 3 or 1, height, width\]"),
        (torch.rand(2, 3, 8, 8).double(), True, {}, "it takes torch.float64"),
    ],
)
def test_a_program_that_no_server_can_feed_is_refused(
    example: torch.Tensor, dynamic: bool, settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(CallError, match=words):
        classifier(tmp_path, source=program(tmp_path / "a.pt2", Mean(), example, dynamic), **settings)


def rewritten(path: Path, change: Callable[[str, bytes], bytes]) -> str:
    """A copy of a .pt2 with its members changed."""
    copy = path.with_name("changed.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return str(copy)


def test_a_program_with_a_pickle_inside_is_refused_and_does_not_run(tmp_path: Path) -> None:
    evil = io.BytesIO()
    torch.save(Payload(tmp_path / "broken-in"), evil)
    path = Path(program(tmp_path / "a.pt2", Mean(), torch.rand(2, 3, 8, 8)))
    source = rewritten(
        path, lambda name, content: evil.getvalue() if name.endswith("sample_inputs/model.pt") else content
    )

    with pytest.raises(CallError, match="holds a pickle, and reading it could run any code"):
        classifier(tmp_path, source=source)

    assert not (tmp_path / "broken-in").exists()


def test_a_program_with_code_in_an_expression_is_refused_and_does_not_run(tmp_path: Path) -> None:
    code = f"__import__('os').mkdir('{tmp_path}/broken-in')"
    path = Path(program(tmp_path / "a.pt2", Mean(), torch.rand(2, 3, 8, 8)))
    source = rewritten(
        path,
        lambda name, content: (
            re.sub(rb'"expr_str": ?"[^"]*"', f'"expr_str": "{code}"'.encode(), content)
            if "models/" in name
            else content
        ),
    )

    with pytest.raises(
        CallError, match=r"text that torch.export doesn't write and that would run as code: .*__import__"
    ):
        classifier(tmp_path, source=source)

    assert not (tmp_path / "broken-in").exists()


def test_programs_with_shapes_worked_out_are_read(tmp_path: Path) -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = x.flatten(2).transpose(1, 2)
            rows = torch.cat([rows, rows.mean(1, keepdim=True)], 1).reshape(-1, 3)
            return rows.view(x.shape[0], -1, 3).sum(1)[:, :2]

    found = read_program(
        Path(program(tmp_path / "a.pt2", Attention(), torch.rand(2, 3, 8, 8))), trusted=False
    )

    assert found.module(check_guards=False)(torch.rand(5, 3, 8, 8)).shape == (5, 2)
