"""One training at the trackers of its project: started before it learns, told of its epochs, ended with it.

A tracker that can't be started is an error before anything is learned. One that fails later costs a warning,
never the training. The runs' ids are in the report (tracking.json), so that the archive finds its run, and
beside the checkpoints, so that a resumed training continues in the same runs.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import TimeoutError as Late
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from handlers.runtime.checksums import file_digest
from marina.core.configuration import FILE
from marina.core.errors import CallError
from marina.core.files import write_atomic
from marina.core.spec import Spec
from training.runs.run import Run
from training.tracking.background import Background, in_words
from training.tracking.tracker import (
    FLUSH_SECONDS,
    INTERRUPTED_SECONDS,
    START_SECONDS,
    Status,
    TrackedModel,
    Tracker,
    report_files,
    trackers,
)

IDS = "tracking.json"  # {key of a tracker: id of its run}

Say = Callable[[str], None]
log = logging.getLogger("marina")


class Session:
    """The runs of one training, one per tracker."""

    def __init__(self, found: list[Tracker], model: TrackedModel, checkpoints: Path | None) -> None:
        self.model, self.checkpoints = model, checkpoints
        self.trackers = [(tracker, Background(tracker.title)) for tracker in found]
        self.last_step = 0  # that was logged, also before an interruption
        self.ids: dict[str, str] = {}

    def start(self, settings: Mapping[str, Any]) -> None:
        """Begin or resume the runs. Raises CallError for the first one that can't."""
        before = self._saved()
        self.last_step = int(before.get("last_step", 0))
        for tracker, background in self.trackers:
            known = before.get("ids", {}).get(tracker.key)
            self.ids[tracker.key] = _started(tracker, background, self.model, known)
        self._tell(lambda tracker: tracker.log_parameters(settings))
        self._save()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Of an epoch, or after so many timesteps; what was logged before an interruption is left out."""
        if step <= self.last_step or not self.trackers:
            return
        row = dict(metrics)
        self._tell(lambda tracker: tracker.log_metrics(row, step))
        self.last_step = step
        self._save()

    def log_result(self, metrics: Mapping[str, float], facts: Mapping[str, Any], report: Path) -> None:
        """What the trained model reaches, and its report, whether it is good enough or not; waits until they
        are there, since a report below the floor is removed.
        """
        if not self.trackers:
            return
        (report / IDS).write_text(json.dumps(self.ids, indent=1) + "\n", encoding="utf-8")
        files, reached, known = report_files(report), dict(metrics), dict(facts)
        self._tell(lambda tracker: tracker.log_facts(known))
        self._tell(lambda tracker: tracker.log_metrics(reached, None))
        self._tell(lambda tracker: tracker.log_report(files))
        for _, background in self.trackers:
            background.finish(FLUSH_SECONDS)

    def end(self, status: Status) -> None:
        """End the runs."""
        self._tell(lambda tracker: tracker.end(status))
        for _, background in self.trackers:
            background.finish(INTERRUPTED_SECONDS if status == "KILLED" else FLUSH_SECONDS)

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for tracker, background in self.trackers:
            background.add(partial(call, tracker))

    def _save(self) -> None:
        if self.checkpoints is not None and self.trackers:
            content = json.dumps({"ids": self.ids, "last_step": self.last_step})
            with suppress(OSError):  # a full disk: a resumed training starts runs of its own
                write_atomic(self.checkpoints / IDS, content)

    def _saved(self) -> dict[str, Any]:
        if self.checkpoints is None:
            return {}
        try:
            content = json.loads((self.checkpoints / IDS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


@contextmanager
def tracked(spec: Spec, settings: Mapping[str, Any], run: Run) -> Iterator[Session]:
    """A session for the training of `spec` in `run`, ended with the block; without trackers it does nothing.

    Raises CallError for a tracker that can't be started.
    """
    session = Session([] if run.is_helper else trackers(spec.home), model_of(spec), run.checkpoints)
    session.start({"recipe": spec.training.recipe, "seed": spec.training.seed, **settings})
    status: Status = "FAILED"
    try:
        yield session
        status = "FINISHED"
    except KeyboardInterrupt:  # signals are one too
        status = "KILLED"
        raise
    finally:
        session.end(status)


def log_archive(spec: Spec) -> None:
    """Log the archive of `spec` to the runs that trained its export; one warning where a tracker fails."""
    try:
        ids = json.loads((spec.export_dir / "report" / IDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # it was not tracked
    model, sha256 = model_of(spec), file_digest(spec.archive_path)

    def send(tracker: Tracker) -> None:
        tracker.start(model, ids[tracker.key])
        tracker.log_archive(model, spec.archive_path, sha256)
        tracker.end("FINISHED")

    try:
        found = trackers(spec.home)
    except CallError as error:  # the archive is built
        log.warning("the archive of %s %s is not tracked: %s", spec.name, spec.version, error)
        return
    for tracker in found:
        if tracker.key in ids:
            background = Background(f"{tracker.title}: the archive of {spec.name} {spec.version}")
            background.add(partial(send, tracker))
            background.finish(FLUSH_SECONDS)


def register_release(spec: Spec, say: Say) -> None:
    """Move the alias of each tracker's registered model to the version of `spec`, whose archive is registered
    first where it is not yet; one warning where that fails.
    """
    try:
        found = trackers(spec.home)
    except CallError as error:  # the release is done
        say(f"{spec.name} {spec.version} is not registered: {error}")
        return
    model = model_of(spec)
    for tracker in found:
        background = Background(tracker.title)
        sha256 = file_digest(spec.archive_path)
        future = background.submit(partial(tracker.register_release, model, sha256))
        try:
            say(f"{tracker.title}: {future.result(FLUSH_SECONDS)}")
        except Late:
            background.give_up(f"{spec.name} {spec.version} was not registered in {FLUSH_SECONDS:.0f} s")
        except Exception as error:  # whatever its client raises
            background.give_up(f"{spec.name} {spec.version} was not registered: {in_words(error)}")


def _started(tracker: Tracker, background: Background, model: TrackedModel, run_id: str | None) -> str:
    """The id of a run that was started or resumed. Raises CallError, with what to change."""
    try:
        return str(background.submit(partial(tracker.start, model, run_id)).result(START_SECONDS))
    except Late:
        reason = f"no answer within {START_SECONDS:.0f} s"
    except Exception as error:  # whatever its client raises
        reason = in_words(error)
    raise CallError(
        f"{tracker.title} at {tracker.place} can't start a run: {reason}; mend that, or take "
        f"tracking.{tracker.key} out of {FILE}"
    )


def model_of(spec: Spec) -> TrackedModel:
    """What trackers know of a model."""
    return TrackedModel(spec.name, spec.version, spec.kind, spec.about)
