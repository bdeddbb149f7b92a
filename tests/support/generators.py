"""A generator that needs no training: it spells what is sent, a letter a token."""

import json
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import tokenizers
import torch
from safetensors.torch import save_file
from torch import nn

from handlers.decoding.loop import Layout
from handlers.decoding.state import CONSTANT, StatePart
from handlers.decoding.vocabulary import BEGIN, END, list_file
from handlers.decoding.vocabulary import FILE as TARGET_FILE
from handlers.decoding.vocabulary import SPECIAL as TARGETS
from handlers.inputs.tokenization import FILE, SPECIAL
from handlers.kinds.generator import PROMPT, GeneratorPredictor
from handlers.runtime.export import Export
from handlers.runtime.runtimes import TorchRuntime
from training.export.trained import Sample, Trained
from training.generation.exporting import postprocess_of, trained_generator

LONGEST = 200
LETTERS = [*ascii_lowercase]
SOURCE_FILE = json.dumps(
    {"type": "characters", "lowercase": True, "sizes": [1, 1], "vocabulary": [*SPECIAL, *LETTERS]}
).encode()
VOCABULARY = list_file([*TARGETS, *map(str.upper, LETTERS)], " ")
PREPROCESS: dict[str, Any] = {
    **{"input": "text", "tokenizer": "characters"},
    **{"max_tokens": LONGEST, "max_characters": 1000},
}
TEXT = "ada"


class Prompt(nn.Module):
    """Remembers the letters."""

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
        """Tokens int64 [B, S], lengths int64 [B] -> both."""
        return {"letters": tokens, "count": lengths}


class Step(nn.Module):
    """The next letter in capitals, and the end behind the last; `sure` is its lead."""

    def __init__(self, sure: float = 8.0) -> None:
        super().__init__()
        self.sure = sure

    def forward(
        self, token: torch.Tensor, position: torch.Tensor, letters: torch.Tensor, count: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """By the place in the text; what was written counts nothing."""
        places = torch.arange(letters.shape[1])[None]
        looked = (places == position[:, None]).float()
        letter = (letters * looked).sum(1) + 2 + 0 * token
        following = torch.where(position < count, letter, torch.full_like(letter, END))
        numbers = torch.arange(len(TARGETS) + len(LETTERS))
        logits = (numbers[None] == following[:, None]).float() * self.sure
        return {"logits": logits, "attention": looked}


class Speller:
    """The two programs, as a recipe's network has them."""

    def __init__(self, sure: float = 8.0) -> None:
        self.sure = sure

    def layout(self) -> Layout:
        """How they are called."""
        parts = (
            StatePart("letters", CONSTANT, (0,), "int64", axis=1),
            StatePart("count", CONSTANT, (), "int64"),
        )
        return Layout(parts, BEGIN, END)

    def programs(self) -> tuple[nn.Module, nn.Module]:
        """What reads, and what writes."""
        return Prompt(), Step(self.sure)


def serve_generator(folder: Path, sure: float = 8.0, **postprocess: Any) -> GeneratorPredictor:
    """A predictor of a Speller; its files go to the empty `folder`."""
    network = Speller(sure)
    files: dict[str, Any] = {
        "model_metadata": {"name": "toy", "version": "1.0", "kind": "generator", "max_batch": 8},
        "preprocess_config": PREPROCESS,
        "postprocess_config": {**postprocess_of(network, "words", LONGEST, {}), **postprocess},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / FILE).write_bytes(SOURCE_FILE)
    (folder / TARGET_FILE).write_bytes(VOCABULARY)
    predictor = GeneratorPredictor()
    predictor.configure(Export.open(folder))
    prompt, step = (TorchRuntime(one.eval()) for one in network.programs())
    predictor.model, predictor.parts = step, {PROMPT: prompt}
    return predictor


def trained() -> Trained:
    """A model of the kind, as a recipe gives it."""
    prompts = [np.array([2, 5, 2, 9]), np.array([3, 4]), np.array([7])]
    body = json.dumps({"text": TEXT}).encode()
    return trained_generator(
        Speller(),
        prompts,
        LONGEST,
        LONGEST,
        metrics={"accuracy": 1.0},
        preprocess=PREPROCESS,
        postprocess=postprocess_of(Speller(), "words", LONGEST, {}),
        files={FILE: SOURCE_FILE, TARGET_FILE: VOCABULARY},
        samples=[Sample("spelled", body, "application/json", {"text": "A D A"})],
        data={"name": "letters"},
    )


def write_dictionary(path: Path, count: int = 200) -> Path:
    """Words and a phoneme for each of their letters."""
    draw = np.random.default_rng(0)
    words = sorted({"".join(draw.choice([*"abcdeiou"], draw.integers(2, 7))) for _ in range(count)})
    lines = [f"{word} {' '.join(letter.upper() + '1' for letter in word)}" for word in words]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_text(path: Path) -> Path:
    """A text that repeats itself."""
    path.write_text("the quick brown fox jumps over the lazy dog. " * 200, encoding="utf-8")
    return path


def write_gpt2(folder: Path, **config: Any) -> Path:
    """A small GPT-2 with drawn weights, as Hugging Face's library writes one, and its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.train_from_iterator(["In the beginning it was a word, she said."] * 9, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    size, width, layers, places = tokenizer.get_vocab_size(), 16, 2, 64
    content = {
        **{"model_type": "gpt2", "activation_function": "gelu_new", "eos_token_id": 0},
        **{"vocab_size": size, "n_embd": width, "n_layer": layers, "n_head": 2, "n_positions": places},
        **config,
    }
    (folder / "config.json").write_text(json.dumps(content))
    draw = torch.Generator().manual_seed(0)
    shapes = {"wte.weight": (size, width), "wpe.weight": (places, width)}
    for layer in range(layers):
        for name, shape in (
            *(("attn.c_attn", (width, 3 * width)), ("attn.c_proj", (width, width))),
            *(("mlp.c_fc", (width, 4 * width)), ("mlp.c_proj", (4 * width, width))),
        ):
            shapes |= {f"h.{layer}.{name}.weight": shape, f"h.{layer}.{name}.bias": shape[1:]}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"h.{layer}.{name}.{part}": (width,) for part in ("weight", "bias")}
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    weights = {
        f"transformer.{name}": torch.randn(*shape, generator=draw) * 0.4 for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors")
    return folder
