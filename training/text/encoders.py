"""Encoders that were pretrained elsewhere: BERT (Devlin et al. 2019) and what has its shape, as DistilBERT
(Sanh et al. 2019) and MiniLM (Wang et al. 2020), from a folder with config.json, tokenizer.json and
model.safetensors.

The network is written out here and takes the weights by their names, so that no further library is needed,
neither to train nor to serve. [CLS] and [SEP] are put around the tokens inside the graph. Not covered: other
positions than learned ones (RoBERTa's begin at 2, DeBERTa's and MPNet's are relative), decoders, pickles.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from handlers.inputs.tokenization import PAD
from marina.core import paths
from marina.core.errors import CallError
from training.text.settings import PRETRAINED as PREFIX

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
NEEDED = f"a folder with {CONFIG}, {TOKENIZER} and {WEIGHTS}, as save_pretrained writes it"
SHAPES = ("bert", "distilbert")
POOLING = "1_Pooling/config.json"  # of sentence-transformers
ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
# names of DistilBERT -> those of BERT
DISTILBERT = {
    "transformer.layer.": "encoder.layer.",
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
# names of BERT -> those of the modules here
NAMES = {
    "encoder.layer.": "layers.",
    "attention.self.": "",
    "attention.output.dense": "mixed",
    "attention.output.LayerNorm": "after_attention",
    "intermediate.dense": "inner",
    "output.dense": "outer",
    "output.LayerNorm": "after_inner",
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "segments",
    "embeddings.LayerNorm": "first",
}
HEADS = ("pooler.", "cls.", "vocab_", "qa_outputs.", "classifier.", "pre_classifier.")  # of other tasks


@dataclass(frozen=True)
class Shape:
    """The sizes of an encoder."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    inner: int
    positions: int
    segments: int  # 0 for none
    epsilon: float
    approximate: str
    dropout: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any], place: Path) -> "Shape":
        """Of a config.json. Raises CallError for an encoder of another shape."""
        kind = config.get("model_type")
        if kind not in SHAPES:
            raise CallError(f"{place}: model_type {kind!r} is not taken; known: {', '.join(SHAPES)}")
        positions = config.get("position_embedding_type", "absolute")
        activation = config.get("hidden_act", config.get("activation", "gelu"))
        if positions != "absolute" or activation not in ACTIVATIONS or config.get("pad_token_id", 0) != PAD:
            raise CallError(
                f"{place}: {positions} positions, the activation {activation} and padding "
                f"{config.get('pad_token_id', 0)}; taken are absolute, {', '.join(ACTIVATIONS)} and {PAD}"
            )
        is_bert = kind == "bert"
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        if not is_bert:
            names = ("dim", "n_layers", "n_heads", "hidden_dim")
        try:
            width, layers, heads, inner = (int(config[name]) for name in names)
            return cls(
                **{"vocabulary": int(config["vocab_size"]), "width": width, "layers": layers, "heads": heads},
                **{"inner": inner, "positions": int(config["max_position_embeddings"])},
                segments=int(config.get("type_vocab_size", 2)) if is_bert else 0,
                epsilon=float(config.get("layer_norm_eps", 1e-12)),
                approximate=ACTIVATIONS[activation],
                dropout=float(config.get("hidden_dropout_prob", config.get("dropout", 0.1))),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CallError(f"{place} lacks a size, or has one that is none: {error!r}") from error


class Layer(nn.Module):
    """Attention and two linear layers, each normalized after it is added."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.approximate = shape.heads, shape.approximate
        self.query, self.key, self.value = (nn.Linear(shape.width, shape.width) for _ in range(3))
        self.mixed = nn.Linear(shape.width, shape.width)
        self.inner, self.outer = nn.Linear(shape.width, shape.inner), nn.Linear(shape.inner, shape.width)
        self.after_attention = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.after_inner = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[B, length, width], bool [B, 1, 1, length] -> [B, length, width]."""
        batch, length, width = vectors.shape

        def split(values: torch.Tensor) -> torch.Tensor:
            return values.reshape(batch, length, self.heads, -1).transpose(1, 2)

        query, key, value = (split(project(vectors)) for project in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed = self.mixed(mixed.transpose(1, 2).reshape(batch, length, width))
        vectors = self.after_attention(vectors + self.dropout(mixed))
        inner = self.outer(F.gelu(self.inner(vectors), approximate=self.approximate))
        result: torch.Tensor = self.after_inner(vectors + self.dropout(inner))
        return result


class Encoder(nn.Module):
    """Tokens int64 [B, length], filled up with PAD behind -> one vector each: the mean of all, or the first
    one's ([CLS]); of the last `pooled` layers side by side.
    """

    def __init__(self, shape: Shape, first: int, last: int, pooling: str, pooled: int = 1) -> None:
        super().__init__()
        self.width, self.longest, self.pooling = pooled * shape.width, shape.positions - 2, pooling
        self.pooled = pooled
        self.first_token, self.last_token = first, last
        self.words = nn.Embedding(shape.vocabulary, shape.width, PAD)
        self.positions = nn.Embedding(shape.positions, shape.width)
        self.segments = nn.Embedding(shape.segments, shape.width) if shape.segments else None
        self.first = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.dropout = nn.Dropout(shape.dropout)

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """The vector of each token, [CLS] and [SEP] among them: [B, length + 2, width]."""
        return self._hidden(*self._framed(tokens))[-1]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, length] -> [B, width]."""
        framed, mask = self._framed(tokens)
        vectors = torch.cat(self._hidden(framed, mask)[-self.pooled :], 2)
        if self.pooling == "first":
            return vectors[:, 0]
        counted = mask.unsqueeze(2)
        mean: torch.Tensor = (vectors * counted).sum(1) / counted.sum(1)
        return mean

    def _framed(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[CLS] tokens [SEP], and which of them count."""
        lengths = (tokens != PAD).sum(1, keepdim=True)
        framed = F.pad(tokens, (1, 1), value=PAD)
        places = torch.arange(framed.shape[1], device=tokens.device)
        framed = torch.where(places == 0, self.first_token, framed)
        framed = torch.where(places == lengths + 1, self.last_token, framed)
        return framed, places <= lengths + 1

    def _hidden(self, framed: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        """What each layer gives."""
        places = torch.arange(framed.shape[1], device=framed.device)
        vectors: torch.Tensor = self.words(framed) + self.positions(places)
        if self.segments is not None:
            vectors = vectors + self.segments.weight[0]
        vectors = self.dropout(self.first(vectors))
        given = []
        for layer in self.layers:
            vectors = layer(vectors, mask[:, None, None, :])
            given.append(vectors)
        return given


def folder_of(source: str) -> Path:
    """The folder that `hf:FOLDER` names. Raises CallError where it isn't such a one."""
    folder = paths.expanded(source.removeprefix(PREFIX))
    missing = [name for name in (CONFIG, TOKENIZER, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise CallError(f"{source}: {folder} has no {', '.join(missing)}; give {NEEDED}")
    return folder


def load_encoder(source: str, pooling: str = "auto", pooled: int = 1) -> tuple[Encoder, bytes]:
    """The encoder of `hf:FOLDER` with its weights in float32, and the content of its tokenizer.json.

    `pooling` is mean, first, or auto: what sentence-transformers' own file says, else the mean; of the last
    `pooled` layers. Raises CallError for a folder that holds something else, or not all weights.
    """
    folder = folder_of(source)
    config, tokenizer = _json(folder / CONFIG), (folder / TOKENIZER).read_bytes()
    shape = Shape.from_config(config, folder / CONFIG)
    first, last = _special(tokenizer, folder / TOKENIZER)
    if pooled > shape.layers:
        raise CallError(f"pooled_layers {pooled}: the encoder has {shape.layers}")
    if pooling == "auto":
        pooling = _pooling(folder)
    with torch.device("meta"):
        encoder = Encoder(shape, first, last, pooling, pooled)
    try:
        state = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CallError(f"{folder / WEIGHTS} can't be read: {error}") from error
    weights = {name: tensor for key, tensor in state.items() if (name := renamed(key)) is not None}
    encoder.load_state_dict(fitting(weights, encoder, folder), assign=True)
    return encoder.eval(), tokenizer


def fitting(weights: Mapping[str, torch.Tensor], network: nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """Those that a network needs, in float32. Raises CallError where some are missing or of another shape."""
    needed = network.state_dict()
    wrong = [name for name, one in needed.items() if name not in weights or weights[name].shape != one.shape]
    if wrong:
        raise CallError(
            f"{folder / WEIGHTS} lacks {len(wrong)} of {len(needed)} weights, or has them in another shape "
            f"than {CONFIG} says: {', '.join(wrong[:3])}"
        )
    return {name: weights[name].float() for name in needed}


def freeze(encoder: Encoder, layers: int | None) -> None:
    """Keep the embeddings and so many layers as they are, all where it is None; none where it is 0."""
    count = len(encoder.layers)
    if layers is not None and layers > count:
        raise CallError(f"frozen_layers {layers}: the encoder has {count}")
    frozen = count if layers is None else layers
    if layers == 0:
        return
    encoder.requires_grad_(False)
    for layer in encoder.layers[frozen:]:
        layer.requires_grad_(True)


def is_frozen(module: nn.Module) -> bool:
    """Whether nothing of it learns."""
    return not any(weight.requires_grad for weight in module.parameters())


def layer_rates(encoder: Encoder, rate: float, decay: float) -> dict[float, list[nn.Parameter]]:
    """Learning rate -> what of the encoder learns at it: `rate` its last layer, each before at `decay` of
    the next one's (Howard and Ruder 2018, section 3.2).
    """
    groups: dict[float, list[nn.Parameter]] = {}
    within = {id(weight) for layer in encoder.layers for weight in layer.parameters()}
    others = [weight for weight in encoder.parameters() if id(weight) not in within]
    for depth, weights in enumerate([*layer.parameters()] for layer in reversed(encoder.layers)):
        groups.setdefault(rate * decay**depth, []).extend(weights)
    groups.setdefault(rate * decay ** len(encoder.layers), []).extend(others)
    learning = {key: [each for each in weights if each.requires_grad] for key, weights in groups.items()}
    return {key: weights for key, weights in learning.items() if weights}


def renamed(key: str) -> str | None:
    """The name here of a weight of BERT or DistilBERT; None for one of a head."""
    key = key.removeprefix("bert.").removeprefix("distilbert.")
    if key.startswith(HEADS):
        return None
    for old, new in (*DISTILBERT.items(), *NAMES.items()):
        key = key.replace(old, new)
    return key.replace(".gamma", ".weight").replace(".beta", ".bias")


def _special(tokenizer: bytes, place: Path) -> tuple[int, int]:
    """The numbers of [CLS] and [SEP]. Raises CallError for a tokenizer that has none, or another padding."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise CallError(f"{PREFIX} needs the package tokenizers: pip install 'marina[text]'") from error
    try:
        library = Tokenizer.from_buffer(tokenizer)
    except Exception as error:  # the library raises Exception itself
        raise CallError(f"{place} can't be read by the package tokenizers: {error}") from error
    first, last, padding = (library.token_to_id(name) for name in ("[CLS]", "[SEP]", "[PAD]"))
    if first is None or last is None or padding != PAD:
        raise CallError(f"{place} has no [CLS] and [SEP], or [PAD] is not {PAD}; give that of a BERT")
    return first, last


def _pooling(folder: Path) -> str:
    path = folder / POOLING
    config = _json(path) if path.is_file() else {}
    if config.get("pooling_mode_cls_token"):
        return "first"
    if config and not config.get("pooling_mode_mean_tokens"):
        raise CallError(f"{path} pools in another way; say pooling: mean or first")
    return "mean"


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise CallError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise CallError(f"{path} is no JSON object")
    return content
