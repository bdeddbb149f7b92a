"""Reads what stable-baselines3's `model.save` writes, without running any of it.

A saved model is a zip. Its `policy.pth` is a state dict, which torch loads with weights only. Its `data` is
JSON; objects are pickled in base64 there, beside a readable description: their class and the first level of
their attributes. The descriptions are read. Of the pickles one is, as shells that run nothing: the returns of
the last episodes of training.

Not covered: replay buffers, optimizers, and models that stable-baselines 2 or other packages saved.
"""

import base64
import hashlib
import io
import json
import math
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from marina.core.errors import CallError
from marina.core.zip_files import check_unpacked_size
from training.imports.pickled_shells import load_shells, number_of

# without which no model can be built again
KEYS = ("policy_class", "policy_kwargs", "observation_space", "action_space")
FOUND_BY = {
    "q_net.q_net.": "dqn",
    "quantile_net.quantile_net.": "qrdqn",
    "actor.latent_pi.": "sac",
    "actor.log_std": "sac",
    "actor.mu.": "td3",
    "action_net.": "ppo",
}
# of sb3-contrib; TRPO's is stable-baselines3's own
CONTRIB = re.compile(r"sb3_contrib\.(tqc|qrdqn|ars)\.")
REBUILT = (
    "what is rebuilt: the MlpPolicy of PPO, A2C, DQN, SAC, TD3 and DDPG, and of sb3-contrib's TQC, QR-DQN, "
    "TRPO and ARS"
)
UNBOUNDED = 1e38  # gym prints the largest float32 for infinity
DATA_BYTES = 64 << 20  # most that the readable part may have
PICKLED = ("collections", "numpy")  # the packages of what the returns are kept in


@dataclass(frozen=True)
class SavedPolicy:
    """A saved model: its file, its algorithm (ppo, a2c, dqn, sac, td3, ddpg, tqc, qrdqn or ars), weights and
    settings.

    `options` is policy_kwargs; objects are there as Python prints them: "<class
    'torch.nn.modules.activation.ELU'>". `spaces` has "observation_space" and "action_space", also as printed.
    `is_normalized` says that the observations or rewards went through VecNormalize; only PPO and A2C save
    that. `returns` are those of its last training episodes, with exploration; empty where it keeps none.
    """

    path: Path
    algorithm: str
    version: str
    weights: dict[str, torch.Tensor]
    options: dict[str, Any]
    spaces: dict[str, dict[str, Any]]
    steps: int
    is_normalized: bool
    returns: list[float]
    fingerprint: str


def read_policy(path: Path) -> SavedPolicy:
    """The policy in a zip of `model.save`. Raises CallError for other files and unsupported policies."""
    if not path.is_file():
        raise CallError(f"no file {path}; name the zip that model.save(...) of stable-baselines3 wrote")
    content = path.read_bytes()
    if not zipfile.is_zipfile(io.BytesIO(content)):
        pickled = "; a pickle could run any code, so it isn't read" if content[:1] == b"\x80" else ""
        raise CallError(
            f"{path} is no zip as model.save(...) of stable-baselines3 writes it, or not all of it{pickled}"
        )
    members = _members(path, content)
    data, weights = members["data"], members["policy.pth"]
    _check(path, data, weights)
    steps = data.get("num_timesteps")
    return SavedPolicy(
        path=path,
        algorithm=_algorithm(path, data, weights),
        version=members["_stable_baselines3_version"],
        weights=weights,
        options=_options(data),
        spaces={name: data[name] for name in ("observation_space", "action_space")},
        steps=steps if isinstance(steps, int) else 0,
        is_normalized="gae_lambda" in data and data.get("_last_original_obs") is not None,
        returns=_recorded_returns(data.get("ep_info_buffer")),
        fingerprint=hashlib.sha256(content).hexdigest(),
    )


def _options(data: dict[str, Any]) -> dict[str, Any]:
    """policy_kwargs; ARS has two policies of the same weights, whose defaults differ."""
    given = {name: value for name, value in data["policy_kwargs"].items() if not name.startswith(":")}
    policy = data["policy_class"]
    if "sb3_contrib.ars." in str(policy.get("__module__")):
        given.setdefault("squash_output", "ARSLinearPolicy" not in str(policy))
    return given


def _members(path: Path, content: bytes) -> dict[str, Any]:
    """The zip's parts that are needed, read."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            missing = {"data", "policy.pth"} - set(archive.namelist())
            if missing:
                raise CallError(
                    f"{path} lacks {' and '.join(sorted(missing))}: "
                    "no zip of stable-baselines3's model.save(...), or not all of it"
                )
            size = archive.getinfo("data").file_size
            if size > DATA_BYTES:
                raise CallError(f"{path}: its data unpacks to {size / 1e6:,.0f} MB, as no saved model's does")
            check_unpacked_size(content, str(path))
            weights = archive.read("policy.pth")
            check_unpacked_size(weights, f"{path}: policy.pth")
            version = "_stable_baselines3_version"
            return {
                "data": json.loads(archive.read("data")),
                "policy.pth": torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True),
                version: archive.read(version).decode().strip()
                if version in archive.namelist()
                else "unknown",
            }
    except CallError:
        raise
    except pickle.UnpicklingError as error:
        raise CallError(
            f"{path}: policy.pth holds more than weights, which isn't loaded: it could run any code"
        ) from error
    except Exception as error:  # whatever zipfile, json and torch raise on a damaged file
        raise CallError(
            f"{path} is damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


def _check(path: Path, data: Any, weights: Any) -> None:
    """Raise CallError for what can't be built again, naming the key that says so."""
    if not isinstance(data, dict) or not all(isinstance(data.get(key), dict) for key in KEYS):
        raise CallError(
            f"{path}: its data must hold {', '.join(KEYS)}, "
            "as model.save(...) of stable-baselines3 writes them"
        )
    if not isinstance(weights, dict) or not all(
        isinstance(value, torch.Tensor) for value in weights.values()
    ):
        raise CallError(f"{path}: policy.pth is no state dict")
    origin = str(data["policy_class"].get("__module__"))
    if not origin.startswith("stable_baselines3.") and not CONTRIB.match(origin):
        raise CallError(f"{path}: policy_class comes from {origin}; {REBUILT}, in their own classes")
    extractor = data["policy_kwargs"].get("features_extractor_class")
    if extractor is not None and "FlattenExtractor" not in str(extractor):
        raise CallError(
            f"{path}: features_extractor_class is {extractor}; "
            f"{REBUILT}, whose observations are just flattened"
        )
    for name, value in weights.items():
        if "features_extractor" in name:
            raise CallError(
                f"{path}: {name} belongs to a features extractor that learns, as a CnnPolicy has; {REBUILT}"
            )
        if not bool(value.isfinite().all()):
            raise CallError(
                f"{path}: {name} holds NaN or infinity; save a model from before its training went wrong"
            )


def _algorithm(path: Path, data: dict[str, Any], weights: dict[str, torch.Tensor]) -> str:
    """By the names of the weights; those that have the same are told apart by their classes or settings."""
    contributed = CONTRIB.match(str(data["policy_class"].get("__module__")))
    if contributed:
        return contributed[1]
    family = next(
        (kind for prefix, kind in FOUND_BY.items() if any(name.startswith(prefix) for name in weights)), None
    )
    if family is None:
        raise CallError(
            f"{path}: weights like {', '.join(list(weights)[:3])} are of no known policy; {REBUILT}"
        )
    if family == "ppo":
        return "ppo" if "clip_range" in data else "a2c"
    return "ddpg" if family == "td3" and data.get("target_noise_clip") == 0 else family


def _recorded_returns(buffer: Any) -> list[float]:
    """The returns in ep_info_buffer, a pickled deque of {"r": return, "l": steps, "t": seconds}."""
    if not isinstance(buffer, dict):
        return []
    try:
        episodes = load_shells(base64.b64decode(buffer[":serialized:"]), PICKLED).items
        return [number for episode in episodes if math.isfinite(number := number_of(episode["r"]))]
    except Exception:  # the returns are only compared with, and damaged pickles raise anything
        return []


def printed_space(space: dict[str, Any]) -> tuple[str, list[int]]:
    """(class, sizes) of a printed space: Box with its shape, Discrete with n, MultiDiscrete with nvec."""
    kind = str(space.get(":type:")).rpartition(".")[2].rstrip("'>")
    sizes = {
        "Box": space.get("_shape", space.get("shape")),  # gymnasium's and gym's
        "Discrete": space.get("n"),
        "MultiDiscrete": space.get("nvec"),
    }.get(kind)
    return kind, [int(number) for number in re.findall(r"\d+", str(sizes))]


def printed_bounds(space: dict[str, Any]) -> tuple[list[float], list[float]]:
    """The flat low and high of a printed Box, with eight digits; incomplete where numpy elided some."""
    number = re.compile(r"[-+]?(?:inf|\d+\.?\d*(?:e[-+]?\d+)?)")

    def read(name: str) -> list[float]:
        values = map(float, number.findall(str(space.get(name))))
        return [math.copysign(math.inf, value) if abs(value) > UNBOUNDED else value for value in values]

    return read("low"), read("high")
