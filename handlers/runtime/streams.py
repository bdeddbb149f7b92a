"""Answers one after another: a predictor computes the instances of several requests step by step, and each
answer leaves as soon as it is there.

    open_stream(row, request_id) -> Stream        the request, read; or refused
    advance(streams, most) -> items per stream    one step for all of them together

Between two steps a stream may join or leave: a caller that hangs up costs no further step. Who computes
decides on the steps: an engine's streams, its jobs, TorchServe's chunks. A kind that makes one answer piece
by piece, as text, has a `Stream` of its own with the state of that answer, and overrides both.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from ..protocol.errors import NotSupported
from ..protocol.events import Item
from ..protocol.replies import Picture, Reply, reply_of
from ..protocol.requests import (
    MAX_INSTANCES,
    Call,
    Instance,
    Options,
    Prepared,
    Request,
    Row,
    read_call,
    read_request,
)
from .startup import PredictorStartup


class Stream:
    """One request whose answers are computed step by step; `refusal` stands in their place where it can't be
    read. `total` is the number of items, None where nobody knows yet.
    """

    def __init__(
        self,
        request_id: str,
        request: Request | None = None,
        *,
        explain: bool = False,
        refusal: Reply | None = None,
    ) -> None:
        self.request_id, self.refusal = request_id, refusal
        self.waiting: deque[Instance] = deque(request.instances if request else ())
        self.total: int | None = len(self.waiting)
        self.protocol = request.protocol if request else "own"
        self.is_list = self.protocol != "own"
        self.key = "explanation" if explain else "prediction"
        # whether an answer that a kind makes piece by piece is wanted when it is whole, as by a job
        self.wants_whole_answers = False

    @property
    def is_done(self) -> bool:
        """Whether no item is to come."""
        return not self.waiting


class StreamingPredictor(PredictorStartup):
    """The part of `Predictor` that answers step by step; what it calls of the others is declared at the
    end.
    """

    def open_stream(self, row: Row, request_id: str, max_instances: int = MAX_INSTANCES) -> Stream:
        """The request of a row (as in `Predictor.reply`), of which nothing is computed yet.

        Called in any thread, also while another one computes.
        """
        fields, headers = row
        read = self._tried(self._read_stream, fields, headers, max_instances)
        if isinstance(read, Exception):
            return Stream(request_id, refusal=reply_of(read, request_id))
        return Stream(request_id, read[0], explain=read[1])

    def advance(self, streams: Sequence[Stream], most: int) -> list[list[Item]]:
        """Compute the next instances of these streams, in turns, `most` in all and no more than the graph
        takes.

        Returns the items of each stream; one that is refused or fails has an error and harms no other.
        """
        self.telemetry.start_batch()
        places = _in_turns(streams, min(most, int(self.metadata["max_batch"])))
        answers: list[Any] = [None] * len(places)
        predicted = [at for at, place in enumerate(places) if streams[place[0]].key == "prediction"]
        instances = [places[at][1] for at in predicted]
        for at, answer in zip(predicted, self._predicted(instances), strict=True):
            answers[at] = answer
        items: list[list[Item]] = [[] for _ in streams]
        for at, (place, instance) in enumerate(places):
            stream = streams[place]
            if stream.key == "explanation":
                answers[at] = self._tried(self._explained_alone, instance)
            with self.telemetry.postprocess:
                items[place].append(Item(instance.position, self._item(answers[at], stream.request_id)))
        for place, _ in places:
            streams[place].waiting.popleft()
        return items

    def _read_stream(
        self, fields: Mapping[str, Any], headers: Mapping[str, str], max_instances: int
    ) -> tuple[Request, bool]:
        """The request of a row, and whether it asks for explanations. Raises a RequestError."""
        call = read_call(headers, self.options)
        options = {**self.options, **self.explain_options} if call.explain else self.options
        if call.explain:
            call = read_call(headers, options)
        if call.describe:
            raise NotSupported("a description is one answer; ask for it without Accept: text/event-stream")
        request = self._request(fields, call, options, max_instances)
        if request.tensors is not None:
            raise NotSupported(
                "tensors are answered as a whole; send one instance, or many as "
                '{"instances": [...]}, for one answer after another'
            )
        return request, call.explain

    def _predicted(self, instances: list[Instance]) -> list[Any]:
        """Per instance its answer, or the error that it gets."""
        if not instances:
            return []
        read = self._begin([(0, instance) for instance in instances], 0)()
        answers = iter(self._compute([one for one in read if not isinstance(one, Exception)]))
        return [one if isinstance(one, Exception) else next(answers) for one in read]

    def _explained_alone(self, instance: Instance) -> Any:
        item, prepared = self._prepared(instance, whole=True)
        self.telemetry.instances += 1
        with self.telemetry.inference:
            try:
                return self.explanation(item, prepared)
            except ModuleNotFoundError as error:
                if error.name != "torch":
                    raise
                raise NotSupported(
                    "explanations are computed by torch, which this server does not have; ask one that has it"
                ) from None

    def _item(self, answer: Any, request_id: str) -> Reply:
        if isinstance(answer, Picture):
            answer = NotSupported("a picture can't be one of several answers; ask for JSON")
        return reply_of(answer, request_id, self.max_answer_bytes)

    def explanation(self, item: Any, prepared: Prepared) -> Any:
        """As in Predictor."""
        raise NotImplementedError

    def _request(
        self, row: Mapping[str, Any], call: Call, options: Options, most: int = MAX_INSTANCES
    ) -> Request:
        """The request of a row. Raises a RequestError."""
        return read_request(row, call, options, most, takes_text=self.takes_text)

    def _tried(self, step: Callable[..., Any], *arguments: Any) -> Any:
        raise NotImplementedError

    def _begin(self, part: list[tuple[int, Instance]], turn: int) -> Callable[[], list[Any]]:
        raise NotImplementedError

    def _prepared(self, instance: Instance, whole: bool = False) -> tuple[Any, Prepared]:
        raise NotImplementedError

    def _compute(self, prepared: list[Prepared]) -> list[Any]:
        raise NotImplementedError


def _in_turns(streams: Sequence[Stream], most: int) -> list[tuple[int, Instance]]:
    """(place of its stream, instance): the first of each stream, the second of each, and so on."""
    columns = [islice(stream.waiting, most) for stream in streams]
    places: list[tuple[int, Instance]] = []
    while columns and len(places) < most:
        before = len(places)
        for place, column in enumerate(columns):
            if len(places) < most and (instance := next(column, None)) is not None:
                places.append((place, instance))
        if len(places) == before:
            break
    return places
