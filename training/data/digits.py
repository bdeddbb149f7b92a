"""The 1,797 handwritten digits that come with scikit-learn, split by the order in which they were collected.

The rows are ordered by writer: 13 people wrote them one after the other (Alpaydin and Kaynak 1998, UCI
"Optical Recognition of Handwritten Digits", test part). A random split would put each hand on both sides and
measure the memory for it; this one keeps the last hands for the test.
"""

import numpy as np
from sklearn.datasets import load_digits

from training.data import Example, ImageData

TRAIN, VALIDATION = 1077, 180  # rows in order; the remaining 540 are the test


def load() -> ImageData:
    """Grey 8x8 pictures, uint8, light ink on a dark ground; class "0" to "9"."""
    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    examples = [
        Example(image=image, label=int(label)) for image, label in zip(pixels, bunch.target, strict=True)
    ]
    return ImageData(
        name="digits",
        classes=tuple(str(name) for name in bunch.target_names),
        train=examples[:TRAIN],
        validation=examples[TRAIN : TRAIN + VALIDATION],
        test=examples[TRAIN + VALIDATION :],
        source=(
            "scikit-learn load_digits: UCI Optical Recognition of Handwritten Digits (Alpaydin and Kaynak "
            "1998)"
        ),
        licence="CC BY 4.0",
    )
