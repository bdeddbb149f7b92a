"""Language models of Hugging Face's form GPT-2 from a folder, without the library transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from marina.core.errors import CallError
from training.generation.causal import CausalNetwork
from training.text.encoders import CONFIG, TOKENIZER, WEIGHTS, fitting, folder_of

NAMES = {
    "wte.weight": "embedding.weight",
    "wpe.weight": "places.weight",
    "ln_f.": "norm.",
    "h.": "layers.",
    ".ln_1.": ".norm.",
    ".ln_2.": ".inner_norm.",
    ".attn.c_proj.": ".attention.out.",
    ".mlp.c_fc.": ".first.",
    ".mlp.c_proj.": ".second.",
}
JOINED = ".attn.c_attn."  # query, key and value side by side
KNOWN = {"activation_function": ("gelu_new", "gelu_pytorch_tanh"), "scale_attn_weights": (True,)}
UNKNOWN = ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention")


def load_gpt2(source: str) -> tuple[CausalNetwork, bytes]:
    """The model of `hf:FOLDER` with its weights in float32, and the content of its tokenizer.json.

    Raises CallError for a folder that holds something else, or not all weights.
    """
    folder = folder_of(source)
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        state = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CallError(f"{folder} can't be read: {error}") from error
    if not isinstance(config, dict) or config.get("model_type") != "gpt2":
        kind = config.get("model_type") if isinstance(config, dict) else None
        raise CallError(f"{folder / CONFIG} is of {kind!r}; generators of the type gpt2 can be imported")
    network = _network(config, folder / CONFIG)
    weights = fitting(renamed(state), network, folder)
    head = state.get("lm_head.weight")
    if head is not None and not torch.equal(head, state.get("transformer.wte.weight", head)):
        raise CallError(f"{folder / WEIGHTS} has a head of its own; only tied ones can be imported")
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False), (folder / TOKENIZER).read_bytes()


def renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights by their names here; those of GPT-2's linear layers are turned over."""
    found: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        name = key.removeprefix("transformer.")
        if JOINED in name:
            parts = zip(("query", "key", "value"), tensor.chunk(3, -1), strict=True)
            for part, own in parts:
                new = name.replace("h.", "layers.", 1).replace(JOINED, f".attention.{part}.")
                found[new] = own.T if own.ndim == 2 else own
            continue
        is_turned = tensor.ndim == 2 and (".c_proj." in name or ".c_fc." in name)
        for old, new in NAMES.items():
            if name.startswith(old) if old in ("h.", "ln_f.") else old in name:
                name = name.replace(old, new, 1)
        found[name] = tensor.T if is_turned else tensor
    return found


def _network(config: Mapping[str, Any], place: Path) -> CausalNetwork:
    wrong = [name for name, values in KNOWN.items() if config.get(name, values[0]) not in values]
    wrong += [name for name in UNKNOWN if config.get(name)]
    if wrong or not config.get("tie_word_embeddings", True):
        named = (wrong or ["tie_word_embeddings"])[0]
        raise CallError(f"{place}: {named} is {config.get(named)!r}, which can't be imported")
    try:
        width, inner = int(config["n_embd"]), config.get("n_inner")
        shape = int(config["n_layer"]), int(config["n_head"])
        size, most = int(config["vocab_size"]), int(config["n_positions"])
        end = int(config.get("eos_token_id", size - 1))
    except (KeyError, TypeError, ValueError) as error:
        raise CallError(f"{place} has no {error}") from error
    if inner not in (None, 4 * width) or width % shape[1]:
        raise CallError(f"{place}: n_inner {inner} and n_head {shape[1]} don't fit n_embd {width}")
    epsilon = float(config.get("layer_norm_epsilon", 1e-5))
    return CausalNetwork(size, width, *shape, 0.0, most, end, epsilon)
