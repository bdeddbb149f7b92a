"""The base of all handlers: it owns the loop from TorchServe's rows to answers; a kind writes two small hooks.

    decode(payload) -> Decoded                  one instance -> tensor, or a Refusal
    postprocess(outputs, decoded, options)      outputs of the graph -> one answer per instance

A bad request fails alone: it gets its 4xx, the others of its batch get the answers that they would get alone.
A worker whose archive was changed, or which answers its golden samples differently, does not come up.

What is not covered: compiled packages (only the portable `model.pt2` is loaded), explanations, custom metrics.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from ts.torch_handler.base_handler import BaseHandler

from bundle_checksums import verify_checksums
from bundle_errors import BrokenArchive, ModelFault, NotSupported, Refusal
from bundle_golden import difference, read_samples
from bundle_requests import Option, Request, read_request

logger = logging.getLogger(__name__)

WORTH_SHARING_SECONDS = 0.02

Row = tuple[Mapping[str, Any], Mapping[str, Any]]  # what TorchServe gives: the body's fields, and the headers


@dataclass(frozen=True)
class Decoded:
    """One instance, ready for the batch: its tensor (without batch dimension) and what postprocessing needs of it."""

    tensor: torch.Tensor
    size: tuple[int, int] = (0, 0)  # width and height of the image that was sent, for boxes


class BundleHandler(BaseHandler):  # type: ignore[misc]  # ts has no types
    """Serves an export folder; see the module's text. Subclasses name their options and write the two hooks."""

    options: ClassVar[dict[str, Option]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cpu")

    def initialize(self, context: Any) -> None:
        """Verify, load, warm up and compare; called by TorchServe once per worker.

        Raises BrokenArchive when a file was changed or a golden sample is answered differently.
        """
        started = time.monotonic()
        folder = Path(context.system_properties["model_dir"])
        self.context = context
        files = verify_checksums(folder, ignored=("MAR-INF",))
        gpu = context.system_properties.get("gpu_id")
        self.device = torch.device(f"cuda:{gpu}" if gpu is not None and torch.cuda.is_available() else "cpu")
        self.load(folder)
        self.choose_threads(folder, getattr(context, "model_yaml_config", None) or {})
        checked = self.check_golden(folder)
        self.initialized = True
        logger.info(
            "ready: model=%s version=%s files_verified=%d golden_samples=%d device=%s threads=%d seconds=%.2f",
            *(self.metadata["name"], self.metadata["version"], files, checked),
            *(self.device, torch.get_num_threads(), time.monotonic() - started),
        )

    def load(self, folder: Path) -> None:
        """Read an export's configurations and its program onto `self.device`."""
        self.read_configs(folder)
        self.model = torch.export.load(folder / "model.pt2").module().to(self.device)

    def read_configs(self, folder: Path) -> None:
        """Read the JSON files of an export."""
        self.metadata: dict[str, Any] = _json(folder / "model_metadata.json")
        self.preprocess_config: dict[str, Any] = _json(folder / "preprocess_config.json")
        self.postprocess_config: dict[str, Any] = _json(folder / "postprocess_config.json")
        labels = folder / "class_mapping.json"
        self.classes: list[str] = [name for _, name in sorted(_json(labels).items(), key=_index)] if labels.is_file() else []

    def choose_threads(self, folder: Path, model_config: Mapping[str, Any]) -> None:
        """Set torch's threads: as many as the spec says, otherwise this worker's share of the cores, or one.

        A request that one core answers at once is not worth sharing: its threads would only wait for each other, and where
        the other core is busy they wait long (a small CNN on two cores, one of them busy: 1.4 ms with one thread, 211 with two).
        """
        torch.set_num_threads(1)
        row: Row = ({"body": read_samples(folder)[0]["body"]}, {})
        seconds = []
        for _ in range(4):
            started = time.perf_counter()
            self.answer_rows([row])
            seconds.append(time.perf_counter() - started)
        share = len(os.sched_getaffinity(0)) // max(1, int(model_config.get("maxWorkers") or 1))
        wanted = (model_config.get("handler") or {}).get("threads")
        torch.set_num_threads(wanted or (1 if min(seconds) < WORTH_SHARING_SECONDS else max(1, share)))

    def check_golden(self, folder: Path) -> int:
        """Answer every golden sample, first alone and then all in one batch; returns their number. Raises BrokenArchive."""
        samples = read_samples(folder)
        rows: list[Row] = [({"body": sample["body"]}, {}) for sample in samples]
        batches = [*([row] for row in rows), rows]
        answers = [answer for batch in batches for answer in self.answer_rows(batch)]
        for sample, answer in zip([*samples, *samples], answers, strict=True):
            if isinstance(answer, Exception):
                raise BrokenArchive(f"golden sample {sample['name']!r} was refused: {answer}") from answer
            found = difference(sample["answer"], answer)
            if found:
                raise BrokenArchive(f"golden sample {sample['name']!r} is answered differently: {found}")
        return len(samples)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """One batch of TorchServe's rows -> one JSON body per row; status and content type are set on `context`."""
        headers = [context.get_all_request_header(index) or {} for index in range(len(data))]
        described = [str(header.get("describe", "")).lower() == "true" for header in headers]
        rows = [(row, own) for row, own, skip in zip(data, headers, described, strict=True) if not skip]
        answers = iter(self.answer_rows(rows))
        replies = [self.describe_handle() if skip else next(answers) for skip in described]
        return [self._reply(reply, index, context) for index, reply in enumerate(replies)]

    def answer_rows(self, rows: Sequence[Row]) -> list[Any]:
        """(row, headers) pairs -> per row its answer (JSON-ready), or the Refusal or ModelFault that it gets instead."""
        read = [self._read(row, headers) for row, headers in rows]
        good = [item for item in read if not isinstance(item, Exception)]
        decoded = [one for _, instances in good for one in instances]
        answers = iter(self._compute(decoded, [request.options for request, instances in good for _ in instances]))
        return [item if isinstance(item, Exception) else _collect(*item, answers) for item in read]

    def decode(self, payload: Any) -> Decoded:
        """One instance -> its tensor. Raises a Refusal that says what to send instead."""
        raise NotImplementedError

    def postprocess(self, outputs: Any, decoded: list[Decoded], options: list[dict[str, Any]]) -> list[Any]:
        """Outputs of the graph for a batch -> one JSON-ready answer per instance."""
        raise NotImplementedError

    def describe_handle(self) -> dict[str, Any]:
        """What `GET /models/NAME?customized=true` shows."""
        return {**self.metadata, "preprocess": self.preprocess_config, "postprocess": self.postprocess_config}

    def _reply(self, answer: Any, index: int, context: Any) -> bytes:
        """The body of one answer or error; sets status and content type of that request alone."""
        context.set_response_content_type(index, "application/json")
        try:
            if not isinstance(answer, Exception):
                return _compact(answer)
        except ValueError:
            answer = ModelFault("the model's answer is not finite; the request may be out of the range that it was trained on")
        context.set_response_status(answer.status.value, answer.status.phrase, index)
        return _compact(_failure(answer, context.get_request_id(index)))

    def _read(self, row: Mapping[str, Any], headers: Mapping[str, Any]) -> tuple[Request, list[Decoded]] | Exception:
        try:
            if str(headers.get("explain", "")).lower() == "true":
                raise NotSupported("this model has no explanations; call /predictions")
            request = read_request(row, headers, self.options)
            return request, [self.decode(payload) for payload in request.instances]
        except Refusal as refusal:
            return refusal
        except Exception:  # a fault of ours in one request must not cost its neighbours their answers
            logger.exception("decoding failed")
            return ModelFault("the request could not be decoded; the server's log says why")

    def _compute(self, decoded: list[Decoded], options: list[dict[str, Any]]) -> list[Any]:
        """Answers, in slices of the largest batch that the graph takes; a slice that fails is tried one by one."""
        answers: list[Any] = []
        most = int(self.metadata["max_batch"])
        for start in range(0, len(decoded), most):
            part, chosen = decoded[start : start + most], options[start : start + most]
            try:
                answers += self._forward(part, chosen)
            except Exception:  # whatever the graph raised: one instance may be to blame
                logger.exception("a batch of %d failed", len(part))
                answers += self._one_by_one(part, chosen)
        return answers

    def _one_by_one(self, decoded: list[Decoded], options: list[dict[str, Any]]) -> list[Any]:
        answers: list[Any] = []
        for item, chosen in zip(decoded, options, strict=True):
            try:
                answers += self._forward([item], [chosen])
            except Exception:  # this one is
                logger.exception("an instance failed alone")
                answers.append(ModelFault("the model failed on this request; the server's log says why"))
        return answers

    def _forward(self, decoded: list[Decoded], options: list[dict[str, Any]]) -> list[Any]:
        batch = torch.stack([item.tensor for item in decoded]).to(self.device)
        with torch.inference_mode():
            return self.postprocess(self.model(batch), decoded, options)


def _collect(request: Request, instances: list[Decoded], answers: Iterator[Any]) -> Any:
    """The next answers, one per instance, in the request's protocol; the first failure among them stands for the request."""
    own = list(islice(answers, len(instances)))
    return next((one for one in own if isinstance(one, Exception)), None) or request.answer(own)


def _index(pair: tuple[str, Any]) -> int:
    return int(pair[0])


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _compact(answer: Any) -> bytes:
    """Compact JSON; ValueError for NaN and infinity, which are no JSON."""
    return json.dumps(answer, separators=(",", ":"), allow_nan=False).encode()


def _failure(error: Any, request_id: str) -> dict[str, Any]:
    return {"code": error.status.value, "type": type(error).__name__, "message": str(error), "request_id": request_id}
