"""Measures the recipe for sounds on spoken digits, beside a support vector machine on the same sounds.

    marina bench sounds --data FOLDER                   each speaker left out in turn, and the split by index
    marina bench sounds --data FOLDER --only theo       one of them
    marina bench sounds --data FOLDER --set epochs=30   with another setting
    marina bench sounds --request spoken-digits         what a request costs, of an exported model

FOLDER holds the recordings of the Free Spoken Digit Dataset, {digit}_{speaker}_{index}.wav. Left out means
that nothing of the speaker is learned from, and validation is drawn from the others. By index, as the data
set's authors split it, recordings 0 to 4 of each speaker and digit are the test, so that every voice is
known. The other settings are those of docs/recipes/spoken-digits.yaml.

A request is the WAV of a second, or of a window where that is shorter, answered in this process; the bare
loop beside it is soundfile, the graph and `tolist()`. Both are medians of processor time, measured in turns.
"""

import argparse
import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
import yaml

from benchmarks.exported import predictor_of
from benchmarks.texts import milliseconds
from handlers.kinds.audio_classifier import AudioClassifierPredictor
from marina.core import paths
from marina.core.spec import parse
from training.data.sound_rows import Naming, list_sounds
from training.data.sounds import headers_of, split_sounds
from training.recipes import audio_classifier
from training.runs.run import Run
from training.runs.seeds import seed_everything
from training.sounds.baseline import PREFIX, measure_baseline

RECIPE = "spoken-digits"
BY_INDEX = "by index"
TESTED = 5  # recordings of each speaker and digit
Row = dict[str, Any]


def measured(settings: audio_classifier.Settings, left_out: str, seed: int) -> Row:
    """Accuracy with one speaker left out, or by index, and that of the support vector machine."""
    seed_everything(seed)
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        run = Run(Path(folder), seed)
        rows = list_sounds(settings.data, Naming(pattern=settings.pattern), run.findings)
        if left_out == BY_INDEX:
            tested = {row.path for row in rows if int(row.path.stem.rpartition("_")[2]) < TESTED}
            rows = [replace(row, split="test" if row.path in tested else "train") for row in rows]
        files = headers_of(rows, run.findings)
        config = audio_classifier.input_of(settings, files)
        held_out = () if left_out == BY_INDEX else (left_out,)
        data = split_sounds(files, config, settings.data, seed, held_out, run.findings)
        learner, *_, assessment = audio_classifier.fitted_classifier(settings, data, config, run)
        facts = learner.training_facts(run)
        beside = measure_baseline(data, settings, config.sample_rate)
    return {
        "left_out": left_out,
        "seed": seed,
        "sounds": len(data.test),
        "accuracy": assessment.metrics["accuracy"],
        "beside": beside[f"{PREFIX}accuracy"],
        "cpu_seconds": facts["cpu_seconds"],
    }


def request_cost(name: str, rounds: int = 200) -> Row:
    """Milliseconds of a request to an exported model, and of the bare loop. Raises CallError for a model of
    another kind.
    """
    predictor = predictor_of(name, AudioClassifierPredictor, "which hears no sounds")
    rate = predictor.input.sample_rate
    times = np.arange(min(rate, predictor.input.window)) / rate
    noise = np.random.default_rng(0).normal(0, 0.02, len(times))
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.3 * np.sin(600 * np.pi * times) + noise, rate, "PCM_16", format="WAV")
    body = buffer.getvalue()

    def bare() -> Any:
        waveform, _ = soundfile.read(io.BytesIO(body), dtype="float32")
        return predictor.model(waveform[None], np.array([len(waveform)])).tolist()

    def request() -> Any:
        return predictor.reply([({"body": body}, {"content-type": "audio/wav"})], ["0"])

    found = milliseconds({"bare": bare, "request": request}, rounds)
    return {"name": name, "seconds": len(times) / rate, **found, "ratio": found["request"] / found["bare"]}


def main() -> None:
    """Read the command line, measure, print a line for each, and the mean over the speakers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", help="folder of the recordings")
    parser.add_argument("--request", metavar="NAME", help="measure a request to this model instead")
    parser.add_argument("--only", action="append", help=f"a speaker, or {BY_INDEX!r}; default: all")
    parser.add_argument("--seed", type=int, default=0, help="draws the weights and the validation split")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting")
    parser.add_argument("--out", type=Path, help="file for the results")
    options = parser.parse_args()
    if options.request:
        row = request_cost(options.request)
        print(
            f"{row['name']}, {row['seconds']:g} s: request {row['request']:.2f} ms, bare {row['bare']:.2f}, "
            f"ratio {row['ratio']:.2f}"
        )
        _write(options.out, [row])
        return
    if not options.data:
        parser.error("name the folder of the recordings: --data FOLDER; or a model: --request NAME")
    _write(options.out, _speakers(options))


def _speakers(options: argparse.Namespace) -> list[Row]:
    """Each speaker left out, and the split by index, printed line by line."""
    text = (paths.SOURCE / "docs/recipes" / f"{RECIPE}.yaml").read_text(encoding="utf-8")
    changes = {key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in options.set)}
    said = parse(text, RECIPE, RECIPE).training.settings
    settings = audio_classifier.Settings(**{**said, **changes, "data": options.data, "held_out": ()})
    speakers = sorted({path.stem.split("_")[1] for path in Path(options.data).glob("*_*_*.wav")})
    results = []
    for left_out in options.only or [*speakers, BY_INDEX]:
        row = measured(settings, left_out, options.seed)
        results.append(row)
        print(
            f"{left_out}: accuracy {row['accuracy']:.3f} of {row['sounds']}, support vector machine "
            f"{row['beside']:.3f}; {row['cpu_seconds']:.0f} s",
            flush=True,
        )
    by_speaker = [row for row in results if row["left_out"] != BY_INDEX]
    if len(by_speaker) > 1:
        means = [sum(row[key] for row in by_speaker) / len(by_speaker) for key in ("accuracy", "beside")]
        print(f"mean over {len(by_speaker)} speakers: {means[0]:.3f}, support vector machine {means[1]:.3f}")
    return results


def _write(path: Path | None, results: list[Row]) -> None:
    if path:
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
