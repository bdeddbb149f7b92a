"""The errors of the serving side. A refusal is the caller's fault and reaches that caller alone, as JSON.

RequestError            400  base: the request can't be answered; the message says what to send instead
├── BadRequest  400  the body can't be read: no image, broken JSON, wrong key, shape or value
├── StateConflict  409  the state of an episode doesn't go with this step or this model
├── TooLarge       413  more bytes, pixels or rows than the model's limits
└── NotSupported   415  a kind of content that this model doesn't take
ModelError         500  ours: the model failed on a request that was right; details go to the log only
BrokenArchive      a worker refuses to come up: a file of the archive is missing, changed or answers wrongly
"""

from collections.abc import Iterable
from http import HTTPStatus


class RequestError(Exception):
    """A request that can't be answered; raised while one request is decoded or postprocessed."""

    status = HTTPStatus.BAD_REQUEST
    is_v2 = False  # whether its call was of the Open Inference Protocol, whose clients read "error"


class BadRequest(RequestError):
    """The body can't be read as what this model takes."""


class StateConflict(RequestError):
    """A policy's state is another step's or another model's: a step was lost or repeated."""

    status = HTTPStatus.CONFLICT


class TooLarge(RequestError):
    """Over a limit of bytes, pixels or rows."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class NotSupported(RequestError):
    """A content that this model doesn't take at all."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class ModelError(Exception):
    """The model failed on a request that was right; the caller learns no details."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    is_v2 = False  # as RequestError's


class BrokenArchive(RuntimeError):
    """The archive is not what was exported; raised at initialisation, so that the worker doesn't come up.

    A RuntimeError, because TorchServe reports only those with a cause.
    """


def quoted(names: Iterable[object]) -> str:
    """Names that a caller sent, for a message: in quotes, since one may be empty; 200 characters at most."""
    return ", ".join(repr(str(name)) for name in names)[:200]
