"""The options of clients and of requests, declared once for all clients and commands."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict


class EndpointOptions(TypedDict, total=False):
    """The arguments of `Endpoint` behind `port`."""

    url: str | None
    """Of the inference API; by default this machine at `port`."""
    management_url: str | None
    """Of the management API."""
    key_file: Path | None
    """The server's tokens; by default those of `marina serve` here."""
    token: str | None
    """For both APIs, instead of a key file."""
    timeout: float
    """Deadline of a call in seconds, retries included; 30."""
    retries: int
    """Of a call; 3."""
    home: Path | None
    """The project whose server it is, where there is no `url`."""


class RequestOptions(TypedDict, total=False):
    """Options of a prediction or an explanation; None leaves one out.

    Which of them a model takes, and their bounds, is in its own description: `marina openapi NAME`. Options
    that only a handler of your own knows are sent as `headers`.
    """

    top_k: int | None
    """Classifiers: this many classes; embedders: labels and neighbors; generators: tokens to draw from."""
    confidence_threshold: float | None
    """Detectors: no detection below this score."""
    masks: str | None
    """Detectors with masks, and `format` of segmenters: how masks are encoded."""
    deterministic: bool | None
    """Policies: false samples the action."""
    seed: int | None
    """Policies: of the sampled action; generators: of the drawn tokens."""
    action_mask: Sequence[int] | Sequence[bool] | None
    """Policies: actions that are allowed."""
    horizon: int | None
    """Forecasters: so many steps ahead; by default all."""
    labels: Sequence[str] | None
    """Embedders: which of these is nearest."""
    embedding: bool | None
    """Embedders: false leaves the vector out."""
    other: str | None
    """Explanations of embedders: the similarity to this text."""
    windows: bool | None
    """Classifiers of sounds: true answers each window, too, with its times."""
    sample_rate: int | None
    """Classifiers of sounds: of samples that are sent as numbers, in hertz."""
    token: int | None
    """Explanations of taggers: of the tag of this word, counted from 0."""
    max_new_tokens: int | None
    """Generators: tokens of the answer at most."""
    num_beams: int | None
    """Generators: beam search over so many."""
    temperature: float | None
    """Generators: 0 for the most probable tokens; above, they are drawn."""
    top_p: float | None
    """Generators: draw from the fewest tokens of this probability together."""
    repetition_penalty: float | None
    """Generators: how much less likely tokens are that were there already."""
    length_penalty: float | None
    """Generators: of beam search; above 1 longer answers, below 1 shorter ones."""
    stop: Sequence[str] | None
    """Generators: the answer ends before the first of these texts."""
    class_index: int | None
    """Explanations: of this class instead of the answer."""
    output: str | None
    """Explanations of tensors: of a value of this output."""
    index: int | None
    """Explanations of tensors: of this value, in row order; by default of the largest."""
    format: str | None
    """Explanations: "png" gives a picture instead of JSON; of segmenters see `masks`."""


class CallOptions(RequestOptions, total=False):
    """The options of a request, and how it is sent."""

    content_type: str | None
    """Of bytes and Paths; by default "application/octet-stream"."""
    headers: Mapping[str, str] | None
    """Sent as they are; they win over the options."""
    timeout: float | None
    """Deadline in seconds; by default the client's."""


class ManyOptions(RequestOptions, total=False):
    """The options of a request of many bodies, and how it is sent."""

    headers: Mapping[str, str] | None
    """Sent as they are."""
    timeout: float | None
    """Deadline in seconds."""


class SlicedOptions(ManyOptions, total=False):
    """The options of many bodies that are sent in slices; `timeout` is for all slices."""

    in_flight: int
    """Slices at a time; by default 4."""


class JobOptions(CallOptions, total=False):
    """The options of a job of one request."""

    callback: str | None
    """URL that is told when the job has ended, if the server allows its host."""


class ManyJobOptions(ManyOptions, total=False):
    """The options of a job of many bodies."""

    callback: str | None
    """As of `JobOptions`."""


NAMES = tuple(RequestOptions.__annotations__)
