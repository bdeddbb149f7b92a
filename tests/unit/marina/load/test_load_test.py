"""The load test's figures and how they are judged."""

from collections.abc import Callable

import pytest

from marina.core.spec import Spec
from marina.load.load_test import Figures, percentile


@pytest.mark.parametrize(
    ("share", "milliseconds"), [(0.5, 10), (0.9, 10), (0.95, 200), (0.99, 200), (1.0, 3000)]
)
def test_a_percentile_is_the_least_time_that_covers_its_share(share: float, milliseconds: float) -> None:
    assert percentile({200: 9, 10: 90, 3000: 1}, share) == milliseconds


def test_without_requests_there_is_no_percentile() -> None:
    assert percentile({}, 0.95) == 0


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        (Figures(1000, 0, 100.0, 10, 80, 90, []), []),
        (Figures(1000, 0, 100.0, 10, 81, 90, []), ["p95 81 ms is above 80 ms"]),
        (Figures(1000, 11, 100.0, 10, 80, 90, []), ["11 of 1000 failed (1.10%), allowed 1.00%"]),
        (Figures(1000, 10, 100.0, 10, 80, 90, []), []),
        (Figures(0, 0, 0.0, 0, 0, 0, []), ["no request was answered"]),
    ],
)
def test_the_service_level_of_the_spec_decides(
    exported: Callable[..., Spec], figures: Figures, words: list[str]
) -> None:
    one = exported(more="service_level: {p95_ms: 80, max_failure_ratio: 0.01}\n")

    assert figures.breaches(one) == words
