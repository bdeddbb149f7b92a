"""Reads the files that an imported model lies in - state dicts, programs, and pickles if they are trusted - as tensors alone.

A .pt2 is no pickle, but torch unpickles parts of it and evaluates expressions in it: both are looked at first. Torch's own
guarantees end there; neither is a sandbox against what a crafted file may do to torch itself.
"""

import io
import json
import os
import pickle
import re
import sys
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from marina.errors import CallError

State = dict[str, torch.Tensor]
NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net")  # where checkpoints keep the weights
PREFIXES = ("module.", "model.", "_orig_mod.", "net.")  # of DataParallel, Lightning and torch.compile
NO_ARCHITECTURE = "holds weights and no architecture; name that as the source (torchvision:NAME, file.py:function), and this as weights"
# Where torch evaluates text it wrote sizes, as sympy prints them: no attribute, no index, no escape, no function of small letters.
WORDS = r"[A-Z][A-Za-z]*|[a-z]+\d+|positive|negative|nonnegative|integer|real|finite|zero|precision|int_oo"
EXPRESSION = re.compile(rf"(?:\b(?:{WORDS})\b|(?<![\w.])\d+(?:\.\d+)?\b|[\s(),='*/+<>!-])*")


def existing(name: str | None, what: str) -> Path:
    """The file called `name`. Raises CallError where there is none."""
    path = Path(str(name)).expanduser()
    if not path.is_file():
        raise CallError(f"{what} {name!r}: no such file")
    return path


def called(function: Callable[..., Any], what: str) -> Any:
    """What `function` gives; whatever it raises, which is code that isn't ours, becomes a CallError that says where."""
    try:
        return function()
    except CallError:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise CallError(f"{what} raised {type(error).__name__} at {where.filename}:{where.lineno}: {error}") from error


@contextmanager
def importable(folder: Path | None = None) -> Iterator[None]:
    """With the working folder, and `folder` before it, where imports are looked for."""
    before = list(sys.path)
    sys.path[:0] = [str(place) for place in (folder, Path.cwd()) if place]
    try:
        yield
    finally:
        sys.path[:] = before


def read_module(path: Path, trusted: bool) -> nn.Module:
    """A whole model that torch.save pickled. Raises CallError unless it is `trusted`, and where it is none."""
    if not trusted:
        read_state(path)  # says so where it is a pickle
        raise CallError(f"{path} {NO_ARCHITECTURE}")
    content = _unpickled(path)
    if isinstance(content, dict):
        content = next((content[key] for key in NESTED if isinstance(content.get(key), nn.Module)), content)
    if not isinstance(content, nn.Module):
        raise CallError(f"{path} {NO_ARCHITECTURE}")
    return content


def read_state(path: Path, trusted: bool = False) -> State:
    """The tensors by name in a .safetensors file, or in a .pth that holds a state dict or a checkpoint with one.

    Raises CallError for a pickle of more than tensors, unless it is `trusted`; then also a whole model will do.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CallError(f"{path} is no .safetensors file, or a damaged one ({error}); save it again") from error
    content = _tensors(path, trusted)
    if isinstance(content, dict):
        content = next((content[key] for key in NESTED if isinstance(content.get(key), dict | nn.Module)), content)
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, dict) or not content or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CallError(f"{path} holds no state dict; save one with torch.save(model.state_dict(), path)")
    return dict(content)


def _tensors(path: Path, trusted: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not trusted:
            raise CallError(
                f"{path} is a pickle of more than tensors, and reading it could run any code; save the weights alone, with "
                "torch.save(model.state_dict(), …) or as .safetensors, or trust it with --trust-pickle"
            ) from error
    except Exception as error:  # torch raises whatever its reader stumbles over
        if "TorchScript" in str(error):
            raise CallError(f"{path} is TorchScript; export the model with torch.export and give the .pt2") from error
        raise CallError(f"{path} is no file of torch.save, or a damaged one ({first_line(error)}); save it again") from error
    return _unpickled(path)


def _unpickled(path: Path) -> Any:
    """Whatever is in `path`; its code runs."""
    with importable(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the source having changed since
        return called(lambda: torch.load(path, map_location="cpu", weights_only=False), str(path))


def aligned(state: State, own: State) -> State:
    """`state` without the one prefix that training frameworks put before every name, unless `own` has it too."""
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in own):
            return {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def load_weights(module: nn.Module, state: State, weights: str) -> None:
    """Put `state` into `module`, which it must fit wholly. Raises CallError that lists the first misfits."""
    own = module.state_dict()
    state = aligned(state, own)
    counters = {key for key in own if key.endswith("num_batches_tracked")}  # older files lack them, and nothing is computed of them
    misfits = [f"{key} is missing" for key in own if key not in state and key not in counters]
    misfits += [f"{key} is not known" for key in state if key not in own]
    misfits += [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    if misfits:
        raise CallError(f"weights {weights} don't fit: {'; '.join(misfits[:4])}{f'; {len(misfits)} in all' if len(misfits) > 4 else ''}")
    module.load_state_dict(state, strict=False)


@contextmanager
def tensors_alone() -> Iterator[None]:
    """Whatever reads a file through torch.load in here gets tensors or an error; some of torch's own readers ask for less."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def read_program(path: Path, trusted: bool) -> torch.export.ExportedProgram:
    """The program in a .pt2. Raises CallError for another file, and for one that could run code, unless it is `trusted`."""
    if not zipfile.is_zipfile(path):
        raise CallError(f"{path} is no program of torch.export.save, or not all of it; save it again")
    if not trusted and (stranger := _strange_text(path)):
        raise CallError(f"{path} has text that torch.export doesn't write and that would run as code: {stranger[:80]!r}")
    try:
        with nullcontext() if trusted else tensors_alone():
            return torch.export.load(io.BytesIO(path.read_bytes()))
    except pickle.UnpicklingError as error:
        raise CallError(f"{path} holds a pickle, and reading it could run any code; export the model again, or --trust-pickle") from error
    except Exception as error:  # torch's reader raises whatever it stumbles over
        raise CallError(f"{path} can't be read by torch {torch.__version__} ({first_line(error)}); export the model again") from error


def _strange_text(path: Path) -> str:
    """The first text in a .pt2 that torch would evaluate and that isn't made of sizes; empty where there is none."""

    def evaluated(node: Any) -> Iterator[str]:
        if isinstance(node, dict) and "expr_str" in node:
            yield str(node["expr_str"])
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from evaluated(child)

    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if twice := next((name for name in names if names.count(name) > 1), None):
            return f"two files {twice}"  # torch might read the other one
        models = [json.loads(archive.read(name)) for name in names if name.endswith(".json")]
    return next((text for text in evaluated(models) if not EXPRESSION.fullmatch(text)), "")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
