"""The errors of the tool, and whose fault each one is.

MarinaError
├── CallError            the caller's: a wrong argument, spec, file or folder              exit code 2
└── WorkError            the work's: it was asked for rightly and did not come about       exit code 1
├── BelowFloor       a trained model missed its floor, so nothing was exported
├── ParityError      an exported graph answers differently from the model that was trained
├── ServerError      TorchServe did not start, died, or is not ready
└── RequestError     a server answered a request with an error; carries its status and its own words
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


class RequestError(WorkError):
    """A server refused or failed a request; raised by the client.

    `status` is the HTTP status (0 when no answer came), `message` the server's own words.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
