"""LSTM and GRU over tokens: their graph in ONNX computes what torch does, whatever stands beside a text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from handlers.inputs.tokenization import PAD
from handlers.runtime.runtimes import OnnxRuntime, OpenVinoRuntime
from training.text.networks import build, build_body
from training.text.recurrent import Recurrent, graph_of
from training.text.settings import Settings

LENGTHS = (9, 1, 4, 7, 2)


def texts() -> torch.Tensor:
    """Tokens of texts of several lengths, filled up."""
    tokens = torch.randint(1, 50, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(1))
    for row, length in zip(tokens, LENGTHS, strict=True):
        row[length:] = PAD
    return tokens


def written(path: Path, content: bytes | None) -> Path:
    assert content
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_recurrent_graph_answers_alone_as_in_a_batch(tmp_path: Path, kind: str, both: bool) -> None:
    """By torch, ONNX Runtime and OpenVINO alike; what a text is filled up with changes nothing."""
    torch.manual_seed(0)
    changes: dict[str, Any] = {"architecture": kind, "bidirectional": both, "hidden": 12}
    settings = Settings(data="", embedding_size=8, **changes)
    network = build(settings, 50, 3, None).eval()
    network.temperature = 1.3
    tokens = texts()
    with torch.no_grad():
        expected = network(tokens).numpy()
        alone = [network(row[None, :length]) for row, length in zip(tokens, LENGTHS, strict=True)]
    np.testing.assert_allclose(torch.cat(alone).numpy(), expected, atol=1e-6)
    path = written(tmp_path / "text.onnx", graph_of(network.body, network.head, 1.3))
    form = {"form": "tensor"}
    for runtime in (OnnxRuntime(path, "fp32", form), OpenVinoRuntime(path, "fp32", form)):
        np.testing.assert_allclose(runtime(tokens.numpy()), expected, atol=1e-5)
        for row, length, answer in zip(tokens.numpy(), LENGTHS, expected, strict=True):
            np.testing.assert_allclose(runtime(row[None, :length])[0], answer, atol=1e-5)


def test_a_recurrent_body_embeds_texts_of_length_one(tmp_path: Path) -> None:
    """Without a linear layer, too; other bodies have no such graph."""
    torch.manual_seed(0)
    settings = Settings(data="", architecture="gru", layers=1, hidden=6, embedding_size=8)
    body = build_body(settings, 50, None).eval()
    assert isinstance(body, Recurrent)
    with torch.no_grad():
        expected = normalize(body(texts())).numpy()
    path = written(tmp_path / "text.onnx", graph_of(body, nn.Identity(), normalized=True))
    found = OnnxRuntime(path, "fp32", {"form": "tensor"})(texts().numpy())
    np.testing.assert_allclose(found, expected, atol=1e-6)
    bag = build_body(Settings(data=""), 50, None)
    assert graph_of(bag, nn.Identity()) is None
