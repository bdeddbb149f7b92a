"""Reads the observation statistics of stable-baselines3's VecNormalize, or the same from arrays by name.

What `VecNormalize.save` writes is one pickle. It is refused unless it is trusted, and even then no class is
looked up and nothing is called.
"""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from marina.core.errors import CallError
from marina.core.zip_files import check_unpacked_size
from training.imports.baselines_zip import REBUILT
from training.imports.pickled_shells import array_of, load_shells
from training.policies.graphs.features import ObservationStatistics

PICKLED = ("stable_baselines3", "gymnasium", "gym", "numpy")  # the packages of what VecNormalize holds


def read_statistics(path: Path, trust_pickle: bool) -> ObservationStatistics | None:
    """The statistics that VecNormalize saved; None where it normalized rewards only.

    Without a pickle: .npz, .json or .safetensors with "mean" and "var" and perhaps "epsilon" and "clip_obs".
    Raises CallError for a pickle unless `trust_pickle`, and for one that holds other classes than
    VecNormalize does.
    """
    if not path.is_file():
        raise CallError(f"no file {path}; name the observation statistics that VecNormalize.save(...) wrote")
    readers: dict[str, Callable[[Path], Any]] = {
        ".npz": _npz,
        ".json": _json,
        ".safetensors": safetensors.numpy.load_file,
    }
    reader = readers.get(path.suffix)
    if reader is None and not trust_pickle:
        safe = 'write its obs_rms.mean and obs_rms.var as "mean" and "var" into a .npz, .json or .safetensors'
        raise CallError(
            f"{path} is a pickle, which can run any code when it is read; "
            f"trust it (trust_pickle: true), or {safe}"
        )
    try:
        return _statistics(path, (reader or _unpickled)(path))
    except CallError:
        raise
    except Exception as error:  # whatever numpy, safetensors and pickle raise on what isn't theirs
        raise CallError(f"{path} can't be read as observation statistics: {error}") from error


def _npz(path: Path) -> dict[str, Any]:
    check_unpacked_size(path, str(path))
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
        return dict(arrays)


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _unpickled(path: Path) -> dict[str, Any]:
    held: dict[str, Any] = load_shells(path.read_bytes(), PICKLED).state
    running = held.get("obs_rms") if held.get("norm_obs") else None
    if isinstance(running, dict):
        raise CallError(
            f"{path} normalizes a dictionary of observations; {REBUILT}, which take a single array"
        )
    return held | (
        {name: array_of(running.state[name]) for name in ("mean", "var")} if running is not None else {}
    )


def _statistics(path: Path, values: Any) -> ObservationStatistics | None:
    if not isinstance(values, Mapping) or not (
        {"mean", "var"} <= set(values) or values.get("norm_obs") is False
    ):
        raise CallError(
            f"{path} must hold the mean and var of the observations, as VecNormalize or under these names"
        )
    if "mean" not in values:
        return None
    mean, var = (np.asarray(values[name], np.float64) for name in ("mean", "var"))
    epsilon, clip = float(values.get("epsilon", 1e-8)), float(values.get("clip_obs", 10.0))
    if (
        mean.shape != var.shape
        or not np.isfinite([mean, var]).all()
        or (var < 0).any()
        or epsilon <= 0
        or clip <= 0
    ):
        raise CallError(
            f"{path}: mean and var must be finite and of one shape, "
            "var not below 0, epsilon and clip_obs above 0"
        )
    return ObservationStatistics(mean, var, epsilon, clip)
