"""The comparison of two versions: which requests count, and the latencies."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from marina.client import Client
from marina.core.errors import RequestRefused
from marina.core.spec import Spec, parse
from marina.release import comparison

TEXT = "# Reads.\nkind: classifier\ntraining: {recipe: classifier}\nfloor: {accuracy: 0.9}\n"


def predict(_name: str, _body: Any, version: str, *, content_type: str) -> dict[str, Any]:
    """An answer of version 1.1; version 1.0 refuses every request."""
    assert content_type == "image/png"
    if version == "1.0":
        raise RequestRefused("wrong shape", 400)
    return {"predictions": [{"class": "7", "probability": 1.0}]}


def test_one_sample_that_only_the_new_version_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    new = parse(TEXT, "digits", "models/digits.yaml", {"version": "1.1"})
    running = parse(TEXT, "digits", "models/digits.yaml")
    sample = {"body": b"", "content_type": "image/png"}
    monkeypatch.setattr(comparison.archive, "spec_of", lambda *_: running)

    def samples(spec: Spec) -> list[dict[str, Any]]:
        return [sample] if spec is new else []

    monkeypatch.setattr(comparison, "golden_samples", samples)

    compared = comparison.compare(cast(Client, SimpleNamespace(predict=predict)), new, "1.0")

    assert (compared.requests, compared.skipped, compared.agreement) == (0, 1, None)
    assert compared.p95_ms == compared.p50_ms
