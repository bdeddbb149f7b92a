"""One export, or one unpacked archive, read: the only reader of its files.

    export = Export.open(folder)
    export.metadata["version"], export.labels, export.samples

Files are read when they are first asked for, and compared with SHA256SUMS. `folder` may also be a
`zipfile.Path`: an archive is read in place.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from ..protocol.errors import BrokenArchive
from .checksums import NAME as CHECKSUMS
from .checksums import file_digest, listed_digests

METADATA, PREPROCESS, POSTPROCESS = "model_metadata.json", "preprocess_config.json", "postprocess_config.json"
LABELS, RUNTIMES, PROGRAM = "class_mapping.json", "runtime.json", "model.pt2"
ONNX_PROGRAM = "model.onnx"  # in the place of PROGRAM where a model came as an ONNX graph
SAMPLES_FOLDER, SAMPLES_INDEX = "samples", "samples.json"
AGAIN = "make it again: an export with marina train (or import), an archive with marina archive"
# what reading a file of a folder or of a damaged zip raises
UNREADABLE = (OSError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class Metadata(TypedDict):
    """model_metadata.json: what the model is, what it learned from, how good it is, and what made it."""

    name: str
    version: str
    kind: str
    about: str
    max_batch: int
    metrics: dict[str, float]
    floor: dict[str, float]
    data: dict[str, Any]
    findings: NotRequired[list[dict[str, Any]]]  # what was left out, cut or guessed
    training: dict[str, Any]
    parameters: int
    versions: dict[str, str]


class GoldenSample(TypedDict, total=False):
    """A request, what the spec expects of its answer, and the answer of the model that was trained.

    `reduced` says that a worker may compute in fewer bits than float32; `body` is the content of `file`.
    """

    name: str
    file: str
    content_type: str
    expect: dict[str, Any]
    answer: Any
    reduced: bool
    body: bytes


class RuntimeIndex(TypedDict, total=False):
    """runtime.json: what serves, best first, and the table of all candidates that were measured."""

    serve: list[dict[str, Any]]
    outputs: dict[str, Any]
    batch: int
    measured_on: str
    candidates: list[dict[str, Any]]


@dataclass(frozen=True)
class Export:
    """A folder that the export step wrote, or an archive's. Make it with `open`."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> "Export":
        """The export in `folder`. Raises BrokenArchive if there is none."""
        if not (folder / METADATA).is_file():
            raise BrokenArchive(f"{folder} holds no export: {METADATA} is missing; {AGAIN}")
        return cls(folder)

    @cached_property
    def metadata(self) -> Metadata:
        """What the model is."""
        metadata: Metadata = self._json(METADATA, dict, ("name", "version", "kind", "max_batch"))
        types = {
            **dict.fromkeys(("name", "version", "kind", "about"), str),
            **dict.fromkeys(("metrics", "floor", "data", "training", "versions"), dict),
            **dict.fromkeys(("max_batch", "parameters"), int),
        }
        for key, kind in types.items():
            if not isinstance(metadata.get(key, kind()), kind):
                raise self._broken(METADATA, f"has a {key} that is no {kind.__name__}")
        for key, value in metadata.get("metrics", {}).items():
            if not isinstance(value, int | float):
                raise self._broken(METADATA, f"has metrics whose {key} is no number")
        return metadata

    @cached_property
    def preprocess(self) -> dict[str, Any]:
        """How a request becomes the graph's input."""
        config: dict[str, Any] = self._json(PREPROCESS, dict)
        return config

    @cached_property
    def postprocess(self) -> dict[str, Any]:
        """How the graph's output becomes an answer."""
        config: dict[str, Any] = self._json(POSTPROCESS, dict)
        return config

    @cached_property
    def labels(self) -> list[str]:
        """Class names in the order of the model's outputs; empty for a model without classes."""
        if not (self.folder / LABELS).is_file():
            return []
        mapping: Mapping[str, str] = self._json(LABELS, dict)
        if set(mapping) != set(map(str, range(len(mapping)))):
            raise self._broken(LABELS, "its keys are not 0, 1, 2 and so on")
        return [mapping[index] for index in sorted(mapping, key=int)]

    @cached_property
    def runtimes(self) -> RuntimeIndex:
        """The runtimes; empty for an export that has its portable program alone."""
        index: RuntimeIndex = self._json(RUNTIMES, dict) if (self.folder / RUNTIMES).is_file() else {}
        return index

    @cached_property
    def samples(self) -> list[GoldenSample]:
        """The golden samples, each with its request's bytes under "body"."""
        index = f"{SAMPLES_FOLDER}/{SAMPLES_INDEX}"
        samples: list[GoldenSample] = self._json(index, list)
        if not all(
            isinstance(sample, dict) and {"name", "file", "answer"} <= sample.keys() for sample in samples
        ):
            raise self._broken(index, "a sample has no name, file or answer")
        return [{**sample, "body": self._bytes(f"{SAMPLES_FOLDER}/{sample['file']}")} for sample in samples]

    def content(self, name: str) -> bytes:
        """A further file that a kind needs. Raises BrokenArchive where it is missing or was changed."""
        return self._bytes(name)

    @property
    def programs(self) -> list[Path]:
        """The portable programs (.pt2) by name: one for most kinds, else one per step of the model."""
        return sorted(
            (path for path in self.folder.iterdir() if path.name.endswith(".pt2")), key=lambda path: path.name
        )

    @property
    def program(self) -> Path:
        """The portable program: torch's, or the ONNX graph that the model came as."""
        path = self.folder / ONNX_PROGRAM
        return path if path.is_file() else self.folder / PROGRAM

    @cached_property
    def checksum(self) -> str | None:
        """What identifies the export: SHA-256 of its SHA256SUMS; None while it is being written."""
        path = self.folder / CHECKSUMS
        return file_digest(path) if path.is_file() else None

    @cached_property
    def _digests(self) -> dict[str, str]:
        """What SHA256SUMS lists; empty while the export is being written."""
        path = self.folder / CHECKSUMS
        return listed_digests(path) if path.is_file() else {}

    def _json(
        self, name: str, kind: type[dict[str, Any]] | type[list[Any]], keys: Collection[str] = ()
    ) -> Any:
        """A `kind` that has these `keys`."""
        try:
            content = json.loads(self._bytes(name))
        except (ValueError, RecursionError) as error:
            raise self._broken(name, f"can't be read: {error}") from error
        if not isinstance(content, kind) or not all(key in content for key in keys):
            what = "object" if kind is dict else "list"
            raise self._broken(name, f"is no {what}" + (f" with {', '.join(keys)}" if keys else ""))
        return content

    def _bytes(self, name: str) -> bytes:
        path = self.folder / name
        try:
            if not path.is_file():  # a pipe would be waited for, and a device has no end
                raise self._broken(name, "is no file" if path.exists() else "is missing")
            content: bytes = path.read_bytes()
        except UNREADABLE as error:
            raise self._broken(name, f"can't be read: {error}") from error
        if self._digests and self._digests.get(name) != hashlib.sha256(content).hexdigest():
            raise self._broken(name, f"is not what {CHECKSUMS} says")
        return content

    def _broken(self, name: str, why: str) -> BrokenArchive:
        return BrokenArchive(f"{self.folder / name} {why}; {AGAIN}")
