"""Learns which class a signal of a fixed rate has, from one channel or several, of any length.

Probabilities are calibrated on validation; metrics are those of the test split, with logistic regression on
summaries of the same signals beside them.
"""

import json
from typing import Any

from handlers.inputs.signals import Channel, SignalInput
from training.data.signal_files import RawSignals, read_signals
from training.data.signals import Signal, SignalData, foreign_signals, split_signals, steps_of
from training.export.trained import HELD_OUT, Dimension, Sample, Trained
from training.findings import Findings
from training.runs.batches import LengthBatches
from training.runs.fitting import fit
from training.runs.run import Run
from training.runs.seeds import seed_everything
from training.runs.threads import threads_for, torch_threads
from training.signals.baseline import COMPARED, PREFIX, measure_baseline
from training.signals.learner import SignalModule, SignalSplit, logits_of, statistics_of
from training.signals.networks import SignalNetwork
from training.signals.report import write_report
from training.signals.settings import FIXED, ChannelSettings, Settings
from training.text.assessment import ONE_METRICS, Assessment, calibrated, class_samples, operating_class

__all__ = ["Settings", "held_out", "train"]

SAMPLE_VALUES = 20_000  # of a sample, so that requests stay small
LENGTH_UNIT = 8  # steps; signals whose lengths differ by less are as good as equally long
METRICS = (*ONE_METRICS, *(PREFIX + name for name in COMPARED))


def train(settings: Settings, run: Run) -> Trained:
    """Learn, take the epoch with the best validation, calibrate there, measure on the test split.

    Raises CallError for settings or data that can't be used.
    """
    seed_everything(run.seed)
    with run.findings.reported():
        raw = read_signals(settings.data, settings.columns)
        data = split_of(settings, raw, run)
    operating_class(settings, data.classes)
    learner, model, signals, splits, assessment = fitted_classifier(settings, raw, data, run)
    baseline = measure_baseline(data) if settings.baseline else None
    write_report(learner, assessment, data, signals.channels, baseline, run.report)
    metrics = assessment.metrics | (baseline or {})
    return _trained(data, model, splits, signals, assessment, metrics, learner.training_facts(run))


def split_of(settings: Settings, raw: RawSignals, run: Run) -> SignalData:
    """The signals that serving would take, in splits."""
    return split_signals(raw, _input(settings, raw), run.seed, run.findings)


def fitted_classifier(
    settings: Settings, raw: RawSignals, data: SignalData, run: Run
) -> tuple[SignalModule, SignalNetwork, SignalInput, list[SignalSplit], Assessment]:
    """The learner, its best epoch, calibrated, how signals are read, the splits, and how good it is."""
    mean, deviation = statistics_of(data.train)
    signals = _input(settings, raw, mean.tolist())
    network = SignalNetwork(settings, mean, deviation, signals.maximum_steps, len(data.classes))
    splits = [SignalSplit(split, network.steps) for split in (data.train, data.validation, data.test)]
    learner = SignalModule(network, settings, splits[0].labels, splits[1])
    with torch_threads(threads_for(network)):
        lengths = splits[0].lengths // LENGTH_UNIT
        batches = LengthBatches(splits[0], lengths, settings.batch_size, run.seed)
        fit(learner, batches, run, fingerprint=data.about()["fingerprint"])
    model = learner.best_model()
    assessment = calibrated(model, splits, logits_of, data.classes, settings)
    return learner, model, signals, splits, assessment


def held_out(
    settings: Settings, signals: SignalInput, classes: list[str], seed: int, is_foreign: bool
) -> list[Signal]:
    """The test signals of the data that was learned from; of data that `is_foreign`, its test split, else all
    of it. Raises CallError as `train` does.
    """
    findings = Findings()
    with findings.reported():
        raw = read_signals(settings.data, settings.columns)
        if is_foreign:
            return foreign_signals(raw, signals, classes, findings)
        return list(split_signals(raw, _input(settings, raw), seed, findings).test)


def _input(settings: Settings, raw: RawSignals, means: list[float] | None = None) -> SignalInput:
    """How signals are read, of the settings and of the data where they say nothing."""
    shortest, longest = steps_of(raw)
    most = settings.maximum_steps or max(2, longest)
    plain = ChannelSettings()
    values = means or [0.0] * len(raw.channels)
    channels: list[Channel] = [
        settings.channels.get(name, plain).channel(name, mean)
        for name, mean in zip(raw.channels, values, strict=True)
    ]
    return SignalInput(
        tuple(channels),
        min(settings.minimum_steps or shortest, most),
        most,
        most if settings.network in FIXED else None,
        settings.series,
        settings.step,
    )


def _trained(
    data: SignalData,
    model: SignalNetwork,
    splits: list[SignalSplit],
    signals: SignalInput,
    assessment: Assessment,
    metrics: dict[str, float],
    facts: dict[str, Any],
) -> Trained:
    example = splits[0].batch(range(min(8, len(splits[0]))))[:2]
    dimensions: tuple[dict[int, Dimension], ...] = ()
    if signals.graph_steps is None and signals.minimum_steps < signals.maximum_steps:
        dimensions = ({1: Dimension("steps", signals.minimum_steps, signals.maximum_steps)}, {})
    return Trained(
        kind="sequence_classifier",
        module=model,
        example=example,
        dimensions=dimensions,
        validation=splits[1].batch(range(min(HELD_OUT, len(splits[1]))))[:2],
        metrics=metrics,
        preprocess=signals.as_config(),
        postprocess=assessment.postprocess,
        samples=_samples(data, assessment),
        data=data.about(),
        classes=list(data.classes),
        training={**facts, "temperature": assessment.temperature},
    )


def _samples(data: SignalData, assessment: Assessment) -> list[Sample]:
    """Signals of the test split that are answered rightly, sure answers first, of each class in turn."""
    test = data.test
    found = class_samples(
        assessment,
        [one.label for one in test],
        data.classes,
        lambda row: test[row].values.size <= SAMPLE_VALUES,
    )
    bodies = (json.dumps({"signal": test[row].values.tolist()}).encode() for row, *_ in found)
    return [
        Sample(name, body, "application/json", {"class": of_class})
        for body, (_, name, of_class) in zip(bodies, found, strict=True)
    ]
