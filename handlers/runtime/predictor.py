"""The base of all handlers: it owns the loop from TorchServe's rows to answers; a kind writes small hooks.

    decode(instance) -> item                    a picture, an observation; or a RequestError
    preprocess(item, instance) -> Prepared      the graph's inputs for one instance
    postprocess(outputs, prepared) -> answers   outputs of the graph -> one answer per instance
    explanation(item, prepared) -> answer       why, where a kind can say it
    request_schema, answer_schema               JSON schemas of an instance and its answer

A bad request fails alone: it gets its 4xx, the others of its batch get the answers that they would get alone.
How a worker comes up is in `runtime.startup`. All is numpy, so that a worker with a compiled form never reads
torch.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ..protocol.answers import Schema, in_protocol
from ..protocol.errors import ModelError, NotSupported, RequestError
from ..protocol.replies import NOT_FINITE, Reply, reply_of
from ..protocol.requests import (
    MAX_INSTANCES,
    Call,
    Instance,
    Options,
    Prepared,
    Request,
    Row,
    by_rows,
    read_call,
)
from .comparison import AnswerComparison
from .decode_pool import DecodePool, Read
from .streams import StreamingPredictor

logger = logging.getLogger(__name__)


class Predictor(StreamingPredictor, AnswerComparison):
    """Serves an export folder; see the module's text. Subclasses name their options and write the hooks."""

    # whether instances have lists of different lengths in their answers, as detections are
    ragged: ClassVar[bool] = False
    # Content types of the files that a request's body may be; JSON is always taken.
    file_types: ClassVar[tuple[str, ...]] = ()

    def reply(self, rows: Sequence[Row], ids: Sequence[str]) -> list[Reply]:
        """One batch, and the front end's names of its requests -> what each caller gets."""
        self.telemetry.start_batch()
        answers = self.answer_rows(rows)
        with self.telemetry.postprocess:
            return [
                reply_of(answer, one, self.max_answer_bytes) for answer, one in zip(answers, ids, strict=True)
            ]

    def report(self, rows: Sequence[Row], ids: Sequence[str], replies: Sequence[Reply]) -> None:
        """Log and count the batch that was replied to last."""
        self.telemetry.report(ids, [headers for _, headers in rows], replies, self.has_metrics)

    def answer_rows(self, rows: Sequence[Row]) -> list[Any]:
        """(row, headers by lower-case name) -> per row its answer (JSON-ready, or a Picture), or the
        RequestError or ModelError that it gets instead.
        """
        with self.telemetry.decode:
            calls: dict[int, Any] = {}  # by the headers' identity: they are the same for many
            read = [self._read(row, headers, calls) for row, headers in rows]
        read = [item() if callable(item) else item for item in read]
        answers = iter(self._answers([item for item in read if isinstance(item, Request)]))
        return [self._collect(item, next(answers)) if isinstance(item, Request) else item for item in read]

    def input_names(self) -> list[str]:
        """The tensors of an instance in the Open Inference Protocol."""
        return [self.export.preprocess.get("input", "data")]

    def rows_of(self, payload: Any, most: int) -> list[Any] | None:
        """The instances of a body that holds several in a form of the kind's own, as CSV does: each is
        decoded alone, and what is refused of them costs the others nothing. None for one instance.

        Raises TooLarge for more than `most`.
        """
        return None

    def decode(self, instance: Instance) -> Any:
        """What was sent, read. Raises a RequestError that says what to send instead."""
        raise NotImplementedError

    def decode_whole(self, instance: Instance) -> Any:
        """As `decode`, for an explanation, which may show what was sent: with nothing left out for speed."""
        return self.decode(instance)

    def preprocess(self, item: Any, instance: Instance) -> Prepared:
        """The graph's inputs for one instance."""
        raise NotImplementedError

    def prepare_together(self, instances: Sequence[Instance]) -> list[Prepared] | None:
        """`decode` and `preprocess` for all instances of a batch at once, where a kind has a faster way
        for these; otherwise None.
        """
        return None

    def groups(self, prepared: Sequence[Prepared]) -> list[list[int]]:
        """Positions of the instances of a batch that the graph takes at once; by default all of them.

        A kind whose inputs have no fixed size groups by size, or pads in `collate`.
        """
        return [[*range(len(prepared))]]

    def collate(self, prepared: Sequence[Prepared]) -> tuple[np.ndarray, ...]:
        """The graph's inputs for a group: each instance's arrays, stacked."""
        stack = self.slots.together if self.slots else np.array  # as np.stack, at a third of its time
        return tuple(map(stack, zip(*(item.arrays for item in prepared), strict=True)))

    def postprocess(self, outputs: Any, prepared: list[Prepared]) -> list[Any]:
        """Outputs of the graph for a batch -> one JSON-ready answer per instance."""
        raise NotImplementedError

    def explanation(self, item: Any, prepared: Prepared) -> Any:
        """Why one instance is answered as it is. Raises NotSupported where a kind can't say."""
        raise NotSupported(
            f"a {self.metadata['kind']} has no explanations; call /predictions/{self.metadata['name']}"
        )

    def request_schema(self) -> dict[str, Any]:
        """JSON schema of one instance: the body of a request, or an element of "instances"; options
        included.
        """
        raise NotImplementedError

    def answer_schema(self) -> dict[str, Any]:
        """JSON schema of the answer to one instance."""
        raise NotImplementedError

    def explanation_schema(self) -> dict[str, Any] | None:
        """JSON schema of the explanation of one instance; None where a kind has none."""
        return None

    def describe(self) -> dict[str, Any]:
        """What `GET /models/NAME?customized=true` shows."""
        explanation = self.explanation_schema()
        return {
            **self.metadata,
            "checksum": self.export.checksum,
            "computing": self.computing,
            "labels": self.labels,
            "preprocess": self.export.preprocess,
            "postprocess": self.export.postprocess,
            "limits": {
                "max_instances": MAX_INSTANCES,
                "max_answer_bytes": self.max_answer_bytes,
                **self.limits(),
            },
            "file_types": list(self.file_types),
            "takes_rows": type(self).rows_of is not Predictor.rows_of,
            "options": {name: option.schema() for name, option in self.options.items()},
            "explain_options": {name: option.schema() for name, option in self.explain_options.items()},
            "request": self.request_schema(),
            "answer": self.answer_schema(),
            **({"explanation": explanation} if explanation else {}),
        }

    def limits(self) -> dict[str, int]:
        """What a kind refuses to read: name -> most."""
        return {}

    def _read(self, row: Mapping[str, Any], headers: Mapping[str, str], calls: dict[int, Any]) -> Any:
        """A Request for the graph; for what is answered without it, what gives the answer; or the error
        that the request gets.
        """
        call = calls.get(id(headers))
        if call is None:
            call = calls[id(headers)] = self._tried(read_call, headers, self.options)
        if not isinstance(call, Call):
            return call
        if call.describe:
            return partial(self._tried, self.describe)
        if call.explain:
            return partial(self._tried, self._explained, row, headers)
        return self._tried(self._request, row, call, self.options)

    def _request(
        self, row: Mapping[str, Any], call: Call, options: Options, most: int = MAX_INSTANCES
    ) -> Request:
        """The request of a row. Raises a RequestError."""
        request = super()._request(row, call, options, most)
        rows = self.rows_of(request.instances[0].payload, most) if request.protocol == "own" else None
        return request if rows is None else by_rows(request, rows)

    def _tried(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """What a step of one request gives, or the error that the request gets."""
        try:
            return step(*arguments)
        except (RequestError, ModelError) as error:
            return error
        except Exception:  # a fault of ours in one request must not cost its neighbours their answers
            logger.exception("a request failed before its inference")
            return ModelError("the server failed on this request; its log says why")

    def _answers(self, requests: list[Request]) -> list[Any]:
        """Per request the answers to its instances, or the error of the first that can't be read; of `rows`
        each has its own.
        """
        if len(requests) == 1 and len(requests[0].instances) == 1:  # a tenth of a small graph's time less
            (one,) = self._begin([(0, requests[0].instances[0])], 0)()
            if isinstance(one, Exception):
                return [[one] if requests[0].protocol == "rows" else one]
            return [self._compute([one])]
        found: list[Any] = [[] for _ in requests]
        for batch in self._batches(requests, found):
            answers = iter(self._compute([one for _, one in batch if not isinstance(one, Exception)]))
            for place, one in batch:
                found[place].append(one if isinstance(one, Exception) else next(answers))
        return found

    def _batches(self, requests: list[Request], found: list[Any]) -> Iterator[list[tuple[int, Prepared]]]:
        """(place of its request, instance ready for the graph) of as many as that takes, again and again: a
        request of thousands needs no more memory than that. Threads read the next ones while these are
        computed.

        An error in reading goes to its place in `found`; what else that request has is left out.
        """
        most = int(self.metadata["max_batch"])
        instances = [(place, one) for place, request in enumerate(requests) for one in request.instances]
        part = instances[:most]
        ready = self._begin(part, 0)
        for turn, behind in enumerate(range(most, len(instances) + most, most), 1):
            batch = [(place, one) for (place, _), one in zip(part, ready(), strict=True)]
            for place, one in batch:
                fails_all = isinstance(one, Exception) and requests[place].protocol != "rows"
                if fails_all and isinstance(found[place], list):
                    found[place] = one
            part = [
                (place, one)
                for place, one in instances[behind : behind + most]
                if isinstance(found[place], list)
            ]
            ready = self._begin(part, turn)
            yield [(place, one) for place, one in batch if isinstance(found[place], list)]

    def _begin(self, part: list[tuple[int, Instance]], turn: int) -> Callable[[], list[Any]]:
        """What gives each instance, ready for the graph, or the error of one that isn't: by threads, which
        begin at once, or when asked.
        """
        instances = [one for _, one in part]
        if self.slots:
            self.slots.hand_out(instances, turn)
        if self.readers and len(instances) > 1:
            return partial(self._wait_for, self.readers, self.readers.begin(instances))
        return partial(self._prepare, instances)

    def _wait_for(self, readers: DecodePool, futures: list[Future[Read]]) -> list[Any]:
        readers.wait(futures, self.telemetry)
        return [self._tried(_prepared_of, future) for future in futures]

    def _prepare(self, instances: list[Instance]) -> list[Any]:
        if type(self).prepare_together is not Predictor.prepare_together:
            with self.telemetry.preprocess:
                together = self._tried(self.prepare_together, instances)
            if isinstance(together, list):
                return together
        return [self._tried(self._alone, one) for one in instances]  # whose fault it is gets the error

    def _alone(self, instance: Instance) -> Prepared:
        return self._prepared(instance)[1]

    def _prepared(self, instance: Instance, whole: bool = False) -> tuple[Any, Prepared]:
        with self.telemetry.decode:
            item = self.decode_whole(instance) if whole else self.decode(instance)
        with self.telemetry.preprocess:
            return item, self.preprocess(item, instance)

    def _explained(self, row: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
        """Explanations are rare and expensive: each request by itself, one instance after the other."""
        with self.telemetry.decode:
            options = {**self.options, **self.explain_options}
            request = self._request(row, read_call(headers, options), options)
        explain = partial(self._tried, self._explained_alone) if request.protocol == "rows" else None
        try:
            answers = [*map(explain or self._explained_alone, request.instances)]
            return self._in_protocol(request, answers, "explanations", self.explanation_schema)
        except RequestError as refusal:
            refusal.is_v2 = request.tensors is not None
            raise

    def _compute(self, prepared: list[Prepared]) -> list[Any]:
        """Answers to a batch, group by group."""
        self.telemetry.instances += len(prepared)
        if not prepared:
            return []
        if len(prepared) == 1 or len(groups := self.groups(prepared)) == 1:
            return self._compute_group(prepared)
        answers: dict[int, Any] = {}
        for group in groups:
            found = self._compute_group([prepared[position] for position in group])
            answers.update(zip(group, found, strict=True))
        return [answers[position] for position in range(len(prepared))]

    def _compute_group(self, prepared: list[Prepared]) -> list[Any]:
        """Answers to one group; if it fails it is tried one by one."""
        try:
            return self._forward(prepared)
        except Exception:  # whatever the graph raised: one instance may be to blame
            logger.exception("a batch of %d failed", len(prepared))
            return self._one_by_one(prepared)

    def _one_by_one(self, prepared: list[Prepared]) -> list[Any]:
        answers: list[Any] = []
        for item in prepared:
            try:
                answers += self._forward([item])
            except Exception:  # this one is
                logger.exception("an instance failed alone")
                answers.append(ModelError("the model failed on this request; the server's log says why"))
        return answers

    def _forward(self, prepared: list[Prepared]) -> list[Any]:
        with self.telemetry.inference:
            outputs = self.model(*self.collate(prepared))
        with self.telemetry.postprocess:
            return self.postprocess(outputs, prepared)

    def _collect(self, request: Request, found: Any) -> Any:
        """Its answers, one per instance, in the request's protocol; the first failure among them, or in
        their place, stands for it.
        """
        if request.protocol == "own":
            return found[0] if isinstance(found, list) else found
        failed = None if isinstance(found, list) else found
        if failed is None and request.protocol != "rows":
            failed = next((one for one in found if isinstance(one, Exception)), None)
        try:
            answer = failed or self._in_protocol(request, found, "predictions", self.answer_schema)
        except RequestError as refusal:
            answer = refusal
        except ValueError:
            answer = ModelError(NOT_FINITE)
        if isinstance(answer, RequestError | ModelError):
            answer.is_v2 = request.tensors is not None
        return answer

    def _in_protocol(self, request: Request, answers: list[Any], key: str, schema: Schema) -> Any:
        return in_protocol(request, answers, key, schema, self.metadata, self.ragged)


def _prepared_of(read: Future[Read]) -> Prepared:
    return read.result().prepared
