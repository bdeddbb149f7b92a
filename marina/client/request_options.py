"""The options of clients and of requests, declared once for all clients and commands."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict


class EndpointOptions(TypedDict, total=False):
    """The arguments of `Endpoint` behind `port`."""

    url: str | None
    management_url: str | None
    key_file: Path | None
    token: str | None
    timeout: float
    retries: int
    home: Path | None


class RequestOptions(TypedDict, total=False):
    """Options of a prediction or an explanation; None leaves one out.

    Which of them a model takes, and their bounds, is in its own description: `marina openapi NAME`. Options
    that only a handler of your own knows are sent as `headers`.
    """

    top_k: int | None  # classifiers: this many classes
    confidence_threshold: float | None  # detectors: no detection below this score
    masks: str | None  # detectors with masks, and `format` of segmenters: how masks are encoded
    deterministic: bool | None  # policies: false samples the action
    seed: int | None  # policies: of the sampled action
    action_mask: Sequence[int] | Sequence[bool] | None  # policies: actions that are allowed
    class_index: int | None  # explanations: of this class instead of the answer
    output: str | None  # explanations of tensors: of a value of this output
    index: int | None  # explanations of tensors: of this value, in row order; by default of the largest
    format: str | None  # "png" for a picture instead of JSON


class CallOptions(RequestOptions, total=False):
    """The options of a request, and how it is sent."""

    content_type: str | None  # of bytes and Paths; by default "application/octet-stream"
    headers: Mapping[str, str] | None  # sent as they are; they win over the options
    timeout: float | None  # deadline in seconds; by default the client's


class ManyOptions(RequestOptions, total=False):
    """The options of a request of many bodies, and how it is sent."""

    headers: Mapping[str, str] | None  # sent as they are
    timeout: float | None  # deadline in seconds


class SlicedOptions(ManyOptions, total=False):
    """The options of many bodies that are sent in slices; `timeout` is for all slices."""

    in_flight: int  # slices at a time; by default 4


class JobOptions(CallOptions, total=False):
    """The options of a job of one request."""

    callback: str | None  # URL that is told when the job has ended, if the server allows its host


class ManyJobOptions(ManyOptions, total=False):
    """The options of a job of many bodies."""

    callback: str | None  # as of `JobOptions`


NAMES = tuple(RequestOptions.__annotations__)
