"""Reads what stable-baselines3 saves, by `model.save` and `VecNormalize.save`, without that package and without running any of it.

A saved model is a zip. Its `policy.pth` is a state dict, which torch loads with weights only. Its `data` is JSON, where
whatever JSON can't say lies pickled in base64, beside words for it: its class and the first level of its attributes. The
words are read, the pickles are not.

Saved observation statistics are one pickle. It is refused unless it is trusted, and also then no class is looked up and
nothing is called: every object becomes a shell that keeps what it would be made of.

What is not covered: replay buffers, optimizers, and models that stable-baselines 2 or other packages saved.
"""

import hashlib
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from marina.errors import CallError
from training.policies.graphs import ObservationStatistics

KEYS = ("policy_class", "policy_kwargs", "observation_space", "action_space")  # without which no model can be built again
FOUND_BY = {"q_net.q_net.": "dqn", "actor.latent_pi.": "sac", "actor.log_std": "sac", "actor.mu.": "td3", "action_net.": "ppo"}
REBUILT = "what is rebuilt: the MlpPolicy of PPO, A2C, DQN, SAC, TD3 and DDPG"
PICKLED = ("stable_baselines3", "gymnasium", "gym", "numpy")  # the packages of what VecNormalize holds


@dataclass(frozen=True)
class SavedPolicy:
    """A saved model's file, its algorithm (ppo, a2c, dqn, sac, td3 or ddpg), the policy's weights and what else is read.

    `options` is policy_kwargs; what JSON can't say is there as Python prints it: "<class 'torch.nn.modules.activation.ELU'>".
    `spaces` has "observation_space" and "action_space", also as printed. `normalised` says that the observations or rewards
    went through VecNormalize; that is known of PPO and A2C only.
    """

    path: Path
    algorithm: str
    version: str
    weights: dict[str, torch.Tensor]
    options: dict[str, Any]
    spaces: dict[str, dict[str, Any]]
    steps: int
    normalised: bool
    fingerprint: str


def read_policy(path: Path) -> SavedPolicy:
    """The policy in a zip of `model.save`. Raises CallError for another file, and for policies that are not rebuilt."""
    if not path.is_file():
        raise CallError(f"no file {path}; name the zip that model.save(...) of stable-baselines3 wrote")
    content = path.read_bytes()
    if not zipfile.is_zipfile(io.BytesIO(content)):
        pickled = "; a pickle could run any code, so it isn't read" if content[:1] == b"\x80" else ""
        raise CallError(f"{path} is no zip as model.save(...) of stable-baselines3 writes it, or not all of it{pickled}")
    members = _members(path, content)
    data, weights = members["data"], members["policy.pth"]
    _check(path, data, weights)
    return SavedPolicy(
        path=path,
        algorithm=_algorithm(path, data, weights),
        version=members["_stable_baselines3_version"],
        weights=weights,
        options={name: value for name, value in data["policy_kwargs"].items() if not name.startswith(":")},
        spaces={name: data[name] for name in ("observation_space", "action_space")},
        steps=int(data.get("num_timesteps") or 0),
        normalised="gae_lambda" in data and data.get("_last_original_obs") is not None,
        fingerprint=hashlib.sha256(content).hexdigest(),
    )


def _members(path: Path, content: bytes) -> dict[str, Any]:
    """The zip's parts that are needed, read."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            missing = {"data", "policy.pth"} - set(archive.namelist())
            if missing:
                raise CallError(
                    f"{path} lacks {' and '.join(sorted(missing))}: no zip of stable-baselines3's model.save(...), or not all of it"
                )
            version = "_stable_baselines3_version"
            return {
                "data": json.loads(archive.read("data")),
                "policy.pth": torch.load(io.BytesIO(archive.read("policy.pth")), map_location="cpu", weights_only=True),
                version: archive.read(version).decode().strip() if version in archive.namelist() else "unknown",
            }
    except CallError:
        raise
    except pickle.UnpicklingError as error:
        raise CallError(f"{path}: policy.pth holds more than weights, which isn't loaded: it could run any code") from error
    except Exception as error:  # whatever zipfile, json and torch raise on a damaged file
        raise CallError(f"{path} is damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error


def _check(path: Path, data: Any, weights: Any) -> None:
    """Raise CallError for what can't be built again, naming the key that says so."""
    if not isinstance(data, dict) or not all(isinstance(data.get(key), dict) for key in KEYS):
        raise CallError(f"{path}: its data must hold {', '.join(KEYS)}, as model.save(...) of stable-baselines3 writes them")
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise CallError(f"{path}: policy.pth is no state dict")
    origin = str(data["policy_class"].get("__module__"))
    if not origin.startswith("stable_baselines3."):
        raise CallError(f"{path}: policy_class comes from {origin}; {REBUILT}, in stable-baselines3's own classes")
    extractor = data["policy_kwargs"].get("features_extractor_class")
    if extractor is not None and "FlattenExtractor" not in str(extractor):
        raise CallError(f"{path}: features_extractor_class is {extractor}; {REBUILT}, whose observations are just flattened")
    for name, value in weights.items():
        if "features_extractor" in name:
            raise CallError(f"{path}: {name} belongs to a features extractor that learns, as a CnnPolicy has; {REBUILT}")
        if not bool(value.isfinite().all()):
            raise CallError(f"{path}: {name} holds NaN or infinity; save a model from before its training went wrong")


def _algorithm(path: Path, data: dict[str, Any], weights: dict[str, torch.Tensor]) -> str:
    """By the names of the weights; two pairs of algorithms act alike and are told apart by their settings."""
    family = next((kind for prefix, kind in FOUND_BY.items() if any(name.startswith(prefix) for name in weights)), None)
    if family is None:
        raise CallError(f"{path}: weights like {', '.join(list(weights)[:3])} are of no known policy; {REBUILT}")
    if family == "ppo":
        return "ppo" if "clip_range" in data else "a2c"
    return "ddpg" if family == "td3" and data.get("target_noise_clip") == 0 else family


def printed_space(space: dict[str, Any]) -> tuple[str, list[int]]:
    """(class, sizes) of a space as `data` prints it: Box with its shape, Discrete with n, MultiDiscrete with nvec."""
    kind = str(space.get(":type:")).rpartition(".")[2].rstrip("'>")
    sizes = {"Box": space.get("_shape"), "Discrete": space.get("n"), "MultiDiscrete": space.get("nvec")}.get(kind)
    return kind, [int(number) for number in re.findall(r"\d+", str(sizes))]


def printed_bounds(space: dict[str, Any]) -> tuple[list[float], list[float]]:
    """The flat low and high of a Box as `data` prints it: to numpy's eight digits, and not all where numpy left some out."""
    number = re.compile(r"[-+]?(?:inf|\d+\.?\d*(?:e[-+]?\d+)?)")
    low, high = ([float(one) for one in number.findall(str(space.get(name)))] for name in ("low", "high"))
    return low, high


def read_statistics(path: Path, trust_pickle: bool) -> ObservationStatistics | None:
    """The statistics that VecNormalize saved; None where it normalised rewards only.

    Without a pickle: .npz, .json or .safetensors with "mean" and "var" and perhaps "epsilon" and "clip_obs". Raises CallError
    for a pickle unless `trust_pickle`, and for one that holds other classes than VecNormalize does.
    """
    if not path.is_file():
        raise CallError(f"no file {path}; name the observation statistics that VecNormalize.save(...) wrote")
    readers: dict[str, Callable[[Path], Any]] = {".npz": _npz, ".json": _json, ".safetensors": safetensors.numpy.load_file}
    reader = readers.get(path.suffix)
    if reader is None and not trust_pickle:
        safe = 'write its obs_rms.mean and obs_rms.var as "mean" and "var" into a .npz, .json or .safetensors'
        raise CallError(f"{path} is a pickle, which can run any code when it is read; trust it (trust_pickle: true), or {safe}")
    try:
        return _statistics(path, (reader or _unpickled)(path))
    except CallError:
        raise
    except Exception as error:  # whatever numpy, safetensors and pickle raise on what isn't theirs
        raise CallError(f"{path} can't be read as observation statistics: {error}") from error


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _unpickled(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        held: dict[str, Any] = _ShellUnpickler(file).load().state
    running = held.get("obs_rms") if held.get("norm_obs") else None
    if isinstance(running, dict):
        raise CallError(f"{path} normalises a dictionary of observations; {REBUILT}, which take a single array")
    return held | ({name: _array(running.state[name]) for name in ("mean", "var")} if running is not None else {})


class _Shell:
    """Stands for any object in a pickle: keeps what it would be made of, and makes nothing of it."""

    arguments: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *arguments: Any) -> "_Shell":
        shell = super().__new__(cls)
        shell.arguments = arguments
        return shell

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _ShellUnpickler(pickle.Unpickler):
    """Shells in place of all objects; UnpicklingError for what VecNormalize doesn't hold."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] not in PICKLED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which VecNormalize doesn't hold; nothing of it was run")
        return _Shell


def _array(shell: _Shell) -> np.ndarray:
    """The float64 array that numpy pickled: its bytes as state, or as an argument since pickle's protocol 5."""
    if shell.state is None:
        content, dtype, shape, order = shell.arguments
    else:
        _, shape, dtype, fortran, content = shell.state
        order = "F" if fortran else "C"
    if dtype.arguments[0] != "f8":
        raise ValueError(f"its numbers are {dtype.arguments[0]!r}, not float64")
    return np.frombuffer(content, f"{dtype.state[1]}f8").astype(np.float64).reshape(shape, order=order)


def _statistics(path: Path, values: Any) -> ObservationStatistics | None:
    if not isinstance(values, Mapping) or not ({"mean", "var"} <= set(values) or values.get("norm_obs") is False):
        raise CallError(f"{path} must hold the mean and var of the observations, as VecNormalize or under these names")
    if "mean" not in values:
        return None
    mean, var = (np.asarray(values[name], np.float64) for name in ("mean", "var"))
    epsilon, clip = float(values.get("epsilon", 1e-8)), float(values.get("clip_obs", 10.0))
    if mean.shape != var.shape or not np.isfinite([mean, var]).all() or (var < 0).any() or epsilon <= 0 or clip <= 0:
        raise CallError(f"{path}: mean and var must be finite and of one shape, var not below 0, epsilon and clip_obs above 0")
    return ObservationStatistics(mean, var, epsilon, clip)
