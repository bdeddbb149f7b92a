"""Learns which class a sound has: a word, a bird, a fault of a machine.

Features are computed inside the graph, from samples. Probabilities are calibrated on validation; metrics are
those of the test split, with a support vector machine on the same sounds beside them.
"""

from collections import Counter
from typing import Any, NamedTuple

from handlers.inputs.sounds import SoundInput
from marina.core.errors import CallError
from training.data.sound_rows import Naming, list_sounds
from training.data.sounds import Sound, SoundData, SoundFile, foreign_sounds, headers_of, split_sounds
from training.export.trained import HELD_OUT, Dimension, Sample, Trained
from training.findings import Findings
from training.runs.fitting import fit
from training.runs.run import Run
from training.runs.seeds import seed_everything
from training.runs.threads import threads_for, torch_threads
from training.sounds.baseline import COMPARED, PREFIX, measure_baseline
from training.sounds.learner import SoundBatches, SoundModule, SoundSplit, logits_of, set_statistics
from training.sounds.networks import SoundNetwork
from training.sounds.report import write_report
from training.sounds.settings import Settings
from training.text.assessment import ONE_METRICS, Assessment, calibrated, class_samples, operating_class

__all__ = ["Settings", "held_out", "train"]

USUAL_RATE = 16_000  # hertz; a higher one only where a spec says so
LONGEST_WINDOW = 10.0  # seconds; likewise
SAMPLE_BYTES = 400_000  # of a sample's file, so that requests stay small
TOP_K = 5
TYPES = {
    **dict.fromkeys((".wav", ".w64", ".rf64"), "audio/wav"),
    **{".flac": "audio/flac", ".mp3": "audio/mpeg"},
    **dict.fromkeys((".ogg", ".oga", ".opus"), "audio/ogg"),
}
METRICS = (*ONE_METRICS, *(PREFIX + name for name in COMPARED))


def train(settings: Settings, run: Run) -> Trained:
    """Learn, take the epoch with the best validation, calibrate there, measure on the test split.

    Raises CallError for settings or data that can't be used.
    """
    seed_everything(run.seed)
    data, config = read_data(settings, run)
    operating_class(settings, data.classes)
    fitted = fitted_classifier(settings, data, config, run)
    learner, assessment = fitted.learner, fitted.assessment
    baseline = measure_baseline(data, settings, config.sample_rate) if settings.baseline else None
    write_report(learner, assessment, data, baseline, run.report)
    metrics = assessment.metrics | (baseline or {})
    return _trained(data, config, fitted, metrics, learner.training_facts(run))


def read_data(settings: Settings, run: Run) -> tuple[SoundData, SoundInput]:
    """The sounds that serving would take, in splits, and how they are read."""
    with run.findings.reported():
        files = _files(settings, run.findings)
        config = input_of(settings, files)
        data = split_sounds(files, config, settings.data, run.seed, settings.held_out, run.findings)
    return data, config


class Fitted(NamedTuple):
    """A learner, its best epoch, calibrated, the splits, and how good it is."""

    learner: SoundModule
    model: SoundNetwork
    splits: list[SoundSplit]
    assessment: Assessment


def fitted_classifier(settings: Settings, data: SoundData, config: SoundInput, run: Run) -> Fitted:
    """Learn, and calibrate the best epoch."""
    rate = config.sample_rate
    network = SoundNetwork(settings, rate, len(data.classes))
    parts = (data.train, data.validation, data.test)
    splits = [SoundSplit(part, is_learned=part is data.train) for part in parts]
    set_statistics(network, splits[0])
    learner = SoundModule(network, settings, splits[0].window_labels, splits[1])
    with torch_threads(threads_for(network)):
        batches = SoundBatches(splits[0], settings, rate, run.seed)
        fit(learner, batches, run, fingerprint=data.digest)
    model = learner.best_model()
    assessment = calibrated(model, splits, logits_of, data.classes, settings)
    return Fitted(learner, model, splits, assessment)


def held_out(
    settings: Settings, config: SoundInput, classes: list[str], seed: int, is_foreign: bool
) -> list[Sound]:
    """The test sounds of the data that was learned from; of data that `is_foreign`, its test split, else all
    of it. Raises CallError as `train` does.
    """
    findings = Findings()
    with findings.reported():
        files = _files(settings, findings)
        if is_foreign:
            return foreign_sounds(files, config, classes, settings.data, findings)
        return list(split_sounds(files, config, settings.data, seed, settings.held_out, findings).test)


def input_of(settings: Settings, files: list[SoundFile]) -> SoundInput:
    """How sounds are read, of the settings and of the data where they say nothing. Raises CallError for
    settings that don't go with it.
    """
    rates = Counter(file.rate for file in files)
    rate = settings.sample_rate or min(USUAL_RATE, rates.most_common(1)[0][0])
    longest = max(file.seconds for file in files)
    window = settings.window or min(LONGEST_WINDOW, max(longest, settings.minimum_seconds))
    hop = settings.window_hop or window / 2
    if hop > window:
        raise CallError(f"window_hop {hop:g} is above window, {window:g} seconds; make it smaller")
    if settings.minimum_seconds > window:
        raise CallError(
            f"minimum_seconds {settings.minimum_seconds:g} is above window, {window:g}; make it smaller"
        )
    sizes = [max(2, round(seconds * rate)) for seconds in (window, hop, settings.minimum_seconds)]
    return SoundInput(rate, sizes[0], sizes[1], sizes[2], settings.silence)


def _files(settings: Settings, findings: Findings) -> list[SoundFile]:
    naming = Naming(settings.label, settings.group, settings.pattern)
    return headers_of(list_sounds(settings.data, naming, findings), findings)


def _trained(
    data: SoundData, config: SoundInput, fitted: Fitted, metrics: dict[str, float], facts: dict[str, Any]
) -> Trained:
    _, model, splits, assessment = fitted
    postprocess: dict[str, Any] = {"type": "classification", "top_k": min(TOP_K, len(data.classes))}
    if assessment.decision:
        postprocess["decision"] = vars(assessment.decision)
    return Trained(
        kind="audio_classifier",
        module=model,
        example=splits[0].batch(range(min(8, len(splits[0]))))[:2],
        dimensions=({1: Dimension("samples", config.minimum, config.window)}, {}),
        validation=splits[1].batch(range(min(HELD_OUT, len(splits[1]))))[:2],
        metrics=metrics,
        preprocess=config.as_config(),
        postprocess=postprocess,
        samples=_samples(data, assessment),
        data=data.about(),
        classes=list(data.classes),
        training={**facts, "temperature": assessment.temperature},
    )


def _samples(data: SoundData, assessment: Assessment) -> list[Sample]:
    """Files of the test split that are answered rightly, sure answers first, of each class in turn."""

    def is_taken(row: int) -> bool:
        path = data.test[row].path
        return path.suffix.lower() in TYPES and path.stat().st_size <= SAMPLE_BYTES

    found = class_samples(assessment, [one.label for one in data.test], data.classes, is_taken)
    files = ((data.test[row].path, name, of_class) for row, name, of_class in found)
    return [
        Sample(name, path.read_bytes(), TYPES[path.suffix.lower()], {"class": of_class})
        for path, name, of_class in files
    ]
