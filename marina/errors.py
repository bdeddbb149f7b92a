"""The errors of the tool, and whose fault each one is.

MarinaError
├── CallError            the caller's: a wrong argument, spec, file or folder              exit code 2
└── WorkError            the work's: it was asked for rightly and did not come about       exit code 1
├── BelowFloor       a trained model missed its floor, so nothing was exported
├── ParityError      an exported graph answers differently from the model that was trained
├── ReleaseError     a new version was not released; the running one stays the default
├── ServerError      TorchServe did not start, died, or is not ready
└── RequestError     a request got no answer; carries the status and the server's own words
    ├── RequestRefused     the sender's: a 4xx; another request may be answered, this one never will be
    ├── ServerUnavailable  nobody's: no connection, no time, a full queue, a worker that died; later it may be answered
    └── ServerFault        the model's or ours: any other 5xx; the server's log says more
"""

from typing import ClassVar


class MarinaError(Exception):
    """Base of all errors that the tool raises on purpose; the message says what to do instead."""

    exit_code: ClassVar[int] = 1


class CallError(MarinaError):
    """The call was wrong: raised by everything that reads arguments, specs and data folders."""

    exit_code = 2


class WorkError(MarinaError):
    """The work failed though it was asked for rightly."""


class BelowFloor(WorkError):
    """A trained model missed the floor of its spec; raised by the export, which then writes nothing."""


class ParityError(WorkError):
    """An exported program does not equal the model it came from; raised by the export."""


class ServerError(WorkError):
    """TorchServe did not start, died, or does not answer rightly; raised by the server and by readiness."""


class ReleaseError(WorkError):
    """A version was not released or rolled back to; raised by releases, after everything is as it was."""


class RequestError(WorkError):
    """A request got no answer; raised by the clients, as one of the three below.

    `status` is the HTTP status (0 when no answer came), `message` the server's own words, `type` its word for the sort of error
    and `request_id` what the server's log has it under (both empty where it said none). The text adds what was called.
    """

    def __init__(self, text: str, status: int = 0, *, message: str | None = None, error_type: str = "", request_id: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.message = text if message is None else message
        self.type = error_type
        self.request_id = request_id


class RequestRefused(RequestError):
    """The sender's fault: a 4xx. The message says what to send instead."""


class ServerUnavailable(RequestError):
    """Nobody's fault: no connection, no answer in time, a full queue, a worker that died. The same request may be answered later."""


class ServerFault(RequestError):
    """The model's fault or ours: any other 5xx, or an answer that can't be understood. The server's log says why."""
