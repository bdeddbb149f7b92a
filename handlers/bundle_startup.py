"""How a handler comes up in its worker: files verified, a runtime taken, threads chosen, golden samples answered.

A worker whose archive was changed, or which answers its golden samples differently, does not come up. What computes the graph is chosen
by `bundle_runtimes`.
"""

import gc
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import psutil

from bundle_base import BaseHandler
from bundle_checksums import NAME as CHECKSUMS
from bundle_checksums import file_digest, verify_checksums
from bundle_codec import install
from bundle_errors import BrokenArchive
from bundle_golden import difference, read_samples
from bundle_options import Option
from bundle_readers import WORTH_READING_APART_SECONDS, Readers
from bundle_replies import MAX_ANSWER_BYTES, Reply
from bundle_requests import Instance, Prepared, Row
from bundle_runtimes import PROGRAM, TorchRuntime, usable
from bundle_slots import Slots
from bundle_telemetry import Telemetry

logger = logging.getLogger(__name__)

WORTH_SHARING_SECONDS = 0.02


class StartingHandler(BaseHandler):  # type: ignore[misc]  # ts has no types
    """The half of `BundleHandler` that serves no request; what it calls of the other half is declared at the end."""

    side_by_side: ClassVar[bool] = False  # whether instances have nothing to do with each other, so that threads may read them

    def __init__(self) -> None:
        super().__init__()
        self.device = "cpu"
        self.counted = False  # whether metrics go to a front end
        self.max_answer_bytes = MAX_ANSWER_BYTES
        self.readers: Readers | None = None
        self.slots: Slots | None = None  # where all inputs are pictures or clips, of one shape
        self.computing: dict[str, Any] = {}  # runtime, precision and threads, once they are chosen
        self.options: dict[str, Option] = {}  # that every request may set
        self.explain_options: dict[str, Option] = {}  # and further ones of an explanation

    def initialize(self, context: Any) -> None:
        """Verify, load, warm up and compare; called by TorchServe once per worker.

        Raises BrokenArchive when a file was changed or a golden sample is answered differently.
        """
        started = time.monotonic()
        folder = Path(context.system_properties["model_dir"])
        self.context = context
        files = verify_checksums(folder, ignored=("MAR-INF",))
        self.device = _device(context.system_properties.get("gpu_id"))
        config = getattr(context, "model_yaml_config", None) or {}
        self.max_answer_bytes = (config.get("handler") or {}).get("max_answer_bytes") or MAX_ANSWER_BYTES
        checked = self.load(folder, config)
        self.initialized = True
        self.counted = context.metrics is not None
        codec = install(self.reply, self.report)
        if codec:  # this process does nothing else
            gc.collect()
            gc.freeze()  # what is there now stays; looking through it for garbage again and again would hold requests up
        process = psutil.Process()
        ready = {
            "files_verified": files,
            "golden_samples": checked,
            "device": self.device,
            **self.computing,
            "own_codec": codec,
            "initialize_seconds": round(time.monotonic() - started, 2),
            "processor_seconds": round(time.process_time(), 2),
            "seconds_since_process_start": round(time.time() - process.create_time(), 2),
            "memory_mib": round(process.memory_info().rss / 2**20),
        }
        self.telemetry.log("ready", ready)

    def load(self, folder: Path, model_config: Mapping[str, Any] | None = None) -> int:
        """Read an export's configurations and take the best runtime that this machine has and that answers the golden samples.

        Returns the number of samples. Raises BrokenArchive when even the portable program answers one differently.
        """
        self.read_configs(folder)
        self.folder = folder
        for runtime in usable(folder, self.device):
            self.model = runtime
            try:
                threads = self.choose_threads(folder, model_config or {})
                readers = self.choose_readers(model_config or {})
                checked = self.check_golden(folder)
            except BrokenArchive as error:
                if isinstance(runtime, TorchRuntime):
                    raise
                logger.warning("the runtime %s is not taken, the next is: %s", runtime.name, error)
                continue
            self.computing = {"runtime": runtime.name, "precision": runtime.precision, "threads": threads, "decode_threads": readers}
            return checked
        raise BrokenArchive("there is no runtime for this model")

    @cached_property
    def graph(self) -> Any:
        """The portable program's graph, which alone has gradients: read when it is first asked for, unless it serves."""
        return (self.model if isinstance(self.model, TorchRuntime) else TorchRuntime.load(self.folder / PROGRAM, self.device)).module

    def read_configs(self, folder: Path) -> None:
        """Read the JSON files of an export."""
        self.metadata: dict[str, Any] = _json(folder / "model_metadata.json")
        self.preprocess_config: dict[str, Any] = _json(folder / "preprocess_config.json")
        self.postprocess_config: dict[str, Any] = _json(folder / "postprocess_config.json")
        labels = folder / "class_mapping.json"
        self.classes: list[str] = [name for _, name in sorted(_json(labels).items(), key=_index)] if labels.is_file() else []
        checksums = folder / CHECKSUMS
        self.checksum = file_digest(checksums) if checksums.is_file() else None
        self.telemetry = Telemetry(self.metadata["name"], self.metadata["version"])

    def choose_threads(self, folder: Path, model_config: Mapping[str, Any]) -> int:
        """Set the runtime's threads, and return them: as many as the spec says, otherwise this worker's share of the cores, or one.

        A request that one core answers at once is not worth sharing: its threads would only wait for each other, and where
        the other core is busy they wait long (a small CNN on two cores, one of them busy: 1.4 ms with one thread, 211 with two).
        """
        row: Row = ({"body": read_samples(folder)[0]["body"]}, {})
        seconds = []
        for _ in range(4):
            started = time.perf_counter()
            self.telemetry.start_batch()
            self.answer_rows([row])
            seconds.append(time.perf_counter() - started)
        wanted = (model_config.get("handler") or {}).get("threads")
        threads: int = wanted or (1 if min(seconds) < WORTH_SHARING_SECONDS else _share(model_config))
        if threads > 1:
            self.model.set_threads(threads)
        return threads

    def choose_readers(self, model_config: Mapping[str, Any]) -> int:
        """Set how many threads read a batch's instances, and return it: as many as the spec says, otherwise this worker's share of
        the cores, or one where the instance that was answered last was read in no time.
        """
        wanted = (model_config.get("handler") or {}).get("decode_threads")
        brief = self.telemetry.decode.seconds + self.telemetry.preprocess.seconds < WORTH_READING_APART_SECONDS
        threads: int = 1 if not self.side_by_side else wanted or (1 if brief else _share(model_config))
        self.readers = Readers(threads, self.decode, self.preprocess) if threads > 1 else None
        return threads

    def check_golden(self, folder: Path) -> int:
        """Answer every golden sample, first alone and then all in one batch; returns their number. Raises BrokenArchive."""
        samples = read_samples(folder)
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
        """As in BundleHandler."""
        raise NotImplementedError

    def reply(self, rows: Sequence[Row], ids: Sequence[str]) -> list[Reply]:
        """As in BundleHandler."""
        raise NotImplementedError

    def report(self, rows: Sequence[Row], ids: Sequence[str], replies: Sequence[Reply]) -> None:
        """As in BundleHandler."""
        raise NotImplementedError

    def decode(self, instance: Instance) -> Any:
        """As in BundleHandler."""
        raise NotImplementedError

    def preprocess(self, item: Any, instance: Instance) -> Prepared:
        """As in BundleHandler."""
        raise NotImplementedError


def _device(gpu: int | None) -> str:
    """The device that TorchServe gave this worker."""
    if gpu is None:
        return "cpu"
    import torch  # where there is a GPU, it computes

    return f"cuda:{gpu}" if torch.cuda.is_available() else "cpu"


def _share(model_config: Mapping[str, Any]) -> int:
    """The cores that are there for each worker, at least one."""
    return max(1, len(os.sched_getaffinity(0)) // max(1, int(model_config.get("maxWorkers") or 1)))


def _index(pair: tuple[str, Any]) -> int:
    return int(pair[0])


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
