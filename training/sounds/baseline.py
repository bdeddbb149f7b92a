"""A support vector machine on each sound's mean and deviation of mfcc: what a network must beat."""

import numpy as np
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from training.data.sounds import SoundData
from training.sounds.features import FrontEnd
from training.sounds.learner import SoundSplit
from training.sounds.settings import Settings

PREFIX = "baseline_"  # of its metrics
COMPARED = ("accuracy",)
STRENGTHS = (1.0, 10.0, 100.0)  # inverse ones of the regularization; validation chooses
MOST = 4_000  # training windows; its time grows with their square
SEGMENTS = 4  # equal parts of a sound, so that its course counts


def summary_features(front: FrontEnd, split: SoundSplit, rows: list[int]) -> np.ndarray:
    """Mean and deviation of each coefficient over a window, and its means over SEGMENTS parts: float32
    [N, (2 + SEGMENTS) x coefficients].
    """
    found = []
    for row in rows:
        waveform = torch.from_numpy(np.ascontiguousarray(split.waveform(row)))[None]
        with torch.no_grad():
            features = front(waveform)[0].numpy()
        parts = [
            features[:, part].mean(1)
            for part in np.array_split(np.arange(features.shape[1]), SEGMENTS)
            if len(part)
        ]
        parts += [features.mean(1)] * (SEGMENTS - len(parts))
        found.append(np.concatenate([features.mean(1), features.std(1), *parts]))
    return np.stack(found)


def measure_baseline(data: SoundData, settings: Settings, rate: int) -> dict[str, float]:
    """Learn from the first window of each training sound, choose the regularization by validation, measure on
    test: accuracy with PREFIX.
    """
    front = FrontEnd(("mfcc",), rate, settings.frame_samples(rate), settings.hop_samples(rate), settings.mels)
    features, truths = [], []
    for sounds in (data.train, data.validation, data.test):
        split = SoundSplit(sounds, is_learned=False)
        _, first = np.unique(split.of_sound.numpy(), return_index=True)
        if sounds is data.train and len(first) > MOST:
            first = np.sort(np.random.default_rng(0).choice(first, MOST, replace=False))
        features.append(summary_features(front, split, first.tolist()))
        truths.append(split.labels[split.of_sound[torch.from_numpy(first)]].numpy())
    fitted = [
        make_pipeline(StandardScaler(), SVC(C=strength)).fit(features[0], truths[0]) for strength in STRENGTHS
    ]
    best = max(fitted, key=lambda model: model.score(features[1], truths[1]))
    return {f"{PREFIX}accuracy": float(best.score(features[2], truths[2]))}
