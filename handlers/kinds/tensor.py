"""Serves any module with tensors in and tensors out, by their names.

    {"x": [[...]], "scale": 2.0}    -> {"y": [...], "score": 0.3}

preprocess_config.json lists the graph's inputs in their order, and what its named dimensions may be:

    {"inputs": [{"name", "dtype", "shape": [3, "time"], "description", "unit", "minimum", "maximum",
                 "default"}],
     "dimensions": {"time": {"minimum": 1, "maximum": 512}}}

postprocess_config.json lists its outputs in the same form. A model with one input also takes its value alone.
"""

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..inputs.tensors import Size, TensorField
from ..protocol.errors import BadRequest, NotSupported
from ..protocol.options import Choice, Number, object_schema
from ..protocol.requests import Instance, Prepared
from ..runtime.export import ONNX_PROGRAM, Export
from ..runtime.predictor import Predictor

ALONE = "data"  # the key under which a model with one input also takes it


class TensorPredictor(Predictor):
    """Answers {output: value or nested list} for {input: value or nested list}."""

    def configure(self, export: Export) -> None:
        """Read the inputs and outputs of an export."""
        super().configure(export)
        self.fields = [TensorField.from_config(one) for one in export.preprocess["inputs"]]
        self.outputs = [TensorField.from_config(one) for one in export.postprocess["outputs"]]
        sizes = export.preprocess.get("dimensions", {})
        self.sizes = {name: Size(**bounds) for name, bounds in sizes.items()}
        self.has_sizes = any(isinstance(size, str) for field in self.fields for size in field.shape)
        self.explain_options = {
            "output": Choice(
                tuple(field.name.lower() for field in self.outputs),
                "the output to explain; by default the first",
            ),
            "index": Number(
                int, 0, 2**31 - 1, "which of its values, counted in row order; by default the largest"
            ),
        }

    def input_names(self) -> list[str]:
        """The tensors of a request in the Open Inference Protocol."""
        return [field.name for field in self.fields]

    def decode(self, instance: Instance) -> tuple[np.ndarray, ...]:
        """The inputs in their order, those that were left out from their defaults."""
        sent = self._named(instance.payload)
        known: dict[str, int] = {}
        arrays = []
        for field in self.fields:
            if field.name in sent:
                arrays.append(field.read(sent[field.name], self.sizes, known))
            elif field.default is not None:
                arrays.append(field.read(field.default, self.sizes, known))
            else:
                raise BadRequest(f"the input {field.name!r} is missing; send {self._example()}")
        return tuple(arrays)

    def preprocess(self, item: tuple[np.ndarray, ...], instance: Instance) -> Prepared:
        """The graph's inputs in their order."""
        return Prepared(item, instance.options)

    def collate(self, prepared: Sequence[Prepared]) -> tuple[np.ndarray, ...]:
        """As in Predictor; of one instance nothing is copied."""
        if len(prepared) == 1:
            return tuple(array[None] for array in prepared[0].arrays)
        return super().collate(prepared)

    def groups(self, prepared: Sequence[Prepared]) -> list[list[int]]:
        """Instances of equal shapes are computed together."""
        if not self.has_sizes:
            return super().groups(prepared)
        groups: dict[Any, list[int]] = {}
        for position, one in enumerate(prepared):
            groups.setdefault(tuple(array.shape for array in one.arrays), []).append(position)
        return list(groups.values())

    def postprocess(self, outputs: dict[str, np.ndarray], prepared: list[Prepared]) -> list[Any]:
        """Arrays [B, ...] by name -> {name: value or nested list} per row."""
        columns = [outputs[field.name].tolist() for field in self.outputs]
        names = [field.name for field in self.outputs]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def explanation(self, item: tuple[np.ndarray, ...], prepared: Prepared) -> Any:
        """The gradient of one value of an output with respect to each input of floats."""
        from .tensor_gradients import gradients

        name = prepared.options.get("output", self.outputs[0].name.lower())
        output = next(field.name for field in self.outputs if field.name.lower() == name)
        found = gradients(
            self.graph,
            prepared.arrays,
            self.input_names(),
            output,
            prepared.options.get("index"),
            self.device,
        )
        if not found.by_input:
            raise NotSupported(
                f"no input of floats leads to {output!r} by a gradient, so that it can't be explained; call "
                "/predictions"
            )
        return {
            "output": output,
            "index": found.index,
            "value": found.value,
            "method": "gradient",
            "gradient": {key: gradient.tolist() for key, gradient in found.by_input.items()},
        }

    def request_schema(self) -> dict[str, Any]:
        """An object with every input; of a model with one input also its value alone."""
        values = {field.name: field.schema(self.sizes) for field in self.fields}
        whole = object_schema(values, [field.name for field in self.fields if field.default is None])
        if len(self.fields) > 1:
            return whole
        (value,) = values.values()
        return {"anyOf": [whole, value]}

    def answer_schema(self) -> dict[str, Any]:
        """An object with every output."""
        return {
            "type": "object",
            "properties": {field.name: field.schema({}) for field in self.outputs},
            "required": [field.name for field in self.outputs],
        }

    def explanation_schema(self) -> dict[str, Any] | None:
        """The explained value, and a gradient shaped like each input of floats; None for an ONNX graph, which
        has none.
        """
        if self.export.program.name == ONNX_PROGRAM:
            return None
        floats = [field for field in self.fields if field.numpy_dtype.kind == "f"]
        gradient = {
            "type": "object",
            "properties": {
                field.name: TensorField(field.name, "float32", field.shape).schema(self.sizes)
                for field in floats
            },
            "description": "how much the value changes per unit of each number that was sent",
        }
        properties = {
            "output": {"type": "string", "enum": [field.name for field in self.outputs]},
            "index": {"type": "integer", "minimum": 0, "description": "of the value, in row order"},
            "value": {"type": "number"},
            "method": {"type": "string", "enum": ["gradient"]},
            "gradient": gradient,
        }
        return {"type": "object", "properties": properties, "required": list(properties)}

    def _named(self, payload: Any) -> dict[str, Any]:
        """What was sent, by the names of the inputs."""
        names = self.input_names()
        if isinstance(payload, bytes | str):
            raise BadRequest(f"send JSON like {self._example()}")
        if not isinstance(payload, dict):
            if len(names) > 1:
                raise BadRequest(f"this model has {len(names)} inputs; send {self._example()}")
            return {names[0]: payload}
        if len(names) == 1 and payload.keys() == {ALONE}:
            return {names[0]: payload[ALONE]}
        for key in payload:
            if key not in names:
                close = difflib.get_close_matches(str(key), names, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
                raise BadRequest(f"unknown input {str(key)[:40]!r}; {hint}")
        return payload

    def _example(self) -> str:
        """The form of a request, in words."""
        values = [f'"{field.name}": {field.words_of_shape()}' for field in self.fields]
        return f"{{{', '.join(values)[:400]}}}"


PREDICTOR = TensorPredictor
