"""Pictures that a classifier of one label answers rightly, to prove its export and its workers with."""

import re
from collections import Counter

from training.data import ImageData
from training.export.trained import Sample
from training.vision.classification.assessment import Assessment

UNSURE = 0.02  # a probability that is nearer to the decision's threshold proves nothing as a sample


def samples_of(data: ImageData, assessment: Assessment, most: int = 64) -> list[Sample]:
    """Pictures of the test split that are answered rightly, sure answers first, taken from each class in
    turn.
    """
    probabilities, labels, decision = assessment.probabilities, assessment.labels, assessment.decision
    sure = probabilities.max(1).values
    order = sorted(range(len(labels)), key=lambda row: (bool(sure[row] < 0.9), row))
    if decision:
        order = [
            row
            for row in order
            if abs(float(probabilities[row, decision.class_index]) - decision.threshold) > UNSURE
        ]
    right = [row for row in order if assessment.answers[row] == labels[row]]
    seen: Counter[int] = Counter()
    turns = []
    for row in right:
        turns.append((seen[int(labels[row])], row))
        seen[int(labels[row])] += 1
    turns.sort(key=lambda turn: turn[0])
    samples: dict[str, Sample] = {}
    for _, row in turns[:most]:
        name = _sample_name(data, int(labels[row]), samples)
        body, content_type = data.test[row].encoded()
        samples[name] = Sample(name, body, content_type, {"class": data.classes[int(labels[row])]})
    return list(samples.values())


def _sample_name(data: ImageData, label: int, taken: dict[str, Sample]) -> str:
    """digit-7, digit-7-2 …; pizza-1, pizza-2 …"""
    slug = re.sub(r"[^a-z0-9]+", "-", data.classes[label].lower()).strip("-")[:50] or f"class-{label}"
    slug = f"digit-{slug}" if data.name == "digits" else slug
    number = 1
    while (name := slug if number == 1 and slug[-1].isdigit() else f"{slug}-{number}") in taken:
        number += 1
    return name
