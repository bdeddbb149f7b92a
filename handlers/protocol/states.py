"""States of policies that remember: sent with an answer, sent back with the next request (decision 0007).

A worker keeps nothing between two requests, so the caller carries what the policy remembers of its episode:
base64 of

    model     8 bytes   digest of the model's name and version
    content  16 bytes   digest of all that follows, and of the model
    step      4 bytes   of the observation that it goes with, little-endian
    dtype     1 byte    numpy's character
    values              zlib

The digests find damage and mistakes. They are no signature: who wants to forge a state can, and gets an
answer to what they sent.
"""

import base64
import binascii
import hashlib
import struct
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .errors import BadRequest, StateConflict
from .options import Text
from .requests import Prepared

HEAD = struct.Struct("<8s16sI1s")
MOST_STEPS = 2**31 - 1
AGAIN = "send the 'state' of the last answer as it came, or none to begin an episode"
FAST = 1  # zlib's level: frames shrink to nearly the same at any, in a fraction of the time


class State(NamedTuple):
    """What is remembered when an observation comes: `values` of the policy's own shape, `step` the
    observation's number from 0.
    """

    step: int
    values: np.ndarray


@dataclass(slots=True)
class PreparedStep(Prepared):
    """One step of an episode: its number, and the frames that the next one remembers; None where the graph
    says what to.
    """

    step: int = 0
    frames: np.ndarray | None = None


class States:
    """The states of one model, all of one shape and dtype."""

    def __init__(self, name: str, version: str, shape: tuple[int, ...], dtype: str) -> None:
        self.model = _digest(8, f"{name}\n{version}".encode())
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.size = int(np.prod(shape)) * self.dtype.itemsize
        # deflate adds 5 bytes per 16 KB to what it can't shrink
        self.longest = (HEAD.size + self.size + self.size // 1000 + 64) * 4 // 3 + 4
        self.option = Text(self.longest, "of the last answer, as it came; none begins an episode")

    def first(self) -> State:
        """Zeros, for step 0."""
        return State(0, np.zeros(self.shape, self.dtype))

    def written(self, state: State) -> str:
        """The text that `read` takes. Raises ValueError for values that are not finite."""
        values = np.ascontiguousarray(state.values, self.dtype.newbyteorder("<"))
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError("what the policy remembers is not finite")
        rest = struct.pack("<I1s", state.step, self.dtype.char.encode()) + zlib.compress(
            values.tobytes(), FAST
        )
        return base64.b64encode(self.model + _digest(16, self.model + rest) + rest).decode()

    def read(self, text: str, step: int) -> State:
        """The state in `text` for the observation number `step`.

        Raises BadRequest for a text that is damaged, StateConflict for another model's state and for
        another step's.
        """
        found = _parts(text)
        if found is None:
            raise BadRequest(f"the state is damaged; {AGAIN}")
        model, known_step, dtype, packed = found
        if model != self.model:
            raise StateConflict(
                "the state is another model's or another version's; send it to the version that started the "
                "episode, or start a new episode without a state"
            )
        if known_step != step:
            what = "was repeated" if step < known_step else "was lost"
            raise StateConflict(
                f"the state goes with step {known_step}, but step {step} was sent: a step {what}; {AGAIN}"
            )
        raw = _unpacked(packed, self.size)
        if dtype != self.dtype.char or raw is None:
            raise BadRequest(f"the state is not of this model's form; {AGAIN}")
        values = np.frombuffer(raw, self.dtype.newbyteorder("<")).astype(self.dtype).reshape(self.shape)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise BadRequest(f"the state is not finite; {AGAIN}")
        return State(known_step, values)


def requested_state(options: dict[str, Any], states: States) -> State | None:
    """The state that a request's options have; None for the first step of an episode.

    Raises BadRequest for a state without a step, StateConflict for a later step than 0 without a state.
    """
    text, step = options.get("state"), options.get("step")
    if text is None:
        if step:
            raise StateConflict(f"step {step} needs a state; {AGAIN}")
        return None
    if step is None:
        raise BadRequest(
            "beside 'state' send 'step', the observation's number in its episode from 0: it shows what is "
            "lost or repeated"
        )
    return states.read(text, step)


def contents(text: Any) -> tuple[int, np.ndarray] | None:
    """(step, flat values) of any model's state; None for what is none."""
    found = _parts(text) if isinstance(text, str) else None
    if found is None:
        return None
    raw = zlib.decompress(found[3])
    return found[1], np.frombuffer(raw, np.dtype(found[2]).newbyteorder("<"))


def _parts(text: str) -> tuple[bytes, int, str, bytes] | None:
    """(model, step, dtype, packed values), None where the digest is not that of the rest."""
    try:
        raw = base64.b64decode(text, validate=True)
        model, content, step, dtype = HEAD.unpack_from(raw)
    except (binascii.Error, ValueError, struct.error):
        return None
    if _digest(16, model + raw[24:]) != content:
        return None
    return model, step, dtype.decode("latin-1"), raw[HEAD.size :]


def _unpacked(packed: bytes, size: int) -> bytes | None:
    """Exactly `size` bytes; never allocates for more."""
    reader = zlib.decompressobj()
    try:
        raw = reader.decompress(packed, size + 1)
    except zlib.error:
        return None
    return raw if len(raw) == size and reader.eof and not reader.unused_data else None


def _digest(size: int, content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=size).digest()
