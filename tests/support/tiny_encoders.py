"""Folders of encoders as save_pretrained writes them, with drawn weights."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tests.support.text_data import PLAIN, TELLING

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *PLAIN,
    *(word for each in TELLING.values() for word in each),
    ".",
]
PIECES = ["w", "##on", "##der", "##s"]
WIDTH, INNER, HEADS, LAYERS, POSITIONS = 16, 24, 4, 3, 66
LINEAR = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
}
NORMS = {"attention.output.LayerNorm": "sa_layer_norm", "output.LayerNorm": "output_layer_norm"}


def write_encoder(folder: Path, kind: str = "bert", prefix: str = "", **config: Any) -> Path:
    """A small BERT or DistilBERT of the words of `text_data`; the same weights under either's names."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    if kind == "distilbert":
        sizes = ("dim", "n_layers", "n_heads", "hidden_dim")
    vocabulary = [*WORDS, *PIECES]
    content = {
        **{"model_type": kind, "vocab_size": len(vocabulary), "max_position_embeddings": POSITIONS},
        **dict(zip(sizes, (WIDTH, LAYERS, HEADS, INNER), strict=True)),
        **config,
    }
    (folder / "config.json").write_text(json.dumps(content))
    tokenizer = Tokenizer(
        models.WordPiece({word: number for number, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.enable_truncation(8)  # as such files have it; the spec's max_tokens counts
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(weights(kind, prefix, len(vocabulary)), folder / "model.safetensors")
    return folder


def weights(kind: str, prefix: str, words: int) -> dict[str, torch.Tensor]:
    """Drawn weights under the names of BERT, or of DistilBERT, which has no segments: there they are 0."""
    draw = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) * 0.3

    found = {"embeddings.word_embeddings.weight": drawn(words, WIDTH)}
    found["embeddings.position_embeddings.weight"] = drawn(POSITIONS, WIDTH)
    found |= {"embeddings.LayerNorm.weight": 1 + drawn(WIDTH), "embeddings.LayerNorm.bias": drawn(WIDTH)}
    if kind == "bert":
        found["embeddings.token_type_embeddings.weight"] = torch.zeros(2, WIDTH)
    names = {**LINEAR, **NORMS} if kind == "distilbert" else {name: name for name in (*LINEAR, *NORMS)}
    layer = "transformer.layer" if kind == "distilbert" else "encoder.layer"
    for number in range(LAYERS):
        for name, own in names.items():
            one, other = (INNER if name.startswith("intermediate") else WIDTH, WIDTH)
            other = INNER if name == "output.dense" else other
            is_norm = name in NORMS
            found[f"{layer}.{number}.{own}.weight"] = 1 + drawn(WIDTH) if is_norm else drawn(one, other)
            found[f"{layer}.{number}.{own}.bias"] = drawn(one)
    found = {prefix + name: tensor for name, tensor in found.items()}
    return {**found, "cls.predictions.bias": torch.zeros(words)}
