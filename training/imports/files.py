"""Reads the files that an imported model lies in - state dicts, programs, and pickles if they are trusted -
as tensors alone.

A .pt2 is no pickle, but torch unpickles parts of it and evaluates expressions in it: both are looked at
first. Torch's own guarantees end there; neither is a sandbox against what a crafted file may do to torch
itself.
"""

import io
import json
import logging
import os
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from marina.core import paths
from marina.core.errors import CallError
from marina.core.zip_files import check_unpacked_size
from training.findings import Findings, of_run
from training.imports.user_code import called, importable

State = dict[str, torch.Tensor]
# where checkpoints keep the weights
NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net")
# components that wrappers put into names: DataParallel, torch.compile, FSDP, activation checkpoints
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
MEMBERS = ("model", "net", "network")  # of a LightningModule, or another that holds the network
NO_ARCHITECTURE = (
    "holds weights and no architecture; name that as the source (torchvision:NAME, file.py:function), and "
    "this as weights"
)
# Where torch evaluates text it wrote sizes, as sympy prints them: no attribute, no index, no escape, no
# function of small letters.
WORDS = r"[A-Z][A-Za-z]*|[a-z]+\d+|positive|negative|nonnegative|integer|real|finite|zero|precision|int_oo"
EXPRESSION = re.compile(rf"(?:\b(?:{WORDS})\b|(?<![\w.])\d+(?:\.\d+)?\b|[\s(),='*/+<>!-])*")


def existing(name: str | None, what: str) -> Path:
    """The file called `name`. Raises CallError where there is none."""
    path = paths.expanded(str(name))
    if not path.is_file():
        raise CallError(f"{what} {name!r}: no such file")
    return path


def read_module(path: Path, trusted: bool) -> nn.Module:
    """A whole model that torch.save pickled. Raises CallError unless it is `trusted`, and where it is
    none.
    """
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
    """The tensors by name in a .safetensors file, or in a .pth that holds a state dict or a checkpoint with
    one.

    Raises CallError for a pickle of more than tensors, unless it is `trusted`; then also a whole model will
    do.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CallError(
                f"{path} is no .safetensors file, or a damaged one ({error}); save it again"
            ) from error
    content = _tensors(path, trusted)
    if isinstance(content, dict):
        content = next(
            (content[key] for key in NESTED if isinstance(content.get(key), dict | nn.Module)), content
        )
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(value, torch.Tensor) for value in content.values())
    ):
        raise CallError(f"{path} holds no state dict; save one with torch.save(model.state_dict(), path)")
    return dict(content)


def _tensors(path: Path, trusted: bool) -> Any:
    try:
        check_unpacked_size(path, str(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except CallError:
        raise
    except Exception as error:  # torch raises whatever its reader stumbles over
        if "TorchScript" in str(error):
            raise CallError(
                f"{path} is TorchScript; export the model with torch.export and give the .pt2"
            ) from error
        if not isinstance(error, pickle.UnpicklingError) or "global" not in str(error).lower():
            raise CallError(
                f"{path} is no file of torch.save, or a damaged one ({first_line(error)}); save it again"
            ) from error
        if not trusted:
            raise CallError(
                f"{path} is a pickle of more than tensors, and reading it could run any code; save the "
                "weights alone, with "
                "torch.save(model.state_dict(), …) or as .safetensors, or trust it with --trust-pickle"
            ) from error
    return _unpickled(path)


def _unpickled(path: Path) -> Any:
    """Whatever is in `path`; its code runs."""
    with importable(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the source having changed since
        return called(lambda: torch.load(path, map_location="cpu", weights_only=False), str(path))


def aligned(state: State, own: State, weights: str) -> State:
    """`state` under the names of `own`: without the components of wrappers, and without the prefix under
    which a training framework kept the network; what lies outside of that keeps its name.

    Raises CallError where several networks in it fit.
    """
    known = {component for key in own for component in key.split(".")}
    strange = set(WRAPPERS) - known
    plain = {
        ".".join(part for part in key.split(".") if part not in strange): value
        for key, value in state.items()
    }
    prefix = _prefix_of(plain, own, weights)
    inside = {key.removeprefix(prefix): value for key, value in plain.items() if key.startswith(prefix)}
    return {key: value for key, value in plain.items() if not key.startswith(prefix)} | inside


def _prefix_of(state: State, own: State, weights: str) -> str:
    """The prefix under which most names of `own` are: none, or one like "model."."""
    counts: Counter[str] = Counter()
    for key in state:
        starts = [0, *(place + 1 for place, letter in enumerate(key) if letter == ".")]
        counts.update(key[:start] for start in starts if key[start:] in own)
    most = max(counts.values(), default=0)
    prefixes = [prefix for prefix, count in counts.items() if count == most]
    expected = [prefix for prefix in prefixes if set(prefix.split(".")) <= {"", *MEMBERS}]
    if not expected and len(prefixes) > 1:
        raise CallError(
            f"weights {weights} hold several networks that fit: {', '.join(sorted(prefixes)[:5])}; save the "
            "one that is meant: torch.save(checkpoint.NAME.state_dict(), path)"
        )
    return min(expected or prefixes or [""], key=len)


def load_weights(module: nn.Module, state: State, weights: str, findings: Findings | None = None) -> None:
    """Put `state` into `module`, which it must fit wholly. Raises CallError that lists the first misfits.

    Tensors of other modules (a loss, a metric, a teacher) are left out, and that is a finding: of
    `findings`, or without them of the run, and then it is reported at once.
    """
    own = module.state_dict()
    state = aligned(state, own, weights)
    # older files lack them, and nothing is computed of them
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    others = _of_other_modules(state, own)
    misfits = [f"{key} is missing" for key in own if key not in state and key not in counters]
    misfits += [f"{key} is not known" for key in state if key not in own and (misfits or key not in others)]
    misfits += [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    if misfits:
        raise CallError(
            f"weights {weights} don't fit: "
            f"{'; '.join(misfits[:4])}{f'; {len(misfits)} in all' if len(misfits) > 4 else ''}"
        )
    found = findings or of_run()
    found.add(f"tensors of {weights}", "left out: they are of no module of the network", others, len(state))
    if findings is None:
        found.report()
    module.load_state_dict(state, strict=False)


def _of_other_modules(state: State, own: State) -> list[str]:
    """The names of `state` that are of no module of the network; layer3 counts as one where it has layer2."""
    stems = {key.partition(".")[0].rstrip("0123456789") for key in own}
    if not stems:
        return []
    return [key for key in state if key.partition(".")[0].rstrip("0123456789") not in stems]


@contextmanager
def tensors_alone() -> Iterator[None]:
    """Whatever reads a file through torch.load in here gets tensors or an error; some of torch's own
    readers ask for less.
    """
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Without the tracebacks that torch.export logs for a file that it can't read; it raises too."""
    logger = logging.getLogger("torch.export")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def read_program(path: Path, trusted: bool) -> torch.export.ExportedProgram:
    """The program in a .pt2. Raises CallError for another file, and for one that could run code, unless it
    is `trusted`.
    """
    if not zipfile.is_zipfile(path):
        raise CallError(f"{path} is no program of torch.export.save, or not all of it; save it again")
    try:
        check_unpacked_size(path, str(path))
        if not trusted and (stranger := _strange_text(path)):
            raise CallError(
                f"{path} has text that torch.export doesn't write and that would run as code: "
                f"{stranger[:80]!r}"
            )
        with quiet_torch(), nullcontext() if trusted else tensors_alone():
            return torch.export.load(io.BytesIO(path.read_bytes()))
    except CallError:
        raise
    except pickle.UnpicklingError as error:
        raise CallError(
            f"{path} holds a pickle, and reading it could run any code; export the model again, or "
            "--trust-pickle"
        ) from error
    except Exception as error:  # torch's reader raises whatever it stumbles over
        raise CallError(
            f"{path} can't be read by torch {torch.__version__} ({first_line(error)}); export the model again"
        ) from error


def _strange_text(path: Path) -> str:
    """The first text in a .pt2 that torch would evaluate and that isn't made of sizes; empty where there
    is none.
    """

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
