"""What the gateway refuses by itself, before or instead of a predictor: TorchServe's types and texts.

Failure                  base; has a status, TorchServe's type, and headers of its own
├── ModelNotFound        404
├── VersionNotFound      404
├── ResourceNotFound     404  no such path
├── JobNotFound          404
├── MethodNotAllowed     405
├── NotAcceptable        406  no answer in the form that Accept asks for
├── InvalidKey           401  no token, a wrong one, or one without the scope
├── RequestTimeout       408  the request did not arrive in time
├── JobNotDone           409  its result is not there yet
├── TooManyJobs          429
├── HeadersTooLarge      431  request line and headers without an end
├── ServiceUnavailable   503  the queue is full; Retry-After says when to come back
│   └── NoWorkers        503  registered without workers
├── JobsUnavailable      503  the store of jobs can't be read
├── WaitedTooLong        504  nobody computed the request within clientTimeoutInMills
└── StorageFull          507  no room for the body or result of a job
A body that can't be read raises a RequestError of `handlers.protocol.errors`, as a predictor does.
"""

import json
from http import HTTPStatus
from typing import ClassVar

from handlers.protocol.errors import ModelError, RequestError
from handlers.protocol.replies import Reply, reply_of

FAILED = "the server failed on this request; its log says why"

Headers = tuple[tuple[bytes, bytes], ...]


class Failure(Exception):
    """A request that reaches no predictor; the message is the caller's."""

    status: ClassVar[HTTPStatus]
    type: ClassVar[str]
    headers: Headers = ()

    def reply(self, request_id: str) -> Reply:
        """The answer in TorchServe's form."""
        content = {
            "code": self.status.value,
            "type": self.type,
            "message": str(self),
            "request_id": request_id,
        }
        return Reply(json.dumps(content, separators=(",", ":")).encode(), status=self.status, error=self.type)


class ModelNotFound(Failure):
    """No such model is registered."""

    status, type = HTTPStatus.NOT_FOUND, "ModelNotFoundException"

    def __init__(self, name: str) -> None:
        super().__init__(f"Model not found: {name}")


class VersionNotFound(Failure):
    """The model is registered, but not in this version."""

    status, type = HTTPStatus.NOT_FOUND, "ModelVersionNotFoundException"

    def __init__(self, name: str, version: str) -> None:
        super().__init__(f"Model version: {version} does not exist for model: {name}")


class ResourceNotFound(Failure):
    """There is no such path."""

    status, type = HTTPStatus.NOT_FOUND, "ResourceNotFoundException"

    def __init__(self) -> None:
        super().__init__("Requested resource is not found, please refer to API document.")


class MethodNotAllowed(Failure):
    """The path is right, the method is not."""

    status, type = HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowedException"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"Requested method is not allowed, please send {allowed}.")
        self.headers = ((b"allow", allowed.encode()),)


class NotAcceptable(Failure):
    """The path has no answers in the form that the header Accept asks for."""

    status, type = HTTPStatus.NOT_ACCEPTABLE, "NotAcceptableException"


class InvalidKey(Failure):
    """No token, a wrong one, or one without this scope."""

    status, type = HTTPStatus.UNAUTHORIZED, "InvalidKeyException"
    headers = ((b"www-authenticate", b"Bearer"),)

    def __init__(self, scope: str) -> None:
        how = f"send the header 'Authorization: Bearer KEY' with a key for {scope}"
        super().__init__(f"Token Authorization failed. Token either incorrect, expired, or missing: {how}")


class RequestTimeout(Failure):
    """The request did not arrive in time."""

    status, type = HTTPStatus.REQUEST_TIMEOUT, "RequestTimeoutException"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the request did not arrive within {seconds:g} s; send it again")


class HeadersTooLarge(Failure):
    """The request line and headers have no end."""

    status, type = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "HeadersTooLargeException"

    def __init__(self, most: int) -> None:
        super().__init__(f"the request has more than {most:,} bytes of headers, trailers and sizes of chunks")


class ServiceUnavailable(Failure):
    """The queue is full."""

    status, type = HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailableException"
    headers = ((b"retry-after", b"1"),)


class NoWorkers(ServiceUnavailable):
    """The model is registered without workers."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f'Model "{name}" has no worker to serve inference request. Please use scale workers API to add '
            "workers."
        )


class WaitedTooLong(Failure):
    """The request was in the queue for longer than its callers wait."""

    status, type = HTTPStatus.GATEWAY_TIMEOUT, "GatewayTimeoutException"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"nobody was free to answer within {seconds:g} s; send the request again later")


class JobNotFound(Failure):
    """There is no such job, or it was too old to be kept."""

    status, type = HTTPStatus.NOT_FOUND, "JobNotFoundException"

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"Job not found: {job_id[:40]}; it was deleted, or ended longer ago than jobs.keep_hours"
        )


class JobNotDone(Failure):
    """The result of a job was asked for before there is one."""

    status, type = HTTPStatus.CONFLICT, "JobNotDoneException"
    headers = ((b"retry-after", b"1"),)

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"the job is {state}; its result is there when GET /jobs/{job_id} says done")


class TooManyJobs(Failure):
    """No further job is kept."""

    status, type = HTTPStatus.TOO_MANY_REQUESTS, "TooManyJobsException"
    headers = ((b"retry-after", b"60"),)

    def __init__(self, most: int, ended: int) -> None:
        super().__init__(
            f"{most:,} jobs are kept (jobs.max_jobs), {ended:,} of which have ended; delete those whose "
            "result you have (DELETE /jobs/ID), or try again later"
        )


class StorageFull(Failure):
    """There is no room for the body or the result of a job."""

    status, type = HTTPStatus.INSUFFICIENT_STORAGE, "StorageFullException"

    def __init__(self, bound: str) -> None:
        super().__init__(f"{bound}; delete jobs whose result you have (DELETE /jobs/ID), or try again later")


class JobsUnavailable(Failure):
    """The store of jobs can't be read."""

    status, type = HTTPStatus.SERVICE_UNAVAILABLE, "JobsUnavailableException"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the store of jobs can't be used: {reason}; requests are answered without it")


Refused = (Failure, RequestError, ModelError)


def reply_to(error: Exception, request_id: str) -> Reply:
    """The answer to a request that raised a Failure, a RequestError or a ModelError."""
    return error.reply(request_id) if isinstance(error, Failure) else reply_of(error, request_id)
