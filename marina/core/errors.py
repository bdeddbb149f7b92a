"""The errors of the tool, and whose fault each one is.

MarinaError
├── CallError                  the caller's: a wrong argument, spec, file or folder         exit code 2
└── WorkError                  the call was right, but the work failed                      exit code 1
    ├── BelowFloor             a trained model missed its floor, so nothing was exported
    ├── ParityError            an exported graph answers differently from the trained model
    ├── ReleaseError           a new version was not released; the running one stays the default
    ├── ServerError            the server did not start, died, or is not ready
    └── RequestError           a request got no answer; it has the status and the server's message
        ├── RequestRefused     the sender's: a 4xx; the same request always fails
        ├── ServerUnavailable  nobody's: no connection, no time, a full queue, a dead worker; try later
        └── ServerFault        the model's or the server's: any other 5xx; the server's log says more
"""

from typing import ClassVar


class MarinaError(Exception):
    """Base of all errors that the tool raises; the message says what to do instead."""

    exit_code: ClassVar[int] = 1


class CallError(MarinaError):
    """The call was wrong: an argument, a spec, a file or a data folder."""

    exit_code = 2


class WorkError(MarinaError):
    """The call was right, but the work failed."""


class BelowFloor(WorkError):
    """A trained model missed the floor of its spec; the export wrote nothing."""


class ParityError(WorkError):
    """An exported program answers differently from the trained model."""


class ServerError(WorkError):
    """The server did not start, died, or is not ready."""


class ReleaseError(WorkError):
    """A version was not released or rolled back to; the server is as it was."""


class RequestError(WorkError):
    """A request got no answer; the clients raise one of the three classes below.

    `status` is the HTTP status (0 without a reply), `message` and `type` are the server's, and `request_id`
    finds the request in its log; they are empty where the server sent none. The text also names the call.
    """

    def __init__(
        self,
        text: str,
        status: int = 0,
        *,
        message: str | None = None,
        error_type: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(text)
        self.status = status
        self.message = text if message is None else message
        self.type = error_type
        self.request_id = request_id


class RequestRefused(RequestError):
    """The sender's fault: a 4xx. The message says what to send instead."""


class ServerUnavailable(RequestError):
    """Nobody's fault: no connection, no answer in time, a full queue, a dead worker. Try again later."""


class ServerFault(RequestError):
    """The model's or the server's fault: any other 5xx, or an unexpected answer; see the server's log."""
