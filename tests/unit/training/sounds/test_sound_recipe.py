"""The recipe `audio_classifier`: from a folder of files to an export that answers as it was measured."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from benchmarks.sounds import measured
from handlers.runtime.export import Export
from marina.core import spec
from marina.core.errors import CallError
from marina.evaluation import report
from marina.evaluation.measurement import in_process
from marina.kinds.audio_classifier import KIND
from marina.kinds.kind import MeasurementOptions
from tests.support.sound_models import RATE, file_of, tone, write_classes, write_folder
from training.recipes import audio_classifier
from training.recipes.audio_classifier import Settings
from training.runs.run import Run
from training.train import train

QUICK: dict[str, Any] = {
    "recipe": "audio_classifier",
    "pattern": "{label}_{group}_{}.wav",
    "hidden": 4,
    "layers": 3,
    "mels": 16,
    "pitch": 1,
    "epochs": 8,
    "batch_size": 8,
    "learning_rate": 0.02,
    "window": 0.25,
    "ema_decay": 0.5,
}


def write(home: Path, training: dict[str, Any], more: str = "export: {runtimes: []}\n") -> spec.Spec:
    (home / "models").mkdir(exist_ok=True)
    text = f"# A toy.\nkind: audio_classifier\nfloor: {{accuracy: 0.8}}\ntraining: {json.dumps(training)}\n"
    (home / "models" / "toy.yaml").write_text(text + more, encoding="utf-8")
    return spec.load("toy", home=home)


def test_sounds_are_learned_exported_and_measured_again(home: Path, tmp_path: Path) -> None:
    """What is served is what was measured, also of sounds longer than a window; the report can be heard."""
    data = write_folder(tmp_path / "tones")
    made = write(home, {**QUICK, "data": str(data)})
    export = Export.open(train(made))
    metrics, about = export.metadata["metrics"], export.metadata["data"]
    assert (about["train"], about["validation"], about["test"]) == (24, 12, 12)
    assert metrics["baseline_accuracy"] > 0.8
    assert export.preprocess["sample_rate"] == RATE
    assert (export.preprocess["window"], export.preprocess["hop"]) == (2_000, 1_000)
    folder = made.export_dir / "report"
    files = {"curves.png", "confusion.png", "reliability.png", "comparison.png", "sounds"}
    assert files <= {file.name for file in folder.iterdir()}
    assert json.loads((folder / "tables" / "groups.json").read_text())["rows"][0]["sounds"] == 12
    assert {one["expect"]["class"] for one in export.samples[:2]} == {"high", "low"}
    answer = in_process(made)
    found = KIND.measurement(made, MeasurementOptions()).run(answer, iter, is_endpoint=False)
    assert found.metrics == {"accuracy": pytest.approx(metrics["accuracy"]), "sounds": 12}
    foreign = KIND.measurement(made, MeasurementOptions(str(write_folder(tmp_path / "others", 16))))
    assert not foreign.is_recorded
    assert foreign.run(answer, iter, is_endpoint=False).metrics["sounds"] == 16
    page = report.page(made)
    assert page.count('<audio controls preload="none" src="data:audio/wav;base64,') > 12


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"window": 0.1, "minimum_seconds": 0.2}, "minimum_seconds 0.2 is above window 0.1"),
        ({"window": 0.1, "window_hop": 0.2}, "leaves parts of a sound unheard"),
        ({"frame_ms": 10, "frame_hop_ms": 20}, "frame_hop_ms above frame_ms"),
        ({"features": ["rms", "rms"]}, "names one twice"),
        ({"operating_point": {"class": "low"}}, "write the class and the share"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], words: str) -> None:
    """In words."""
    with pytest.raises(ValueError, match=words):
        Settings(data="x", **settings)


def test_settings_follow_the_data(tmp_path: Path) -> None:
    """Rate and window are those of most files, 16,000 hertz and ten seconds at most."""
    sounds = {name: [tone(name, rate=44_100)] for name in ("low", "high")}
    folder = write_classes(tmp_path / "tones", sounds, 44_100)
    run = Run(tmp_path)
    files = audio_classifier._files(Settings(data=str(folder)), run.findings)
    config = audio_classifier.input_of(Settings(data=str(folder)), files)
    assert (config.sample_rate, config.window, config.hop) == (16_000, 6_400, 3_200)
    with pytest.raises(CallError, match=r"window_hop 1 is above window, 0\.4 seconds"):
        audio_classifier.input_of(Settings(data=str(folder), window_hop=1), files)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "low.wav").write_bytes(file_of(tone("low"))[:20])
    with pytest.raises(CallError, match="none of 1 sounds can be read"):
        audio_classifier._files(Settings(data=str(broken), pattern="{label}.wav"), run.findings)


@pytest.mark.slow
def test_silence_can_be_a_class(home: Path, tmp_path: Path) -> None:
    """Where the spec says so; by default silent files are left out."""
    rng = np.random.default_rng(0)
    sounds = {"tone": [tone("low", 0.3, seed=seed) for seed in range(20)]}
    sounds["nothing"] = [np.zeros(2_400, np.float32)] * 10
    sounds["nothing"] += [rng.normal(0, 1e-4, 2_400 + seed).astype(np.float32) for seed in range(10)]
    settings = {**QUICK, "data": str(write_classes(tmp_path / "some", sounds)), "silence": "answer"}
    del settings["pattern"]
    made = write(home, {**settings, "volume": 0, "noise": 40})
    export = Export.open(train(made))
    assert export.preprocess["silence"] == "answer"
    (found,) = in_process(made)([(file_of(np.zeros(2_000, np.float32)), "audio/wav")], {})
    assert found["predictions"][0]["class"] == "nothing"


@pytest.mark.slow
def test_a_speaker_who_was_never_heard_is_understood(shared_data: Path, tmp_path: Path) -> None:
    """Real spoken digits, a third of the recipe's epochs: `marina bench sounds` measures every speaker."""
    with tarfile.open(next((shared_data / "spoken_digits").glob("*.tar"))) as file:
        file.extractall(tmp_path, filter="data")
    folder = next(path.parent for path in tmp_path.rglob("0_theo_0.wav"))
    settings = Settings(data=str(folder), pattern="{label}_{group}_{}.wav", epochs=5)
    row = measured(settings, "lucas", 0)
    assert row["sounds"] == 500
    assert row["accuracy"] >= 0.72
    assert row["accuracy"] >= row["beside"] + 0.03
    assert soundfile.info(folder / "0_theo_0.wav").samplerate == RATE
