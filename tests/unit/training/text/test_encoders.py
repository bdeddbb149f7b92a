"""Pretrained encoders: read from their folder, equal to torch's own layers, unmoved by padding."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from handlers.inputs.tokenization import PAD, load_tokenizer
from handlers.kinds.texts import padded
from marina.core.errors import CallError

pytest.importorskip("tokenizers", reason="pip install marina[text]")
from tests.support.tiny_encoders import HEADS, INNER, LAYERS, WIDTH, WORDS, write_encoder
from training.text.encoders import freeze, is_frozen, layer_rates, load_encoder

TOKENS = [np.array([4, 5, 6]), np.array([7]), np.arange(4, 24)]


def reference(folder: Path, tokens: np.ndarray) -> torch.Tensor:
    """The hidden vectors of one text by torch's own layers: [length + 2, width]."""
    encoder = load_encoder(f"hf:{folder}")[0]
    ids = torch.tensor([WORDS.index("[CLS]"), *tokens, WORDS.index("[SEP]")])
    vectors = encoder.first(encoder.words(ids) + encoder.positions.weight[: len(ids)])
    for own in encoder.layers:
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, 0.0, "gelu", 1e-12, batch_first=True).eval()
        joined = [
            torch.cat([getattr(part, name) for part in (own.query, own.key, own.value)])
            for name in ("weight", "bias")
        ]
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": joined[0],
                "self_attn.in_proj_bias": joined[1],
                **{f"self_attn.out_proj.{key}": value for key, value in own.mixed.state_dict().items()},
                **{f"linear1.{key}": value for key, value in own.inner.state_dict().items()},
                **{f"linear2.{key}": value for key, value in own.outer.state_dict().items()},
                **{f"norm1.{key}": value for key, value in own.after_attention.state_dict().items()},
                **{f"norm2.{key}": value for key, value in own.after_inner.state_dict().items()},
            }
        )
        vectors = layer(vectors[None])[0]
    return vectors


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_an_encoder_computes_what_torchs_own_layers_do(tmp_path: Path, kind: str) -> None:
    """Alone and in a batch of other lengths; mean and first token."""
    folder = write_encoder(tmp_path, kind, prefix=f"{kind}.")
    mean, first = (load_encoder(f"hf:{folder}", pooling)[0] for pooling in ("mean", "first"))
    with torch.no_grad():
        found = mean(torch.from_numpy(padded(TOKENS))), first(torch.from_numpy(padded(TOKENS)))
        for row, tokens in enumerate(TOKENS):
            expected = reference(folder, tokens)
            torch.testing.assert_close(found[0][row], expected.mean(0), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found[1][row], expected[0], atol=1e-5, rtol=1e-5)
            alone = mean(torch.nn.functional.pad(torch.from_numpy(tokens[None]), (0, 9), value=PAD))
            torch.testing.assert_close(alone[0], found[0][row], atol=1e-5, rtol=1e-5)


def test_the_vectors_of_several_layers_stand_side_by_side(tmp_path: Path) -> None:
    """The last layer's behind the one before it; more than there are is refused."""
    source = f"hf:{write_encoder(tmp_path)}"
    last, both = load_encoder(source, "mean")[0], load_encoder(source, "mean", 2)[0]
    tokens = torch.from_numpy(padded(TOKENS))
    with torch.no_grad():
        found, alone = both(tokens), last(tokens)
    assert both.width == found.shape[1] == 2 * WIDTH
    torch.testing.assert_close(found[:, WIDTH:], alone)
    assert not torch.allclose(found[:, :WIDTH], alone)
    with pytest.raises(CallError, match=f"pooled_layers {LAYERS + 1}: the encoder has {LAYERS}"):
        load_encoder(source, "mean", LAYERS + 1)


def test_a_folder_says_how_it_pools_and_its_tokenizer_is_not_cut(tmp_path: Path) -> None:
    """sentence-transformers' own file counts; truncation in tokenizer.json doesn't."""
    folder = write_encoder(tmp_path)
    assert load_encoder(f"hf:{folder}")[0].pooling == "mean"
    (folder / "1_Pooling").mkdir()
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    encoder, content = load_encoder(f"hf:{folder}")
    assert encoder.pooling == "first"
    tokenizer = load_tokenizer(content, "pretrained")
    encoded = tokenizer.encode("The FILM was wonderfull, [PAD] story " * 3, 100)
    assert len(encoded.ids) > 8
    assert PAD not in encoded.ids
    assert encoded.ids[:3].tolist() == [WORDS.index(word) for word in ("the", "film", "was")]
    pooling.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(CallError, match="pools in another way; say pooling: mean or first"):
        load_encoder(f"hf:{folder}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "roberta"}, "model_type 'roberta' is not taken; known: bert, distilbert"),
        ({"position_embedding_type": "relative_key"}, "relative_key positions"),
        ({"hidden_act": "swish"}, "the activation swish"),
        ({"pad_token_id": 1}, "padding 1"),
        ({"hidden_size": None}, "has one that is none"),
        ({"num_hidden_layers": LAYERS + 1}, "lacks 16 of .* weights.*layers.3"),
        ({"vocab_size": 5}, "lacks 1 of .* words.weight"),
    ],
)
def test_an_encoder_of_another_shape_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    """With what is taken."""
    folder = write_encoder(tmp_path, **change)
    with pytest.raises(CallError, match=words):
        load_encoder(f"hf:{folder}")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", None, "has no config.json; give a folder with"),
        ("config.json", b"[1]", "is no JSON object"),
        ("config.json", b"{", "can't be read"),
        ("tokenizer.json", b"{}", "can't be read by the package tokenizers"),
        ("model.safetensors", b"pickle", "model.safetensors can't be read"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    """By the file."""
    folder = write_encoder(tmp_path)
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(CallError, match=words):
        load_encoder(f"hf:{folder}")


def test_layers_are_frozen_from_the_input_on_and_learn_slower_there(tmp_path: Path) -> None:
    """All by default; each layer at a share of the next one's rate."""
    encoder = load_encoder(f"hf:{write_encoder(tmp_path)}")[0]
    assert len(layer_rates(encoder, 1.0, 0.5)) == LAYERS + 1
    freeze(encoder, 1)
    rates = layer_rates(encoder, 1.0, 0.5)
    assert {rate: len(weights) for rate, weights in rates.items()} == {1.0: 16, 0.5: 16}
    assert not encoder.words.weight.requires_grad
    assert not is_frozen(encoder)
    freeze(encoder, None)
    assert is_frozen(encoder)
    assert layer_rates(encoder, 1.0, 0.5) == {}
    with pytest.raises(CallError, match="frozen_layers 4: the encoder has 3"):
        freeze(encoder, 4)
