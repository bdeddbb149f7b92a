"""How a handler comes up in its worker: files verified, a runtime taken, threads chosen, golden samples
answered.

A worker whose archive was changed, or which answers its golden samples differently, does not come up. What
computes the graph is chosen by `runtime.runtimes`.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import psutil

from ..inputs.batch_buffer import BatchBuffer
from ..protocol.errors import BrokenArchive, NotSupported
from ..protocol.options import Option
from ..protocol.replies import MAX_ANSWER_BYTES, Reply
from ..protocol.requests import Instance, Prepared, Row
from .checksums import verify_checksums
from .decode_pool import WORTH_READING_APART_SECONDS, DecodePool
from .export import AGAIN, LABELS, ONNX_PROGRAM, POSTPROCESS, PREPROCESS, PROGRAM, Export
from .golden import difference
from .machine import usable_cores
from .runtimes import Runtime, TorchRuntime
from .several_programs import usable_together
from .telemetry import Telemetry

logger = logging.getLogger(__name__)

WORTH_SHARING_SECONDS = 0.02


class PredictorStartup:
    """The half of `Predictor` that serves no request; what it calls of the other half is declared at
    the end.
    """

    # whether instances have nothing to do with each other, so that threads may read them
    side_by_side: ClassVar[bool] = False
    # programs beside the main one, each in a folder of its name in the export
    further_programs: ClassVar[tuple[str, ...]] = ()
    # whether an answer comes piece by piece where a caller wants events
    answers_in_pieces: ClassVar[bool] = False
    # whether an instance is a text, which may begin like JSON and comes as it is
    takes_text: ClassVar[bool] = False

    def __init__(self) -> None:
        self.device = "cpu"
        self.has_metrics = False  # whether an engine collects them from the log
        self.max_answer_bytes = MAX_ANSWER_BYTES
        self.readers: DecodePool | None = None
        self.slots: BatchBuffer | None = None  # where all inputs are pictures or clips, of one shape
        self.computing: dict[str, Any] = {}  # runtime, precision and threads, once they are chosen
        self.options: dict[str, Option] = {}  # that every request may set
        self.explain_options: dict[str, Option] = {}  # and further ones of an explanation
        self.parts: dict[str, Runtime] = {}  # further programs, by their names in `further_programs`

    def start(self, folder: Path, model_config: Mapping[str, Any], device: str = "cpu") -> dict[str, Any]:
        """Verify the unpacked archive in `folder`, load it, warm up and compare; what the log says of it.

        Raises BrokenArchive if a file was changed or a golden sample is answered differently.
        """
        started = time.monotonic()
        files = verify_checksums(folder, ignored=("MAR-INF",))
        self.device = device
        self.max_answer_bytes = (model_config.get("handler") or {}).get(
            "max_answer_bytes"
        ) or MAX_ANSWER_BYTES
        checked = self.load(folder, model_config)
        process = psutil.Process()
        return {
            "files_verified": files,
            "golden_samples": checked,
            "device": self.device,
            **self.computing,
            "initialize_seconds": round(time.monotonic() - started, 2),
            "processor_seconds": round(time.process_time(), 2),
            "seconds_since_process_start": round(time.time() - process.create_time(), 2),
            "memory_mib": round(process.memory_info().rss / 2**20),
        }

    def open_export(self, folder: Path) -> None:
        """Take the configuration of an export. Raises BrokenArchive where it is none of this kind."""
        export = Export.open(folder)
        try:
            self.configure(export)
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # of a JSON that has another form
            raise BrokenArchive(
                f"{PREPROCESS}, {POSTPROCESS} or {LABELS} in {folder} is not as this kind needs it "
                f"({error!r}); {AGAIN}"
            ) from error

    def load(self, folder: Path, model_config: Mapping[str, Any] | None = None) -> int:
        """Read an export's configurations and take the best runtime that this machine has and that answers
        the golden samples.

        Returns the number of samples. Raises BrokenArchive when even the portable program answers one
        differently.
        """
        self.open_export(folder)
        last = BrokenArchive("there is no runtime for this model")
        precision = ((model_config or {}).get("handler") or {}).get("precision", "auto")
        with closing(usable_together(self.export, self.further_programs, self.device, precision)) as choices:
            for runtime, self.parts in choices:
                self.model = runtime
                try:
                    threads = self.choose_threads(model_config or {})
                    readers = self.choose_readers(model_config or {})
                    checked = self.check_golden()
                except BrokenArchive as error:
                    named = f"{runtime.name} {runtime.precision}"
                    logger.warning("the runtime %s is not taken, the next is: %s", named, error)
                    last = error
                    continue
                self.computing = {
                    "runtime": runtime.name,
                    "precision": runtime.precision,
                    "threads": threads,
                    "decode_threads": readers,
                }
                return checked
        raise last

    @cached_property
    def graph(self) -> Any:
        """The portable program's graph, which alone has gradients: read when it is first asked for, unless
        it serves. Raises NotSupported for an ONNX graph.
        """
        if self.export.program.name == ONNX_PROGRAM:
            raise NotSupported("this model came as an ONNX graph, which has no gradients; call /predictions")
        return (
            self.model
            if isinstance(self.model, TorchRuntime)
            else TorchRuntime.load(self.export.folder / PROGRAM, self.device)
        ).module

    def configure(self, export: Export) -> None:
        """Take what an export's files say; a kind reads its options and limits off them."""
        self.export = export
        self.metadata = export.metadata
        self.labels = export.labels
        self.telemetry = Telemetry(self.metadata["name"], self.metadata["version"])

    def rename(self, name: str) -> None:
        """Take the name that an engine has registered it under: in answers, descriptions, metrics, log."""
        self.metadata = {**self.metadata, "name": name}
        self.telemetry.name = name

    def choose_threads(self, model_config: Mapping[str, Any]) -> int:
        """Set the runtime's threads, and return them: as many as the spec says, otherwise this worker's share
        of the cores, or one.

        A request that one core answers at once is not worth sharing: its threads would only wait for each
        other, and where the other core is busy they wait long (a small CNN on two cores, one of them busy:
        1.4 ms with one thread, 211 with two).
        """
        row: Row = ({"body": self.export.samples[0]["body"]}, {})
        seconds = []
        for _ in range(4):
            started = time.perf_counter()
            self.telemetry.start_batch()
            self.answer_rows([row])
            seconds.append(time.perf_counter() - started)
        wanted = (model_config.get("handler") or {}).get("threads")
        threads: int = wanted or (1 if min(seconds) < WORTH_SHARING_SECONDS else _share(model_config))
        for runtime in (self.model, *self.parts.values()) if threads > 1 else ():
            runtime.set_threads(threads)
        return threads

    def choose_readers(self, model_config: Mapping[str, Any]) -> int:
        """Set how many threads read a batch's instances, and return it: as many as the spec says, otherwise
        this worker's share of the cores, or one where the instance that was answered last was read in no
        time.
        """
        wanted = (model_config.get("handler") or {}).get("decode_threads")
        brief = (
            self.telemetry.decode.seconds + self.telemetry.preprocess.seconds < WORTH_READING_APART_SECONDS
        )
        threads: int = 1 if not self.side_by_side else wanted or (1 if brief else _share(model_config))
        self.readers = DecodePool(threads, self.decode, self.preprocess) if threads > 1 else None
        return threads

    def check_golden(self) -> int:
        """Answer every golden sample, first alone and then all in one batch; returns their number. Raises
        BrokenArchive.
        """
        samples = self.export.samples
        rows: list[Row] = [({"body": sample["body"]}, {}) for sample in samples]
        batches = [*([row] for row in rows), rows]
        answers = [answer for batch in batches for answer in self.answer_rows(batch)]
        for sample, answer in zip([*samples, *samples], answers, strict=True):
            if isinstance(answer, Exception):
                raise BrokenArchive(f"golden sample {sample['name']!r} was refused: {answer}") from answer
            found = difference(sample["answer"], answer, reduced=self.model.precision != "fp32")
            if found:
                raise BrokenArchive(f"golden sample {sample['name']!r} is answered differently: {found}")
        return len(samples)

    def answer_rows(self, rows: Sequence[Row]) -> list[Any]:
        """As in Predictor."""
        raise NotImplementedError

    def reply(self, rows: Sequence[Row], ids: Sequence[str]) -> list[Reply]:
        """As in Predictor."""
        raise NotImplementedError

    def report(self, rows: Sequence[Row], ids: Sequence[str], replies: Sequence[Reply]) -> None:
        """As in Predictor."""
        raise NotImplementedError

    def decode(self, instance: Instance) -> Any:
        """As in Predictor."""
        raise NotImplementedError

    def preprocess(self, item: Any, instance: Instance) -> Prepared:
        """As in Predictor."""
        raise NotImplementedError


def _share(model_config: Mapping[str, Any]) -> int:
    """The cores that are there for each worker, at least one."""
    return max(1, usable_cores() // max(1, int(model_config.get("maxWorkers") or 1)))
