"""Layouts of labeled sounds, and what is left out of them, by name."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from handlers.inputs.sounds import SoundInput
from marina.core.errors import CallError
from tests.support.sound_models import INPUT, RATE, tone, write_classes, write_folder
from training.data.sound_rows import Naming, list_sounds, pattern_of
from training.data.sounds import SoundData, headers_of, split_sounds
from training.findings import Findings

PLAIN = Naming()
PATTERN = Naming(pattern="{label}_{group}_{}.wav")


def read(
    data: Path, naming: Naming = PLAIN, held_out: tuple[str, ...] = (), config: SoundInput = INPUT
) -> tuple[SoundData, list[str]]:
    """The data set, and what was found."""
    findings = Findings(quiet=True)
    files = headers_of(list_sounds(str(data), naming, findings), findings)
    made = split_sounds(files, config, str(data), 0, held_out, findings)
    return made, [str(one) for one in findings]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "tones")


def test_names_of_files_say_class_and_speaker(folder: Path) -> None:
    """By a pattern; no speaker is in two splits."""
    data, found = read(folder, PATTERN)
    assert data.classes == ("high", "low")
    speakers = [{one.group for one in split} for split in (data.train, data.validation, data.test)]
    assert sum(map(len, speakers)) == 4
    assert set().union(*speakers) == {"ann", "bob", "cem", "dia"}
    assert data.splits.endswith("groups whole")
    assert found == []
    again, _ = read(folder, PATTERN)
    assert again.about() == data.about()


def test_a_speaker_can_be_held_out(folder: Path) -> None:
    """Validation is drawn from all others."""
    data, _ = read(folder, PATTERN, ("dia",))
    assert {one.group for one in data.test} == {"dia"}
    assert (
        {one.group for one in data.train} == {"ann", "bob", "cem"} >= {one.group for one in data.validation}
    )
    with pytest.raises(CallError, match="no group 'eve'; it has ann, bob, cem, dia"):
        read(folder, PATTERN, ("eve",))


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
def test_a_table_names_files_classes_splits_and_speakers(folder: Path, form: str, tmp_path: Path) -> None:
    """In the columns that data sets usually have; several rows that contradict each other are left out."""
    names = sorted(path.name for path in folder.glob("*.wav"))
    rows = [
        (f"clips/{name}", *name.split("_")[:2], ("train", "dev")[number % 2])
        for number, name in enumerate(names)
    ]
    rows = [
        (path, label, speaker, "test" if speaker == "ann" else "train") for path, label, speaker, _ in rows
    ]
    (tmp_path / "clips").symlink_to(folder)
    rows += [
        ("clips/nowhere.wav", "low", "ann", "test"),
        (rows[0][0], "low", "ann", "test"),
        ("", "low", "", ""),
    ]
    head = ("path", "class", "client_id", "subset")
    if form == "parquet":
        arrow = pytest.importorskip("pyarrow", reason="pip install marina[parquet]")
        from pyarrow import parquet

        parquet.write_table(
            arrow.table(dict(zip(head, zip(*rows, strict=True), strict=True))), tmp_path / "a.parquet"
        )
    else:
        mark = "\t" if form == "tsv" else ","
        (tmp_path / f"a.{form}").write_text("\n".join(mark.join(row) for row in [head, *rows]) + "\n")
    data, found = read(tmp_path)
    assert {one.group for one in data.test} == {"ann"}
    assert len(data.test) == 11
    assert "validation drawn from train" in data.splits
    text = "; ".join(found)
    for words in ("no file or no class is given", "there is no such file: clips/nowhere.wav", "named twice"):
        assert words in text
    with pytest.raises(CallError, match="has no column 'word'; it has 'path', 'class'"):
        read(tmp_path, Naming(label="word"))


def test_a_folder_has_a_folder_for_each_class(tmp_path: Path) -> None:
    """Copies stay together and are named; what serving would refuse is left out, clipped ones are named."""
    sounds = {name: [tone(name, seed=seed) for seed in range(12)] for name in ("low", "high")}
    sounds["low"] += [np.zeros(4_000, np.float32), tone("low")[:90], np.clip(5 * tone("low", seed=20), -1, 1)]
    sounds["high"].append(sounds["high"][0])
    write_classes(tmp_path, sounds)
    (tmp_path / "low" / "notes.txt").write_text("no sound")
    (tmp_path / "low" / "cut.wav").write_bytes((tmp_path / "low" / "0.wav").read_bytes()[:900])
    (tmp_path / "low" / "broken.flac").write_bytes(b"fLaC but no more")
    data, found = read(tmp_path)
    text = "; ".join(found)
    for words in (
        "files left out: no sounds: ",
        "can't be read: low/broken.flac",
        "low/12.wav: the sound is silent",
        "low/13.wav: the sound has 0.01125 seconds",
        "low/cut.wav: the file is cut off",
        "are clipped: recorded too loud: low/14.wav",
        "are copies of another one: high/12.wav = high/0.wav",
    ):
        assert words in text
    assert sum(len(part) for part in (data.train, data.validation, data.test)) == 26


def test_the_data_of_another_rate_is_heard_at_the_graphs(tmp_path: Path) -> None:
    """A lower one is a finding: its high frequencies are empty."""
    sounds = {name: [tone(name, rate=4_000, seed=seed) for seed in range(8)] for name in ("low", "high")}
    data, found = read(write_classes(tmp_path, sounds, 4_000))
    assert data.train[0].samples == pytest.approx(0.4 * RATE, abs=2)
    assert "16 of 16 sounds have a lower rate than 8,000 hertz" in found[0]


def test_sounds_that_do_not_fit_in_memory_are_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Part by part, the same."""
    kept, _ = read(folder, PATTERN)
    monkeypatch.setattr("training.data.sounds.KEPT_BYTES", 0)
    again, _ = read(folder, PATTERN)
    for one, other in zip(kept.test, again.test, strict=True):
        assert other.kept is None
        assert np.abs(one.part(500, 1_000) - other.part(500, 1_000)).max() < 1e-4


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{}.wav", "must have {label} once"),
        ("{label}_{speaker}.wav", "no field {speaker}"),
        ("{label}{label}", "once"),
    ],
)
def test_a_pattern_that_says_no_class_is_refused(pattern: str, words: str) -> None:
    """By its field."""
    with pytest.raises(CallError, match=words):
        pattern_of(pattern)


def test_what_is_no_data_is_refused_with_the_layouts(tmp_path: Path) -> None:
    """Nothing there, an empty folder, one class, too few, no reader."""
    with pytest.raises(CallError, match=r"no such file or folder; labeled sounds look like"):
        read(tmp_path / "nowhere")
    with pytest.raises(CallError, match="has no sounds"):
        read(tmp_path)
    write_classes(tmp_path, {"low": [tone("low", seed=seed) for seed in range(6)]})
    with pytest.raises(CallError, match="has the labels low; two at least"):
        read(tmp_path)
    write_classes(tmp_path, {"high": [tone("high")]})
    with pytest.raises(CallError, match="'high' has 1 sound"):
        read(tmp_path)
    soundfile.write(tmp_path / "high" / "0.wav", np.zeros(4_000), RATE)
    (tmp_path / "train").mkdir()
    with pytest.raises(CallError, match="folders of splits beside others"):
        read(tmp_path)
