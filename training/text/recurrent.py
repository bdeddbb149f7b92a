"""LSTM and GRU over tokens, and their graph: ONNX, since torch.export fixes the length of recurrent cells.

Each direction reads a text's own tokens and nothing that it is filled up with: packed sequences in training,
ReverseSequence around the backward cells in the graph. (OpenVINO 2026.4 reads ONNX's input `sequence_lens`
otherwise: answers of a batch were off by 0.02.) ONNX Runtime computes it, or OpenVINO.
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from handlers.inputs.tokenization import PAD
from training.tensors.onnx_graphs import read_packages

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
# gates in the order of ONNX, as places in torch's: (input, output, forget, cell), (update, reset, new)
GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
OPSET, IR_VERSION = 18, 9
TOKENS, OUTPUT = "tokens", "output"
LEAST = float(np.finfo(np.float32).min)


class Recurrent(nn.Module):
    """The mean and the maximum, over a text's own tokens, of what stacked cells give: LSTM (Hochreiter and
    Schmidhuber 1997) or GRU (Cho et al. 2014), perhaps in both directions (Schuster and Paliwal 1997).
    """

    def __init__(
        self, embedding: nn.Embedding, kind: str, hidden: int, layers: int, both: bool, dropout: float
    ) -> None:
        super().__init__()
        self.embedding, self.kind = embedding, kind
        self.cells = CELLS[kind](
            embedding.embedding_dim,
            hidden,
            layers,
            batch_first=True,
            dropout=dropout if layers > 1 else 0.0,
            bidirectional=both,
        )
        self.width = 2 * hidden * (2 if both else 1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, length], filled up with PAD behind -> [B, width]."""
        mask = (tokens != PAD).unsqueeze(2)
        places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        lengths = ((tokens != PAD) * places).amax(1).clamp(min=1)
        packed = pack_padded_sequence(
            self.embedding(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        outputs, _ = pad_packed_sequence(self.cells(packed)[0], True, total_length=tokens.shape[1])
        highest = outputs.masked_fill(~mask, LEAST).amax(1)
        return torch.cat([(outputs * mask).sum(1) / mask.sum(1).clamp(min=1), highest], 1)


class _Graph:
    """Nodes and constants of a graph in ONNX."""

    def __init__(self, onnx: Any) -> None:
        self.onnx, self.nodes, self.constants = onnx, list[Any](), list[Any]()

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """The name of a constant, which may be a tensor of torch."""
        array = values.detach().numpy() if isinstance(values, torch.Tensor) else np.array(values, dtype)
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, kind: str, *inputs: str, named: str = "", **attributes: Any) -> str:
        """The name of what a new node gives."""
        name = named or f"value_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], **attributes))
        return name

    def linear(self, value: str, layer: nn.Linear) -> str:
        """A linear layer."""
        return self.add("Gemm", value, self.constant(layer.weight), self.constant(layer.bias), transB=1)

    def cells(self, steps: str, lengths: str, cells: Any, kind: str) -> str:
        """Stacked cells: [T, B, size] -> [T, B, size]. What lies behind a text's end reaches none of its own
        steps: the backward cells read the steps in their reverse order.
        """
        for layer in range(cells.num_layers):
            found = [self._direction(steps, cells, kind, f"l{layer}")]
            if cells.bidirectional:
                mirrored = self._mirrored(steps, lengths)
                backward = self._direction(mirrored, cells, kind, f"l{layer}_reverse")
                found.append(self._mirrored(backward, lengths))
            steps = self.add("Concat", *found, axis=2)
        return steps

    def _mirrored(self, steps: str, lengths: str) -> str:
        """Each text's own steps in the reverse order."""
        return self.add("ReverseSequence", steps, lengths, batch_axis=1, time_axis=0)

    def _direction(self, steps: str, cells: Any, kind: str, of: str) -> str:
        """One layer of cells that reads from the first step on: [T, B, size] -> [T, B, hidden]."""

        def ordered(name: str) -> torch.Tensor:
            parts = getattr(cells, f"{name}_{of}").chunk(len(GATES[kind]))
            return torch.cat([parts[gate] for gate in GATES[kind]])[None]

        biases = torch.cat([ordered("bias_ih"), ordered("bias_hh")], 1)
        weights = [self.constant(one) for one in (ordered("weight_ih"), ordered("weight_hh"), biases)]
        more: dict[str, Any] = {"linear_before_reset": 1} if kind == "gru" else {}
        outputs = self.add(kind.upper(), steps, *weights, hidden_size=cells.hidden_size, **more)
        return self.add("Squeeze", outputs, self.constant([1], np.int64))  # of the one direction

    def body(self, body: Recurrent) -> str:
        """What `Recurrent` gives."""
        axis = self.constant([1], np.int64)
        is_padding = self.add("Equal", TOKENS, self.constant(PAD, np.int64))
        mask = self.add("Cast", self.add("Not", is_padding), to=self.onnx.TensorProto.INT64)
        one = self.constant(1, np.int64)
        size = self.add("Squeeze", self.add("Shape", TOKENS, start=1, end=2))
        places = self.add("Range", one, self.add("Add", size, one), one)
        lengths = self.add("ReduceMax", self.add("Mul", mask, places), axis, keepdims=0)
        embedded = self.add("Gather", self.constant(body.embedding.weight), TOKENS)
        steps = self.add("Transpose", embedded, perm=[1, 0, 2])
        outputs = self.add("Transpose", self.cells(steps, lengths, body.cells, body.kind), perm=[1, 0, 2])
        last = self.constant([2], np.int64)
        counted = self.add("Unsqueeze", self.add("Cast", mask, to=self.onnx.TensorProto.FLOAT), last)
        total = self.add("ReduceSum", self.add("Mul", outputs, counted), axis, keepdims=0)
        mean = self.add("Div", total, self.add("ReduceSum", counted, axis, keepdims=0))
        hidden = self.add("Where", self.add("Unsqueeze", is_padding, last), self.constant(LEAST), outputs)
        return self.add("Concat", mean, self.add("ReduceMax", hidden, axis, keepdims=0), axis=1)


def graph_of(
    body: nn.Module, head: nn.Module, temperature: float = 1.0, normalized: bool = False
) -> bytes | None:
    """The graph of a recurrent body, the linear layer of the head if it has one, and division by the
    temperature, or to the length 1: tokens int64 [B, length] -> float32 [B, outputs]. None for other bodies.

    Raises CallError without the packages onnx and onnxruntime.
    """
    if not isinstance(body, Recurrent):
        return None
    onnx = read_packages("architecture: lstm and gru")
    made = _Graph(onnx)
    value, width = made.body(body), body.width
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            value, width = made.linear(value, layer), layer.out_features
    if normalized:
        value = made.add("LpNormalization", value, axis=1, p=2)
    if temperature != 1:
        value = made.add("Div", value, made.constant(temperature))
    made.add("Identity", value, named=OUTPUT)
    types = onnx.TensorProto
    graph = onnx.helper.make_graph(
        made.nodes,
        "text",
        [onnx.helper.make_tensor_value_info(TOKENS, types.INT64, ["batch", "length"])],
        [onnx.helper.make_tensor_value_info(OUTPUT, types.FLOAT, ["batch", width])],
        made.constants,
    )
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
