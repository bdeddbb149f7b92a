"""Language models: learned, or imported from a folder of Hugging Face's; served with a cache."""

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handlers.decoding.options import GenerationOptions
from handlers.decoding.prompts import PRETRAINED, ByteTokenizer, load_prompt_tokenizer
from handlers.decoding.state import CHUNK
from handlers.runtime.export import Export
from marina.core import spec
from marina.core.errors import CallError
from tests.support.generators import write_gpt2, write_text
from training.generation.causal import CausalNetwork
from training.generation.gpt2 import load_gpt2
from training.generation.language import WindowBatches
from training.generation.learner import answers_of
from training.generation.perplexity import measured, windows
from training.recipes import imported_generator
from training.runs.run import Run
from training.train import train

TEXT = "In the beginning it was a word — “naïve”\n\n  said\tshe."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gpt2(tmp_path_factory.mktemp("gpt2"))


def written(home: Path, recipe: str, **training: Any) -> spec.Spec:
    """A spec of a toy in `home`."""
    (home / "models").mkdir()
    text = f"# A toy.\nkind: generator\ntraining: {json.dumps({'recipe': recipe, **training})}\n"
    is_import = recipe.startswith("imported")  # its programs are those of what is learned here
    text += f"export: {{runtimes: {[] if is_import else ['openvino']}, precisions: [fp32]}}\n"
    text += "" if is_import else "floor: {token_accuracy: 0.5}\n"
    (home / "models" / "toy.yaml").write_text(text)
    return spec.load("toy", home=home)


def test_a_text_comes_back_from_its_tokens(folder: Path) -> None:
    """White space and all; a beginning has the tokens that it has in the whole."""
    for tokenizer in (
        ByteTokenizer(),
        load_prompt_tokenizer((folder / "tokenizer.json").read_bytes(), PRETRAINED),
    ):
        whole = tokenizer.encode(TEXT, 1000)
        assert not whole.truncated
        assert tokenizer.text(whole.ids.tolist()) == TEXT
        part = tokenizer.encode(TEXT, 7)
        assert part.truncated
        np.testing.assert_array_equal(part.ids, whole.ids[:7])
        assert len(part.spans) == 7
        assert len(tokenizer.vocabulary()) == tokenizer.size


def test_a_cache_gives_what_one_pass_gives(folder: Path) -> None:
    """Of prompts of different lengths in one batch, over the end of a chunk of the cache; by hand."""
    network = CausalNetwork(50, 16, 2, 2, 0.0, 3 * CHUNK, 49).eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    prompts = [np.arange(1, 4), np.arange(2, 40) % 49, np.array([7])]
    found = answers_of(network, prompts, ByteTokenizer(), GenerationOptions(CHUNK + 20))
    for prompt, one in zip(prompts, found, strict=True):
        tokens = [*prompt.tolist(), *one.search.tokens]
        with torch.no_grad():
            best = network(torch.tensor([tokens]))[0].argmax(1).tolist()
        assert best[len(prompt) - 1 : -1] == one.search.tokens
        assert one.finish_reason == "length" or best[-1] == 49


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
def test_a_gpt2_answers_as_transformers_does(folder: Path) -> None:
    """Greedy, with and without a repetition penalty."""
    from transformers import GPT2LMHeadModel

    theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
    network, content = load_gpt2(f"hf:{folder}")
    tokenizer = load_prompt_tokenizer(content, PRETRAINED)
    prompts = [tokenizer.encode(text, 30).ids for text in ("In the", "she said it was a", "word")]
    for penalty in (1.0, 1.5):
        options = GenerationOptions(30, repetition_penalty=penalty)
        for prompt, one in zip(prompts, answers_of(network, prompts, tokenizer, options), strict=True):
            given = torch.from_numpy(prompt)[None]
            expected = theirs.generate(
                given, max_new_tokens=30, do_sample=False, pad_token_id=0, repetition_penalty=penalty
            )[0, len(prompt) :].tolist()
            assert [*one.search.tokens, 0][: len(expected)] == expected


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "llama"}, "is of 'llama'; generators of the type gpt2"),
        ({"activation_function": "relu"}, "activation_function is 'relu', which can't be imported"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"n_layer": 3}, "lacks 16 of 52 weights"),
        ({"n_embd": "x"}, "config.json has no"),
        ({"n_inner": 5}, "n_inner 5"),
    ],
)
def test_folders_that_are_none_are_refused(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    """With what is wrong."""
    with pytest.raises(CallError, match=words):
        load_gpt2(f"hf:{write_gpt2(tmp_path, **config)}")


def test_places_are_split_between_prompt_and_answer(folder: Path) -> None:
    """Half and half unless the spec says otherwise, and never more than there are."""
    source = f"hf:{folder}"
    made = imported_generator.train(imported_generator.Settings(source=source), Run(folder))
    assert (made.preprocess["max_tokens"], made.postprocess["max_new_tokens"]) == (32, 32)
    wide = imported_generator.Settings(source=source, max_tokens=60, max_new_tokens=5)
    with pytest.raises(CallError, match="together the model has places for 64"):
        imported_generator.train(wide, Run(folder))
    with pytest.raises(ValueError, match="write hf:FOLDER"):
        imported_generator.Settings(source="gpt2")


@pytest.mark.slow
def test_an_imported_model_is_served_as_it_was_brought(folder: Path, tmp_path: Path) -> None:
    """With the perplexity of a text."""
    text = write_text(tmp_path / "text.txt")
    made = written(tmp_path, "imported_generator", source=f"hf:{folder}", data=str(text))
    export = Export.open(train(made))
    assert export.metadata["metrics"]["perplexity"] > 1
    predictor = made.predictor()
    assert predictor.load(made.export_dir) == 4
    body = {"text": "In the beginning", "max_new_tokens": 20, "temperature": 1.0, "seed": 3}
    rows: list[Any] = [({"body": json.dumps(body).encode()}, {"content-type": "application/json"})] * 3
    answers = predictor.answer_rows(rows)
    assert answers[0]["text"] == answers[2]["text"]


@pytest.mark.slow
def test_a_text_is_learned_and_gone_on_with(tmp_path: Path) -> None:
    """Bytes of a text that repeats itself; the answer is what comes next."""
    quick = {"epochs": 12, "width": 48, "layers": 2, "max_tokens": 24, "max_new_tokens": 24, "dropout": 0.0}
    data = str(write_text(tmp_path / "text.txt"))
    made = written(tmp_path, "language_model", data=data, learning_rate=0.01, **quick)
    export = Export.open(train(made))
    assert export.metadata["metrics"]["token_accuracy"] > 0.8
    assert export.metadata["metrics"]["perplexity"] < 2
    predictor = made.predictor()
    predictor.load(made.export_dir)
    (answer,) = predictor.answer_rows([({"body": b"quick brown fox jumps"}, {"content-type": "text/plain"})])
    assert answer["text"].startswith(" over the lazy")


def test_perplexity_is_that_of_all_tokens_but_the_first() -> None:
    """Each once, whatever the windows."""
    tokens = np.arange(101) % 7
    parts = [part for rows in windows(tokens, 8) for part in rows]
    assert [one for part in parts for one in part[1:].tolist()] == tokens[1:].tolist()
    network = CausalNetwork(7, 8, 1, 1, 0.0, 8, 6).eval()
    for weight in network.parameters():
        torch.nn.init.zeros_(weight)
    loss, _ = measured(network, tokens, 8)
    assert loss == pytest.approx(math.log(7), abs=1e-5)


def test_windows_of_an_epoch_begin_somewhere_else() -> None:
    """And none goes beyond the text."""
    batches = WindowBatches(np.arange(1000), 16, 8, 0)
    begins = []
    for _ in range(3):
        rows = [row for batch in batches for row in batch.numpy()]
        assert all((np.diff(row) == 1).all() and len(row) == 17 for row in rows)
        begins.append(int(min(row[0] for row in rows)) % 16)
    assert len({*begins}) > 1
