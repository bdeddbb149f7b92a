"""A signal ends a training of every recipe: no export, the checkpoint stays, nothing runs on."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM, Signals
from typing import Any

import joblib
import numpy as np
import pytest
import stable_baselines3
import yaml
from sklearn.linear_model import LogisticRegression, Ridge

from handlers.runtime.checksums import verify_checksums
from marina.core import spec
from tests.support import generators, signal_models, sound_models, tagged_data
from tests.support.foreign_models import OWN
from tests.support.outlined_scenes import folder_of_scenes
from tests.support.stopped_commands import QUICK_CHECKPOINTS, SECONDS, Moment, running
from tests.support.text_data import write_csv
from tests.support.tiny_encoders import write_encoder
from training import recipes
from training.train import train

MEMBER = """# Reads a digit.
kind: classifier
training: {recipe: classifier, data: digits, epochs: 1}
floor: {accuracy: 0.1}
"""
ENDLESS: dict[str, Any] = {"total_timesteps": 10_000_000, "target_return": 1e9, "eval_freq": 10_000_000}
PENDULUM = {"environment": "Pendulum-v1", **ENDLESS}
CHECKPOINT, RUNNING = "cache/runs/*/[st]*.*", "cache/runs/*/lock"
CARTPOLE = {"environment": "CartPole-v1", **ENDLESS}
SMALL = {"epochs": 10_000, "width": 64, "height": 64}
# recipe -> kind, settings of a training without an end or of an import, what shows that it has started
TRAININGS: dict[str, tuple[str, dict[str, Any], str]] = {
    **dict.fromkeys(("a2c", "dqn", "ppo", "trpo", "reinforce"), ("policy", CARTPOLE, CHECKPOINT)),
    **dict.fromkeys(("sac", "td3", "mpc"), ("policy", PENDULUM, CHECKPOINT)),
    "tabular_policy": ("policy", {"environment": "Taxi-v4", "total_timesteps": 500_000_000}, RUNNING),
    "classifier": ("classifier", {"data": "digits", "epochs": 10_000}, CHECKPOINT),
    "detector": ("detector", SMALL, CHECKPOINT),
    "segmenter": ("segmenter", SMALL, CHECKPOINT),
    "video_classifier": (
        "video_classifier",
        {"data": "motions", "horizontal_flip": False, "epochs": 10_000},
        CHECKPOINT,
    ),
    "ensemble": ("classifier", {"data": "digits", "members": [{"model": "one"}, {"model": "two"}]}, RUNNING),
    "imported_classifier": ("classifier", {}, RUNNING),
    "imported_detector": ("detector", {}, RUNNING),
    "tensor": (
        "tensor",
        {"inputs": {"x": {"shape": [2]}}, "outputs": {"y": {}}, "epochs": 100_000},
        CHECKPOINT,
    ),
    "regressor": ("regressor", {"columns": {"x": "number"}, "target": "y", "epochs": 100_000}, CHECKPOINT),
    "tabular_classifier": (
        "tabular_classifier",
        {"columns": {"x": "number"}, "target": "y", "epochs": 100_000},
        CHECKPOINT,
    ),
    "forecaster": ("forecaster", {"target": "x", "epochs": 100_000}, CHECKPOINT),
    "sequence_classifier": ("sequence_classifier", {"series": "id", "epochs": 100_000}, CHECKPOINT),
    "audio_classifier": (
        "audio_classifier",
        {"pattern": "{label}_{group}_{}.wav", "epochs": 10_000, "hidden": 4, "baseline": False},
        CHECKPOINT,
    ),
    "text_classifier": ("text_classifier", {"epochs": 10_000}, CHECKPOINT),
    "embedder": ("embedder", {"epochs": 10_000, "relevance": "labels", "baseline": False}, CHECKPOINT),
    "word_vectors": ("embedder", {"epochs": 10_000, "baseline": False}, CHECKPOINT),
    "tagger": ("tagger", {"epochs": 10_000, "baseline": False}, CHECKPOINT),
    "sequence_to_sequence": ("generator", {"epochs": 10_000}, CHECKPOINT),
    "language_model": ("generator", {"epochs": 10_000, "max_tokens": 8, "max_new_tokens": 8}, CHECKPOINT),
    "imported_generator": ("generator", {}, RUNNING),
    "imported_embedder": ("embedder", {"max_tokens": 16}, RUNNING),
    "imported_regressor": ("regressor", {"trust_pickle": True}, RUNNING),
    "imported_tabular_classifier": ("tabular_classifier", {"trust_pickle": True}, RUNNING),
    "imported_tensor": ("tensor", {"inputs": {"x": {"shape": [3, 8, 8]}}}, RUNNING),
    "imported_policy": ("policy", {"environment": "CartPole-v1"}, RUNNING),
}
SIGNALS = [
    *((recipe, SIGTERM) for recipe in recipes.names()),
    *((recipe, number) for recipe in ("classifier", "detector", "tensor") for number in (SIGINT, SIGHUP)),
    ("ppo", SIGHUP),  # Ctrl-C lets a policy's training export its best so far
]
METRICS = {
    "embedder": "mrr",
    "policy": "mean_return",
    "detector": "ap50",
    "segmenter": "mean_iou",
    "tensor": "r2",
    "regressor": "r2",
    "forecaster": "skill",
    "generator": "token_accuracy",
}


ROW_WRITERS = {
    **dict.fromkeys(("embedder", "text_classifier", "word_vectors"), write_csv),
    "sequence_classifier": signal_models.write_csv,
    "tagger": tagged_data.write_conll,
    "sequence_to_sequence": generators.write_dictionary,
    "language_model": generators.write_text,
}
SUFFIXES = {"tagger": "conll", "sequence_to_sequence": "dict", "language_model": "txt"}
FOLDER_WRITERS: dict[str, Callable[[Path], Path]] = {
    **dict.fromkeys(("detector", "segmenter"), folder_of_scenes),
    "audio_classifier": sound_models.write_folder,
}
ROWS = ("forecaster", "regressor", "tabular_classifier", *ROW_WRITERS)


def test_every_recipe_has_its_training_here() -> None:
    assert TRAININGS.keys() == set(recipes.names())


def made_data(home: Path, recipe: str) -> dict[str, Any]:
    """The settings that name the data, or the model, that a training reads."""
    if recipe in FOLDER_WRITERS:
        return {"data": str(FOLDER_WRITERS[recipe](home / "data"))}
    if recipe == "tensor":
        rows = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
        np.savez(home / "rows.npz", x=rows, y=rows.sum(1))
        return {"data": f"{home}/rows.npz"}
    if recipe in ROWS:
        suffix = SUFFIXES.get(recipe, "csv")
        path = home / f"rows.{suffix}"
        if recipe in ROW_WRITERS:
            ROW_WRITERS[recipe](path)
        else:
            path.write_text("x,y\n" + "".join(f"{row},{row % 2}\n" for row in range(400)))
        return {"data": str(path)}
    if recipe.startswith("imported_") and recipe != "imported_policy":
        write_encoder(home / "encoder")
        (home / "own.py").write_text(OWN)
        (home / "neighbour.py").write_text("WIDTH = 32\n")
        rows = np.arange(40.0).reshape(20, 2)
        joblib.dump(Ridge().fit(rows, rows[:, 0]), home / "ridge.joblib")
        joblib.dump(LogisticRegression().fit(rows, rows[:, 0] > 20), home / "logistic.joblib")
        sources = {
            "imported_detector": f"{home}/own.py:fcos",
            "imported_classifier": f"{home}/own.py:brightest",
            "imported_tensor": f"{home}/own.py:brightest",
            "imported_embedder": f"hf:{home}/encoder",
            "imported_generator": f"hf:{generators.write_gpt2(home / 'gpt2')}",
            "imported_regressor": f"{home}/ridge.joblib",
            "imported_tabular_classifier": f"{home}/logistic.joblib",
        }
        return {"source": sources[recipe]}
    if recipe == "imported_policy":
        stable_baselines3.A2C("MlpPolicy", "CartPole-v1").save(home / "agent.zip")
        return {"source": f"{home}/agent.zip"}
    if recipe == "ensemble":
        (home / "models" / "one.yaml").write_text(MEMBER)
        exported = train(spec.load("one"))
        shutil.copytree(exported.parent, home / "exports" / "two")
    return {}


def write_spec(home: Path, recipe: str) -> None:
    kind, settings, _ = TRAININGS[recipe]
    training = {"recipe": recipe, **settings, **made_data(home, recipe)}
    content: dict[str, Any] = {"kind": kind, "training": training}
    if not recipe.startswith("imported_"):
        content["floor"] = {METRICS.get(kind, "accuracy"): -1e9}
    (home / "models" / "toy.yaml").write_text(f"# A toy.\n{yaml.safe_dump(content)}")


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "number"), SIGNALS)
def test_a_stopped_training_keeps_its_checkpoint_alone(recipe: str, number: Signals, home: Path) -> None:
    """Once its run, or its first checkpoint where the recipe writes any, is there."""
    write_spec(home, recipe)
    first_file = TRAININGS[recipe][2]

    with running(["train", "toy"], home, QUICK_CHECKPOINTS) as command:
        command.wait_for(Moment(file=first_file, seconds=0.5))
        ended = command.stop(number)

    assert (ended.code, ended.processes, ended.temporary) == (128 + number, [], []), ended.output
    assert ended.output.splitlines()[-1] == "stopped"
    assert "Traceback" not in ended.output
    assert ended.seconds < SECONDS
    assert list((home / "exports" / "toy").iterdir()) == []
    assert list(home.glob(first_file))


@pytest.mark.slow
@pytest.mark.parametrize(
    "at",
    [
        CHECKPOINT,
        "exports/toy/.1.0-*/model.pt2",
        "exports/toy/1.0/SHA256SUMS",
    ],
    ids=["checkpoint", "program", "moved"],
)
def test_a_killed_training_is_made_again(at: str, home: Path) -> None:
    """`kill -9`: an unfinished export is never used, and the next training removes it."""
    write_spec(home, "tensor")
    file = home / "models" / "toy.yaml"
    file.write_text(file.read_text().replace("epochs: 100000", "epochs: 60"))

    with running(["train", "toy"], home, QUICK_CHECKPOINTS) as command:
        command.wait_for(Moment(file=at))
        killed = command.stop(SIGKILL)
    words = [sys.executable, "-m", "marina", "train", "toy"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=240)

    assert (killed.code, killed.processes) == (-SIGKILL, [])
    assert done.returncode == 0, done.stderr
    assert ("resuming at epoch" in done.stderr) == ("/1.0/" not in at), done.stderr
    assert ("removed what a killed export left" in done.stderr) == ("/1.0/" not in at), done.stderr
    assert [path.name for path in (home / "exports" / "toy").iterdir()] == ["1.0"]
    verify_checksums(home / "exports" / "toy" / "1.0")
