"""What a policy observes and how it acts, as typed values.

They are read from gymnasium's spaces. `ObservationSpec.to_json` is the content of preprocess_config.json,
`ActionSpec.to_json` that of "action_space" in postprocess_config.json; infinite bounds are null there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import gymnasium
import numpy as np
from gymnasium import spaces

from marina.core.errors import CallError

DType = Literal["float32", "float64", "int64", "uint8"]


@dataclass(frozen=True)
class ObservationSpec:
    """Shape, dtype and bounds of one observation, and the environment that gives it.

    `int64` observations are states from `low` to `high`, `uint8` ones images. Bounds are numbers or nested
    lists, None where infinite.
    """

    shape: tuple[int, ...]
    dtype: DType
    low: Any = None
    high: Any = None
    environment: str = ""
    environment_version: str = gymnasium.__version__
    names: list[str] | None = None
    environment_options: dict[str, Any] = field(default_factory=dict)
    wrappers: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_space(cls, space: spaces.Space[Any], *, any_box: bool = False, **origin: Any) -> Self:
        """Of a Box with one axis, of images (uint8 from 0 to 255), stacks of either, or Discrete from 0.

        With `any_box` a Box of any shape, in float64 where it has that dtype. `origin` are the other fields.
        Raises CallError for other spaces.
        """
        num_axes = len(space.shape or ()) - bool(origin.get("wrappers", {}).get("frame_stack"))
        if isinstance(space, spaces.Box) and not any_box and num_axes in (2, 3) and _holds_pixels(space):
            return cls((*space.shape,), "uint8", 0, 255, **origin)
        if isinstance(space, spaces.Box) and (any_box or num_axes == 1):
            dtype: DType = "float64" if any_box and space.dtype == np.float64 else "float32"
            return cls((*space.shape,), dtype, _finite(space.low), _finite(space.high), **origin)
        if isinstance(space, spaces.Discrete) and space.start == 0:
            return cls((), "int64", 0, int(space.n) - 1, **origin)
        accepted = "Box" if any_box else "Box with one axis, images of uint8"
        has_parts = isinstance(space, spaces.Dict | spaces.Tuple | spaces.MultiBinary)
        flat = "; wrap it with gymnasium.wrappers.FlattenObservation where it is registered" * has_parts
        raise CallError(
            f"{origin.get('environment')} observes {space}; "
            f"accepted are {accepted}, and Discrete that starts at 0{flat}"
        )

    @property
    def is_image(self) -> bool:
        """Whether it holds pixels."""
        return self.dtype == "uint8"

    @property
    def is_discrete(self) -> bool:
        """Whether it holds the numbers of states."""
        return self.dtype == "int64"

    @property
    def width(self) -> int:
        """Columns once it is flat, or one-hot."""
        return int(self.high) + 1 if self.is_discrete else int(np.prod(self.shape))

    @property
    def frame_stack(self) -> int:
        """How many observations are stacked; 0 for none."""
        return int(self.wrappers.get("frame_stack", 0))

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """The arguments of `envs.make` besides the id."""
        return {**self.environment_options, **({"wrappers": self.wrappers} if self.wrappers else {})}

    def to_json(self) -> dict[str, Any]:
        """What the handler reads of it."""
        optional = {
            "names": self.names,
            "environment_options": self.environment_options,
            "wrappers": self.wrappers,
        }
        return {
            "input": "observation",
            "shape": [*self.shape],
            "dtype": self.dtype,
            "low": self.low,
            "high": self.high,
            "environment": self.environment,
            "environment_version": self.environment_version,
            **{key: value for key, value in optional.items() if value},
        }

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Self:
        """From the content of preprocess_config.json; further keys are left out."""
        known = {key: value for key, value in config.items() if key in cls.__dataclass_fields__}
        return cls(**{**known, "shape": tuple(config["shape"])})


@dataclass(frozen=True)
class ActionSpec:
    """Discrete or MultiDiscrete actions, by their `branch_sizes`, or a Box with `shape` and bounds.

    Discrete actions are one branch; a Box has none. Bounds are nested lists, None where infinite.
    """

    type: Literal["discrete", "multi_discrete", "box"]
    branch_sizes: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    low: Any = None
    high: Any = None

    @classmethod
    def discrete(cls, n: int) -> Self:
        """One of `n` choices."""
        return cls("discrete", (n,))

    @classmethod
    def multi_discrete(cls, *nvec: int) -> Self:
        """One choice in each branch."""
        return cls("multi_discrete", nvec)

    @classmethod
    def box(cls, low: Any, high: Any) -> Self:
        """Real numbers between `low` and `high`, nested lists of one shape."""
        return cls("box", shape=np.shape(np.array(low, object)), low=low, high=high)

    @classmethod
    def from_space(cls, space: spaces.Space[Any], environment: str) -> Self:
        """Raises CallError for other spaces, a Box of integers, and where the first action is not 0."""
        if isinstance(space, spaces.Discrete) and space.start == 0:
            return cls.discrete(int(space.n))
        if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
            return cls("box", shape=(*space.shape,), low=_finite(space.low), high=_finite(space.high))
        if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not space.start.any():
            return cls.multi_discrete(*space.nvec.tolist())
        raise CallError(
            f"{environment} acts by {space}; accepted are Box of real numbers, "
            "and Discrete and MultiDiscrete that start at 0"
        )

    @property
    def size(self) -> int:
        """Outputs of the last layer: one per choice, or one per component."""
        return sum(self.branch_sizes) or int(np.prod(self.shape))

    @property
    def is_bounded(self) -> bool:
        """Whether it is a Box whose bounds are all finite."""
        return self.type == "box" and None not in np.ravel(np.array([self.low, self.high], object))

    def to_json(self) -> dict[str, Any]:
        """What the handler reads of it."""
        if self.type == "discrete":
            return {"type": "discrete", "n": self.branch_sizes[0]}
        if self.type == "multi_discrete":
            return {"type": "multi_discrete", "nvec": [*self.branch_sizes]}
        return {"type": "box", "shape": [*self.shape], "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Self:
        """From "action_space" in postprocess_config.json."""
        if config["type"] == "box":
            return cls("box", shape=tuple(config["shape"]), low=config["low"], high=config["high"])
        return cls(config["type"], (config["n"],) if config["type"] == "discrete" else tuple(config["nvec"]))

    def __str__(self) -> str:
        if self.type == "box":
            return f"Box({self.low}, {self.high}, {[*self.shape]})"
        names = {"discrete": "Discrete", "multi_discrete": "MultiDiscrete"}
        return f"{names[self.type]}({', '.join(map(str, self.branch_sizes))})"


def _holds_pixels(space: spaces.Box) -> bool:
    return space.dtype == np.uint8 and not space.low.any() and bool((space.high == 255).all())


def _finite(bounds: np.ndarray) -> Any:
    """Nested lists of numbers, None where infinite."""
    plain = bounds.astype(object)
    plain[~np.isfinite(bounds)] = None
    return plain.tolist()
