"""Ensembles of classifiers: weighted mean of probabilities; members that don't match are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.inputs.images import ImageInput
from handlers.runtime.checksums import write_checksums
from marina.core import spec
from marina.core.errors import CallError
from tests.support.homes import project_home
from training.data import load_images
from training.recipes import ensemble
from training.runs.run import Run
from training.train import settings_of, train
from training.vision.classification.inputs import pixels

MEMBER = """# Reads a digit after one epoch.
version: "{version}"
kind: classifier
training: {{recipe: classifier, data: digits, epochs: {epochs}, seed: {seed}{more}}}
floor: {{accuracy: 0.1}}
"""
TOGETHER = """# Two readers as one.
version: "1.0"
kind: classifier
training:
  recipe: ensemble
  data: digits
  members: [{model: one, weight: 3}, {model: two}]
floor: {accuracy: 0.1}
"""


def member(home: Path, name: str, seed: int, more: str = "", epochs: int = 1) -> spec.Spec:
    (home / "models" / f"{name}.yaml").write_text(
        MEMBER.format(version="1.0", seed=seed, more=more, epochs=epochs)
    )
    one = spec.load(name)
    train(one)
    return one


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with project_home(tmp_path_factory) as home:
        member(home, "one", 1, epochs=3)
        member(home, "two", 2, epochs=2)
        member(home, "small", 3, ", image_size: 32")
    (home / "models" / "both.yaml").write_text(TOGETHER)
    return home


@pytest.fixture
def home(members: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MARINA_HOME", str(members))
    return members


def probabilities(folder: Path, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.export.load(folder / "model.pt2").module()(images).softmax(1)


@pytest.mark.slow
def test_ensemble_is_the_weighted_mean_of_its_members(
    home: Path,
) -> None:
    """An ensemble's probabilities are the weighted mean of its members', in one export."""
    folder = train(spec.load("both"))
    config = ImageInput.from_config(json.loads((folder / "preprocess_config.json").read_text()))
    images = pixels(load_images("digits").test[:20], config).tensors[0]

    one, two, both = (
        probabilities(home / "exports" / name / "1.0", images) for name in ("one", "two", "both")
    )

    torch.testing.assert_close(both, 0.75 * one + 0.25 * two, atol=1e-5, rtol=1e-4)
    metrics = json.loads((folder / "model_metadata.json").read_text())["metrics"]
    assert set(metrics) == {"accuracy", "accuracy_one_1.0", "accuracy_two_1.0"}
    assert metrics["accuracy"] > min(metrics["accuracy_one_1.0"], metrics["accuracy_two_1.0"])
    assert (folder / "samples" / "samples.json").is_file() or list((folder / "samples").iterdir())


@pytest.mark.parametrize(
    ("members_", "data", "words"),
    [
        (
            [{"model": "one"}, {"model": "gone"}],
            "digits",
            r"gone 1.0 has no whole export .*run: marina train gone",
        ),
        ([{"model": "one"}, {"model": "one", "version": "2.0"}], "digits", r"one 2.0 has no whole export"),
        (
            [{"model": "one"}, {"model": "small"}],
            "digits",
            r"small 1.0 has another preprocess_config.json than one 1.0; train them alike",
        ),
    ],
)
def test_members_that_dont_go_together_are_refused(
    home: Path, members_: list[Any], data: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(CallError, match=words):
        ensemble.train(ensemble.Settings(members=members_, data=data), Run(tmp_path))


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (
            "postprocess_config.json",
            {"type": "detection"},
            "is for detection; an ensemble is made of classifiers",
        ),
        (
            "postprocess_config.json",
            {"decision": {"class_index": 1, "threshold": 0.2}},
            "decides by a threshold of its own",
        ),
        ("model_metadata.json", {"data": {"fingerprint": "0"}}, "nobody knows what it hasn't seen"),
    ],
)
def test_a_member_of_another_sort_is_refused(
    home: Path, file: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = home / "exports" / "two" / "1.0"
    before = {name: (folder / name).read_bytes() for name in (file, "SHA256SUMS")}
    content = json.loads(before[file])
    (folder / file).write_text(json.dumps({**content, **change}))
    (folder / "SHA256SUMS").unlink()
    write_checksums(folder)
    try:
        with pytest.raises(CallError, match=words):
            ensemble.train(
                ensemble.Settings(members=[{"model": "one"}, {"model": "two"}], data="digits"), Run(tmp_path)
            )
    finally:
        for name, saved in before.items():
            (folder / name).write_bytes(saved)


def test_an_ensemble_needs_two_members_with_weights_above_zero(home: Path) -> None:
    for members_ in ("[{model: one}]", "[{model: one}, {model: two, weight: 0}]"):
        (home / "models" / "wrong.yaml").write_text(
            TOGETHER.replace("[{model: one, weight: 3}, {model: two}]", members_)
        )
        with pytest.raises(CallError, match="members"):
            settings_of(spec.load("wrong"))
    (home / "models" / "wrong.yaml").unlink()
