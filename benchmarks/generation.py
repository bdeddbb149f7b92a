"""Measures texts that are made token by token beside Hugging Face's transformers, on one thread.

    marina bench generation                          GPT-2's form with drawn weights: a minute
    marina bench generation --layers 6 --width 384 --new-tokens 128

Both have the same weights and the same prompts, greedy. The model is imported and exported as any other, so
that the runtime that was measured to be the fastest computes it. "first" is the time until the first token of
one request, "step" the median time between two tokens. Tokens per second are of processor time, the best of
several rounds, measured in turns. transformers must be installed; it is no dependency of this project.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from handlers.decoding.generation import Generation
from handlers.decoding.options import GenerationOptions
from handlers.kinds.generator import GeneratorPredictor
from marina.core.errors import CallError
from marina.core.spec import load
from training.train import train

VOCABULARY, PROMPT, PLACES = 4000, 16, 1024
TOGETHER = (1, 8)
SPEC = """# A GPT-2 with drawn weights.
kind: generator
training:
  recipe: imported_generator
  source: hf:{folder}
export: {{runtimes: [openvino], precisions: [fp32]}}
"""


def write_model(folder: Path, layers: int, width: int, heads: int) -> Any:
    """A model of transformers with drawn weights, written to `folder` with a tokenizer."""
    import tokenizers
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        **{"vocab_size": VOCABULARY, "n_positions": PLACES, "n_embd": width, "n_layer": layers},
        **{"n_head": heads, "bos_token_id": 0, "eos_token_id": 0},
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(folder)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["In the beginning it was a word."], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


def served(home: Path, folder: Path) -> GeneratorPredictor:
    """The model as it is served, from a project in `home`."""
    (home / "models").mkdir()
    (home / "models" / "gpt2.yaml").write_text(SPEC.format(folder=folder), encoding="utf-8")
    spec = load("gpt2", home=home)
    train(spec)
    predictor = spec.predictor()
    assert isinstance(predictor, GeneratorPredictor)
    predictor.load(spec.export_dir)
    return predictor


def prompts_of(count: int) -> np.ndarray:
    """Drawn tokens int64 [count, PROMPT]."""
    return np.random.default_rng(0).integers(1, 200, (count, PROMPT))


def generations(predictor: GeneratorPredictor, count: int, new: int) -> list[Generation]:
    """Answers of which nothing is made yet."""
    options = GenerationOptions(max_new_tokens=new)
    end = -1  # so that all are as long
    return [
        Generation(prompt, options, predictor.vocabulary, end, is_continued=True)
        for prompt in prompts_of(count)
    ]


def theirs(model: Any, count: int, new: int) -> list[list[int]]:
    """What transformers answers."""
    given = torch.from_numpy(prompts_of(count))
    with torch.inference_mode():
        found = model.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
    rows: list[list[int]] = found[:, PROMPT:].tolist()
    return rows


def best(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The least processor seconds of each call, all in turns, after one that warms up."""
    seconds = dict.fromkeys(calls, float("inf"))
    for turn in range(rounds + 1):
        for name, call in calls.items():
            started = time.process_time()
            call()
            if turn:
                seconds[name] = min(seconds[name], time.process_time() - started)
    return seconds


def first_and_step(predictor: GeneratorPredictor, new: int) -> tuple[float, float]:
    """Milliseconds until the first token of one request, and between two."""
    firsts, steps = [], []
    for _ in range(5):
        decoder, (one,) = predictor.decoder(), generations(predictor, 1, new)
        started = time.process_time()
        decoder.set_active([one])
        firsts.append(time.process_time() - started)
        while decoder.active:
            started = time.process_time()
            decoder.step()
            steps.append(time.process_time() - started)
    return median(firsts) * 1000, median(steps) * 1000


def measured(layers: int, width: int, heads: int, new: int, rounds: int) -> dict[str, Any]:
    """Tokens per second of both, and whether they say the same."""
    torch.set_num_threads(1)
    rows = []
    with TemporaryDirectory() as place:
        folder = Path(place) / "model"
        model = write_model(folder, layers, width, heads)
        predictor = served(Path(place), folder)
        for count in TOGETHER:
            ours = generations(predictor, count, new)
            predictor.decoder().run(ours)
            same = [one.search.tokens for one in ours] == theirs(model, count, new)

            def run(count: int = count) -> None:
                predictor.decoder().run(generations(predictor, count, new))

            def peer(count: int = count) -> None:
                theirs(model, count, new)

            seconds = best({"marina": run, "transformers": peer}, rounds)
            rates = {name: count * new / value for name, value in seconds.items()}
            ratio = rates["marina"] / rates["transformers"]
            rows.append({"requests": count, **rates, "ratio": ratio, "same": same})
        first, step = first_and_step(predictor, new)
        runtime = predictor.computing["runtime"]
    return {"layers": layers, "width": width, "runtime": runtime, "first": first, "step": step, "rows": rows}


def main() -> None:
    """Measure, print a line for each number of requests, write --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="file for the results")
    options = parser.parse_args()
    if find_spec("transformers") is None:
        raise CallError("transformers is not installed: pip install transformers")
    found = measured(options.layers, options.width, options.heads, options.new_tokens, options.rounds)
    print(
        f"{found['layers']} layers, {found['width']} wide ({found['runtime']}): first token "
        f"{found['first']:.2f} ms, step {found['step']:.2f} ms"
    )
    for row in found["rows"]:
        print(
            f"{row['requests']} at once: {row['marina']:.0f} tokens/s, transformers "
            f"{row['transformers']:.0f}, ratio {row['ratio']:.2f}; "
            f"{'the same texts' if row['same'] else 'other texts'}"
        )
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
