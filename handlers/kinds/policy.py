"""Serves reinforcement-learning policies: observations -> actions, exactly as in evaluation.

The graph decides; the handler hands it what it names under "inputs" in preprocess_config.json:

    observation   what is observed
    action_mask   bool [actions], of several branches one after the other: those that are allowed; all by
                  default
    noise         what makes a stochastic policy sample: zeros for its deterministic action, otherwise
                  independent draws of the distribution that postprocess_config.json names (gumbel: the action
                  is the largest of logits + noise, Gumbel 1954; normal: mean + deviation * noise, the
                  reparameterisation of Kingma and Welling 2014)
    state         what the graph remembers of its episode, and gives back as an output of that name; zeros
                  begin one

A stack of frames is taken whole, or frame by frame; then the state holds the frames before. See
protocol.states.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from ..inputs.payloads import numbers_of, only_key
from ..protocol.errors import BadRequest, NotSupported
from ..protocol.options import Flag, Mask, Number, keyed_schema
from ..protocol.requests import Instance, Prepared
from ..protocol.states import MOST_STEPS, PreparedStep, State, States, requested_state
from ..runtime.export import Export
from ..runtime.predictor import Predictor

KEYS = ("observation", "data")
ALSO = ("obs",)  # as Gymnasium's users say


class PolicyPredictor(Predictor):
    """Answers {"action": number or list, ...} with what else the policy gives: "q_values",
    "probabilities", "value" or "state".
    """

    expectation: ClassVar[tuple[str, str]] = ("action", "action")

    def configure(self, export: Export) -> None:
        """Read the JSON files of an export; the graph's inputs decide which options there are."""
        super().configure(export)
        self.inputs: list[str] = self.export.preprocess.get("inputs", ["observation"])
        self.shape = tuple(self.export.preprocess["shape"])
        self.dtype = np.dtype(self.export.preprocess["dtype"])
        self.action_space: dict[str, Any] = self.export.postprocess["action_space"]
        self.actions = int(self.action_space["n"]) if self.action_space["type"] == "discrete" else 0
        self.branches: tuple[int, ...] = tuple(self.action_space.get("nvec", (self.actions,)))
        self.all_allowed = np.ones(sum(self.branches), bool)
        self.deterministic = bool(self.export.postprocess.get("deterministic", True))
        self.random = np.random.default_rng()
        self.options = {
            "deterministic": Flag(f"false samples the action; by default {str(self.deterministic).lower()}")
        }
        if "noise" in self.inputs:
            self.options["seed"] = Number(
                int, 0, 2**63 - 1, "sampling with the same seed gives the same action"
            )
        if "action_mask" in self.inputs:
            self.options["action_mask"] = Mask(sum(self.branches), self._about_mask(), self.branches)
        # the inputs of a request that sets neither
        self.at_rest = {"action_mask": self.all_allowed, "noise": np.zeros(self._noises(), np.float32)}
        self.states = self._states()
        if self.states:
            self.options["state"] = self.states.option
            self.options["step"] = Number(
                int, 0, MOST_STEPS, "the observation's number in its episode, from 0; needed beside a state"
            )

    def decode(self, instance: Instance) -> np.ndarray:
        """{"observation": nested list of the space's shape}, the list alone, or the row of a tensor; of a
        stack its last frame will do.
        """
        if isinstance(instance.payload, bytes):
            raise BadRequest('send JSON like {"observation": [...]}')
        sent = only_key(instance.payload, *KEYS, also=ALSO)
        alone = self.stacked and _axes(sent) == len(self.shape) - 1
        numbers = numbers_of(sent, self.shape[1:] if alone else self.shape, "observation")
        if self.dtype.kind == "f":
            numbers = numbers.astype(np.float64)  # as `prepare_together`, to the last bit
        else:
            self._check_whole(numbers)
        with np.errstate(over="ignore"):  # what doesn't fit becomes infinite, and is refused
            observation: np.ndarray = numbers.astype(self.dtype)
        if observation.dtype.kind == "f" and not np.isfinite(observation).all():
            raise BadRequest(f"observation must fit into {self.export.preprocess['dtype']}")
        return observation

    def preprocess(self, item: np.ndarray, instance: Instance) -> Prepared:
        """The graph's inputs in their order. Raises NotSupported when a policy without a distribution is
        to sample.
        """
        state = requested_state(instance.options, self.states) if self.states else None
        stack = self._stack(item, state, instance) if self.stacked else item
        parts: dict[str, Callable[[], np.ndarray]] = {
            "observation": lambda: stack,
            "action_mask": lambda: self._mask(instance),
            "noise": lambda: self._noise(instance),
            "state": lambda: (state or self.states.first()).values,  # type: ignore[union-attr]
        }
        if not instance.options.get("deterministic", self.deterministic) and "noise" not in self.inputs:
            raise NotSupported(
                "this policy has no distribution to sample from; leave 'deterministic' out, or true"
            )
        arrays = tuple(parts[name]() for name in self.inputs)
        if self.states is None or (self.stacked and item.shape == self.shape):
            return Prepared(arrays, instance.options)
        return PreparedStep(
            arrays,
            instance.options,
            step=state.step if state else 0,
            frames=stack[1:] if self.stacked else None,
        )

    def prepare_together(self, instances: Sequence[Instance]) -> list[Prepared] | None:
        """All at once, where the policy has no memory and each is a plain list of numbers without options:
        a tenth of the time.
        """
        if self.states or not self.deterministic or self.dtype.kind != "f" or len(self.shape) != 1:
            return None
        numbers: list[Any] = []
        for one in instances:
            payload = one.payload
            if type(payload) is dict and len(payload) == 1:
                payload = payload.get(KEYS[0])
            if one.options or type(payload) is not list or len(payload) != self.shape[0]:
                return None
            numbers += payload
        observations = self._finite(numbers)
        if observations is None:  # each by itself: whose they are gets the error
            return None
        if self.inputs == ["observation"]:
            return [Prepared((row,)) for row in observations]
        return [
            Prepared(tuple(row if name == "observation" else self.at_rest[name] for name in self.inputs))
            for row in observations
        ]

    def _finite(self, numbers: list[Any]) -> np.ndarray | None:
        """Observations [B, ...] of all their numbers; None where one isn't a number, or not finite."""
        if not {*map(type, numbers)} <= {float, int}:
            return None
        try:
            with np.errstate(over="ignore"):
                observations = np.array(numbers, np.float64).astype(self.dtype).reshape(-1, *self.shape)
        except OverflowError:  # a whole number that no float holds
            return None
        return observations if np.isfinite(observations).all() else None

    def postprocess(self, outputs: dict[str, np.ndarray], prepared: list[Prepared]) -> list[Any]:
        """Arrays [B, ...] by name -> one dict per row, "action" first, "state" last."""
        names = ["action", *(name for name in outputs if name not in ("action", "state"))]
        columns = [outputs[name].tolist() for name in names]
        answers = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        if self.states:
            for index, (answer, one) in enumerate(zip(answers, prepared, strict=True)):
                if isinstance(one, PreparedStep):
                    values = outputs["state"][index] if one.frames is None else one.frames
                    answer["state"] = self.states.written(State(one.step + 1, values))
        return answers

    def explanation(self, item: np.ndarray, prepared: Prepared) -> Any:
        """Saliency over the observation: what it is in it that makes this action lead."""
        import torch

        from .policy_saliency import policy_saliency

        why = policy_saliency(
            self.graph, tuple(torch.from_numpy(one[None]).to(self.device) for one in prepared.arrays)
        )
        return {
            "action": why.action,
            "method": "gradient",
            "gradient": why.gradient.tolist(),
            "saliency": why.saliency.tolist(),
            **({"names": self.export.preprocess["names"]} if "names" in self.export.preprocess else {}),
        }

    @classmethod
    def contradiction(cls, expected: Any, part: Any) -> str:
        """{"action": value} expects this action, to 1e-3 where it is continuous."""
        same = np.shape(expected) == np.shape(part) and bool(np.allclose(expected, part, rtol=0, atol=1e-3))
        return "" if same else f"action {part} instead of {expected}"

    def request_schema(self) -> dict[str, Any]:
        """An object with the observation, or the observation alone."""
        observation = {**_nested(self.shape, self._number()), "description": self._about()}
        if self.stacked:
            frame = {
                **_nested(self.shape[1:], self._number()),
                "description": "the last frame alone; the state has those before",
            }
            observation = {"anyOf": [observation, frame]}
        return {"anyOf": [keyed_schema(KEYS, observation, self.options), observation]}

    def answer_schema(self) -> dict[str, Any]:
        """The action, and what else the graph gives."""
        number = {"type": "number"}
        per_action = _nested((self.actions,), number)
        known = {"q_values": per_action, "probabilities": per_action, "logits": per_action, "value": number}
        outputs = {name: known[name] for name in self.export.postprocess.get("outputs", [])}
        state = (
            {"state": {"type": "string", "description": "for the next request, with 'step' one higher"}}
            if self.states
            else {}
        )
        return {
            "type": "object",
            "properties": {"action": self._action(), **outputs, **state},
            "required": ["action", *outputs],
        }

    def explanation_schema(self) -> dict[str, Any]:
        """The action, and gradient and saliency over the observation."""
        gradient = {
            **_nested(self.shape, {"type": "number"}),
            "description": "of the action's lead, per unit of the observation",
        }
        saliency = {
            **_nested(self.shape, {"type": "number", "minimum": 0}),
            "description": "the gradient's size; sums to 1",
        }
        method = {"type": "string", "enum": ["gradient"]}
        names = {
            "type": "array",
            "items": {"type": "string"},
            "description": "what the numbers of the observation are",
        }
        properties = {
            "action": self._action(),
            "method": method,
            "gradient": gradient,
            "saliency": saliency,
            "names": names,
        }
        return {
            "type": "object",
            "properties": properties,
            "required": ["action", "method", "gradient", "saliency"],
        }

    def _states(self) -> States | None:
        """What is remembered: the graph's own state, or all frames of a stack but the newest; None for
        nothing.
        """
        self.stacked = (
            bool(self.export.preprocess.get("wrappers", {}).get("frame_stack")) and "state" not in self.inputs
        )
        if "state" in self.inputs:
            shape, dtype = tuple(self.export.preprocess["state"]["shape"]), "float32"
        elif self.stacked:
            shape, dtype = (self.shape[0] - 1, *self.shape[1:]), self.export.preprocess["dtype"]
        else:
            return None
        return States(self.metadata["name"], self.metadata["version"], shape, dtype)

    def _stack(self, item: np.ndarray, state: State | None, instance: Instance) -> np.ndarray:
        """The frames before and the one that came; or the stack that came."""
        if item.shape != self.shape:
            return np.stack([*(state.values if state else [item] * (self.shape[0] - 1)), item])
        if state or "step" in instance.options:
            raise BadRequest(
                "a whole stack needs neither state nor step; with a state send the last frame alone"
            )
        return item

    def _mask(self, instance: Instance) -> np.ndarray:
        mask = instance.options.get("action_mask")
        return self.all_allowed if mask is None else np.array(mask)

    def _about_mask(self) -> str:
        several = (
            f", of the branches {', '.join(map(str, self.branches))} one after the other"
            if len(self.branches) > 1
            else ""
        )
        learned = bool(self.export.preprocess.get("wrappers", {}).get("action_masks"))
        return f"actions that are allowed, in their order{several}" + (
            "; this policy learned with them: send them always" if learned else ""
        )

    def _noise(self, instance: Instance) -> np.ndarray:
        """float32 [actions of all branches, or components], drawn from (seed, position in the request) or
        from our own generator.
        """
        if instance.options.get("deterministic", self.deterministic):
            return self.at_rest["noise"]
        seed = instance.options.get("seed")
        random = self.random if seed is None else np.random.default_rng([seed, instance.position])
        draw = random.gumbel if self.export.postprocess["noise"] == "gumbel" else random.standard_normal
        return np.asarray(draw(size=self._noises()), np.float32)

    def _noises(self) -> int:
        return sum(self.branches) or int(np.prod(self.action_space["shape"]))

    def _check_whole(self, numbers: np.ndarray) -> None:
        """Discrete observations, tuples of them, and pictures are whole numbers within their bounds."""
        low, high = self.export.preprocess["low"], self.export.preprocess["high"]
        if numbers.dtype.kind not in "iu" or bool((numbers < low).any()) or bool((numbers > high).any()):
            raise BadRequest(
                f"observation must be {'whole numbers' if self.shape else 'a whole number'} from {low} to "
                f"{high}"
            )

    def _action(self) -> dict[str, Any]:
        if self.actions:
            return {"type": "integer", "minimum": 0, "maximum": self.actions - 1}
        if "nvec" in self.action_space:
            nvec = self.action_space["nvec"]
            return _nested((len(nvec),), {"type": "integer", "minimum": 0, "maximum": max(nvec) - 1})
        return _nested(tuple(self.action_space["shape"]), {"type": "number"})

    def _number(self) -> dict[str, Any]:
        if self.dtype.kind == "f":
            return {"type": "number"}
        low, high = self.export.preprocess["low"], self.export.preprocess["high"]
        return {"type": "integer", "minimum": int(np.min(low)), "maximum": int(np.max(high))}

    def _about(self) -> str:
        names = self.export.preprocess.get("names")
        return f"what {self.export.preprocess['environment']} observes" + (
            f": {', '.join(names)}" if names else ""
        )


def _axes(payload: Any) -> int:
    """How deep a list is nested at its first elements, or how many dimensions an array has."""
    depth = int(getattr(payload, "ndim", 0))
    while isinstance(payload, list):
        payload, depth = payload[0] if payload else None, depth + 1
    return depth


def _nested(shape: tuple[int, ...], innermost: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of nested lists of exactly `shape`."""
    schema = innermost
    for size in reversed(shape):
        schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
    return schema


PREDICTOR = PolicyPredictor
