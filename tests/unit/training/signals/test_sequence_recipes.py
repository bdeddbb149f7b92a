"""Classifiers of signals: learned from every form of data, exported, and served as they were measured."""

import json
import tracemalloc
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.series import measured
from handlers.runtime.export import Export
from marina.core import spec
from marina.core.errors import CallError
from marina.evaluation.measurement import in_process
from marina.kinds.kind import MeasurementOptions
from marina.kinds.sequence_classifier import KIND
from tests.support.signal_models import made_signals, write_csv
from training.data.signal_files import read_signals
from training.data.signal_tables import Columns
from training.findings import Findings
from training.recipes import sequence_classifier
from training.recipes.sequence_classifier import Settings
from training.runs.run import Run
from training.signals.networks import SignalNetwork
from training.train import train

QUICK: dict[str, Any] = {
    "recipe": "sequence_classifier",
    "series": "id",
    "step": "t",
    "network": "tcn",
    "hidden": 8,
    "layers": 2,
    "epochs": 6,
    "learning_rate": 0.02,
}
TABLE = Columns(series="id", step="t")
NETWORKS: list[dict[str, Any]] = [
    {"network": "tcn"},
    {"network": "transformer", "heads": 2},
    {"network": "gru", "layers": 2},
    {"network": "lstm", "bidirectional": True},
    {"network": "rnn", "layers": 1},
    {"network": "linear"},
]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("signals") / "waves.csv")


def write(
    home: Path, training: dict[str, Any], more: str = "export: {runtimes: []}\n", floor: float = 0.8
) -> spec.Spec:
    (home / "models").mkdir(exist_ok=True)
    text = f"# A toy.\nkind: sequence_classifier\nfloor: {{accuracy: {floor}}}\n"
    text += f"training: {json.dumps(training)}\n"
    (home / "models" / "toy.yaml").write_text(text + more, encoding="utf-8")
    return spec.load("toy", home=home)


def test_signals_are_learned_exported_and_measured_again(home: Path, table: Path) -> None:
    """What is served is what was measured; the baseline stands beside it."""
    made = write(home, {**QUICK, "data": str(table)})
    export = Export.open(train(made))
    metrics, data = export.metadata["metrics"], export.metadata["data"]
    assert (data["train"], data["validation"], data["test"]) == (84, 18, 18)
    assert metrics["baseline_accuracy"] > 0.8
    assert export.preprocess["channels"][1]["mean"] == pytest.approx(5, abs=0.1)
    assert (export.preprocess["minimum_steps"], export.preprocess["maximum_steps"]) == (12, 24)
    files = {"curves.png", "confusion.png", "reliability.png", "signals.png", "comparison.png"}
    assert files <= {file.name for file in (made.export_dir / "report").iterdir()}
    assert {one["expect"]["class"] for one in export.samples[:2]} == {"fast", "slow"}
    answer = in_process(made)
    found = KIND.measurement(made, MeasurementOptions()).run(answer, iter, is_endpoint=False)
    assert found.metrics == {"accuracy": pytest.approx(metrics["accuracy"]), "signals": 18}
    other = write_csv(home / "other.csv", 20, 9)
    foreign = KIND.measurement(made, MeasurementOptions(str(other)))
    assert not foreign.is_recorded
    assert foreign.run(answer, iter, is_endpoint=False).metrics["signals"] >= 18


@pytest.mark.parametrize("network", NETWORKS, ids=lambda one: one["network"])
def test_no_network_sees_what_a_signal_is_filled_up_with(network: dict[str, Any]) -> None:
    """Alone, in a batch of other lengths, with other values behind its end; each learns from all steps."""
    settings = Settings(data="x", hidden=8, **network)
    torch.manual_seed(0)
    model = SignalNetwork(settings, np.array([1.0, 2.0]), np.array([3.0, 0.5]), 12, 3).eval()
    signals, steps = torch.randn(4, 12, 2), torch.tensor([12, 5, 1, 7])
    together = model(signals, steps)
    for row, count in enumerate(steps.tolist()):
        signal = signals[row : row + 1, : model.steps or count]
        assert torch.allclose(model(signal, steps[row : row + 1]), together[row : row + 1], atol=1e-5)
    changed = signals.clone()
    changed[1, 5:] = 100
    assert torch.allclose(model(changed, steps), together, atol=1e-5)
    signals.requires_grad_()
    model(signals, steps)[1].square().sum().backward()
    assert signals.grad is not None
    own = signals.grad[1].abs().sum(1)
    assert bool((own[:5] > 0).all())
    assert not bool(own[5:].any())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*_flat_weights")
@pytest.mark.parametrize("network", NETWORKS, ids=lambda one: one["network"])
def test_every_network_is_served_by_onnx_runtime(home: Path, table: Path, network: dict[str, Any]) -> None:
    """Of any length, or filled up to the longest; golden samples agree."""
    pytest.importorskip("onnxruntime", reason="pip install marina[onnx]")
    settings = {**QUICK, "epochs": 12, "data": str(table), **network}
    made = write(home, settings, "export: {runtimes: [onnxruntime]}\n", 0.1)
    export = Export.open(train(made))
    rows = export.runtimes["candidates"]
    assert {row["runtime"] for row in rows if not row["refused"]} == {"torch", "onnxruntime"}, rows
    answers = in_process(made)([(json.dumps(one).encode(), "") for _, one in made_signals(3, 5)], {})
    assert len(answers) == 3


def arrays(count: int = 40) -> tuple[list[np.ndarray], list[str]]:
    """Signals float64 [T, 2] and labels."""
    made = made_signals(count)
    return [np.array(steps) for _, steps in made], [name for name, _ in made]


def test_every_form_of_data_gives_the_same_signals(tmp_path: Path) -> None:
    """A table, Parquet, arrays, .ts, a folder of files per class."""
    signals, labels = arrays()
    longest = max(map(len, signals))
    filled = np.full((len(signals), longest, 2), np.nan)
    for row, one in zip(filled, signals, strict=True):
        row[: len(one)] = one
    np.savez(tmp_path / "nan.npz", X=filled, y=labels)
    lengths = [len(one) for one in signals]
    zeros = np.nan_to_num(filled).transpose(0, 2, 1)
    np.savez(tmp_path / "first.npz", signals=zeros, labels=labels, lengths=lengths)
    lines = [
        ":".join(",".join(map(str, channel)) for channel in one.T.tolist()) + f":{label}"
        for one, label in zip(signals, labels, strict=True)
    ]
    (tmp_path / "waves.ts").write_text("@problemName waves\n@timeStamps false\n@data\n" + "\n".join(lines))
    for number, (one, label) in enumerate(zip(signals, labels, strict=True)):
        folder = tmp_path / "classes" / label
        folder.mkdir(parents=True, exist_ok=True)
        if number % 3:
            np.save(folder / f"{number:02}.npy", one)
        else:
            text = "channel_0,channel_1\n" + "".join(f"{a},{b}\n" for a, b in one.tolist())
            (folder / f"{number:02}.csv").write_text(text)
    write_csv(tmp_path / "waves.csv", 40)
    forms = {
        "waves.csv": TABLE,
        "nan.npz": Columns(),
        "first.npz": Columns(channels_first=True),
        "waves.ts": Columns(),
        "classes": Columns(),
    }
    expected = sorted(
        (label, one.astype(np.float32).tolist()) for one, label in zip(signals, labels, strict=True)
    )
    for name, columns in forms.items():
        raw = read_signals(str(tmp_path / name), columns)
        assert sorted((one.label, one.values.tolist()) for one in raw.signals) == expected, name
        assert not any(one.fault for one in raw.signals)
        assert raw.channels == (("x", "y") if name == "waves.csv" else ("channel_0", "channel_1"))


def test_parquet_rows_may_stand_in_any_order(tmp_path: Path) -> None:
    """Steps, as numbers or times, order them."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install marina[parquet]")
    pyarrow = pytest.importorskip("pyarrow")
    rows = [
        {"id": 7, "t": f"2024-01-01T00:00:{place:02}", "x": float(place), "label": 1.0} for place in range(5)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows[::-1]), tmp_path / "one.parquet")
    (one,) = read_signals(str(tmp_path / "one.parquet"), TABLE).signals
    assert (one.values[:, 0].tolist(), one.label, one.fault) == ([0, 1, 2, 3, 4], "1", "")


def test_bad_signals_are_findings_by_their_place(tmp_path: Path) -> None:
    """They are left out, the others stay; copies are told and stay in one split."""
    lines = write_csv(tmp_path / "waves.csv").read_text().splitlines()
    changes = {
        "s1,0,": "s1,0,,1,fast",
        "s2,3,": "s2,3,nan,1,slow",
        "s3,2,": "s3,2,inf,1,fast",
        "s4,2,": "s4,2,many,1,slow",
        "s5,4,": "s5,3,1,1,fast",
        "s6,4,": "s6,9000,1,1,slow",
        "s7,4,": "s7,4,1,1,slow",
        "s8,4,": "s8,4,1e39,1,slow",
        "s9,4,": "s9,soon,1,1,fast",
    }
    for begin, line in changes.items():
        place = next(place for place, one in enumerate(lines) if one.startswith(begin))
        lines[place] = line
    copies = [one.replace("s10,", "copy,") for one in lines if one.startswith("s10,")]
    (tmp_path / "bad.csv").write_text("\n".join([*lines, *copies, "short,0,1,1,fast", "none,0,1,1,"]))
    findings = Findings()
    settings = Settings(data=str(tmp_path / "bad.csv"), series="id", step="t", minimum_steps=5)
    raw = read_signals(settings.data, settings.columns)
    data = sequence_classifier.split_of(settings, raw, Run(tmp_path, findings=findings))
    said = " | ".join(f"{one} {one.examples}" for one in findings)
    for words in (
        "x is missing", "x is inf", "x is 'many', not a number", "comes behind", "others 1",
        "another label, split or group", "too large for float32", "t is 'soon', neither", "9 of 123",
        "steps must be 5 to 24, not 1", "no label", "are copies of another one",
    ):  # fmt: skip
        assert words in said, (words, said)
    places = [[one.place for one in split] for split in (data.train, data.validation, data.test)]
    assert sum(map(len, places)) == 112
    assert any({"bad.csv id s10", "bad.csv id copy"} <= set(split) for split in places)


def test_damaged_files_of_a_folder_have_a_fault(tmp_path: Path) -> None:
    """An empty one, one that claims more than it has, one of other channels, text: the others are read."""
    folder = tmp_path / "waves" / "slow"
    folder.mkdir(parents=True)
    np.save(folder / "good.npy", np.zeros((5, 2)))
    whole = (folder / "good.npy").read_bytes()
    (folder / "empty.npy").write_bytes(b"")
    (folder / "huge.npy").write_bytes(whole.replace(b"(5, 2), ", b"(99999999999999, 2), ", 1))
    (folder / "cut.npy").write_bytes(whole[:-8])
    np.save(folder / "deep.npy", np.zeros((2, 2, 2, 2)))
    (folder / "other.csv").write_text("no rows")
    raw = read_signals(str(tmp_path / "waves"), Columns())
    faults = {Path(one.place).name: bool(one.fault) for one in raw.signals}
    assert faults == {
        "good.npy": False, "empty.npy": True, "huge.npy": True, "cut.npy": True, "deep.npy": True,
        "other.csv": True,
    }  # fmt: skip
    np.save(folder / "three.npy", np.zeros((5, 3)))
    with pytest.raises(
        CallError, match=r"three.npy has the channels channel_0, channel_1, channel_2, others"
    ):
        read_signals(str(tmp_path / "waves"), Columns())


def test_groups_stay_in_one_split(tmp_path: Path) -> None:
    """As the recordings of one person do."""
    lines = write_csv(tmp_path / "waves.csv").read_text().splitlines()
    grouped = [lines[0] + ",person"]
    grouped += [f"{line},p{int(line.split(',')[0][1:]) // 6}" for line in lines[1:]]
    (tmp_path / "grouped.csv").write_text("\n".join(grouped))
    settings = Settings(data=str(tmp_path / "grouped.csv"), series="id", step="t", group="person")
    raw = read_signals(settings.data, settings.columns)
    data = sequence_classifier.split_of(settings, raw, Run(tmp_path))
    splits = [
        {int(one.place.rpartition("s")[2]) // 6 for one in split}
        for split in (data.train, data.validation, data.test)
    ]
    assert sum(map(len, splits)) == len(set().union(*splits)) == 20


@pytest.mark.parametrize(
    ("content", "settings", "words"),
    [
        ("id,x,label\na,1,b\n", {}, "name the column that says which signal it is of: series"),
        ("id,x,label\na,1,b\n", {"series": "who"}, "has no column 'who'; it has id, x, label"),
        ("id,x,label\na,1,b\n", {"series": "id", "channels": ["z"]}, "has no column 'z'"),
        ("id,label\na,b\n", {"series": "id"}, "no columns beside id, label that could be channels"),
        ("id,x,label\na,,b\n", {"series": "id"}, "none of 1 signals can be read; .*row 1: x is missing"),
        ("id,x,label\na,1,b\n", {"series": "id"}, "has the labels b; two at least are needed"),
        ("id,x,label\n", {"series": "id"}, "at least one row"),
    ],
)
def test_data_that_is_none_is_refused_by_name(
    tmp_path: Path, content: str, settings: dict[str, Any], words: str
) -> None:
    """With the columns that are there."""
    (tmp_path / "data.csv").write_text(content)
    with pytest.raises(CallError, match=words):
        sequence_classifier.train(Settings(data=str(tmp_path / "data.csv"), **settings), Run(tmp_path))


def test_arrays_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    """And folders and packages without signals."""
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "other": ({"a": np.zeros(3)}, r"has no signals \[N, steps, channels\]; it has a"),
        "labels": ({"signals": np.zeros((3, 4, 2))}, "3 signals need an array of as many labels: labels"),
        "text": ({"signals": np.array(["a"]), "labels": [1]}, "signals are numbers"),
        "lengths": (
            {"signals": np.zeros((2, 4)), "labels": [1, 2], "lengths": [5, 4]},
            "lengths must be 2 numbers from 0 to 4",
        ),
    }
    for name, (content, words) in cases.items():
        np.savez(tmp_path / f"{name}.npz", **content)
        with pytest.raises(CallError, match=words):
            read_signals(str(tmp_path / f"{name}.npz"), Columns())
    np.savez(tmp_path / "three.npz", signals=np.zeros((2, 4, 3)), labels=[1, 2])
    with pytest.raises(CallError, match="has 3 channels, and channels names 2; if channels come before"):
        read_signals(str(tmp_path / "three.npz"), Columns(channels=("a", "b")))
    for data, words in (
        ("nowhere", "no such file or folder"),
        (str(tmp_path / "empty"), "has no signals"),
        ("aeon:nothing", "has no such signals; it has|needs the package aeon"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(CallError, match=words):
            read_signals(data, Columns())


@pytest.mark.slow
def test_a_million_rows_take_the_memory_of_their_numbers(tmp_path: Path) -> None:
    """Not that of their text: less than 60 bytes for each row of three numbers."""
    path = tmp_path / "long.csv"
    with path.open("w") as file:
        file.write("id,t,x,y,z,label\n")
        file.writelines(f"s{row // 1000},{row % 1000},{row % 7}.5,0.25,1.125,a\n" for row in range(1_000_000))
    tracemalloc.start()
    raw = read_signals(str(path), TABLE)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(raw.signals) == 1000
    assert most < 60_000_000


@pytest.mark.slow
def test_japanese_vowels_reach_their_floor() -> None:
    """As docs/recipes/japanese-vowels.yaml has them; `marina bench series` measures three seeds."""
    if find_spec("aeon") is None:
        pytest.skip("pip install --no-deps aeon")
    found = measured("japanese-vowels", 0, {})
    assert found["metrics"]["accuracy"] >= 0.97
    assert found["beside"]["logistic regression on summaries"] > 0.95
