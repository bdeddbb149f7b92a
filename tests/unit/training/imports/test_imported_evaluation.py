"""`marina evaluate` of an imported model gives the import's own figure again, in every layout of its data."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from marina.core import kinds
from marina.core.console import Output
from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.evaluation.measurement import in_process
from marina.kinds.kind import Measurement, MeasurementOptions
from marina.pipeline import importing, steps

COLORS = {"red": (250, 60, 0), "green": (60, 250, 0), "blue": (0, 60, 250), "rose": (250, 60, 90)}


def picture(path: Path, color: str, side: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, 30), COLORS[color]).save(path)


def labels(folder: Path, *, by_index: bool = False) -> None:
    """The fourth picture has the wrong class."""
    truth = {"a.png": "red", "b.png": "green", "c.png": "blue", "d.png": "green"}
    for name, color in zip(truth, ("red", "green", "blue", "rose"), strict=True):
        picture(folder / name, color)
    order = ["red", "green", "blue"]
    (folder / "labels.json").write_text(
        json.dumps({name: order.index(label) if by_index else label for name, label in truth.items()})
    )


def unsplit(folder: Path) -> None:
    for name, shown in {"red": "red", "green": "green", "blue": "red"}.items():
        picture(folder / name / "a.png", shown)


def part(folder: Path) -> None:
    """Two of three classes, 0.75 of them right."""
    for name, shown in {"red": ("red", "rose"), "blue": ("blue", "green")}.items():
        for index, color in enumerate(shown):
            picture(folder / name / f"{index}.png", color)


def split(folder: Path) -> None:
    for name in ("red", "green", "blue"):
        picture(folder / "train" / name / "a.png", "red")
        picture(folder / "test" / name / "b.png", "green" if name == "blue" else name, 50)


LAYOUTS: dict[str, tuple[Callable[[Path], None], float]] = {
    "labels": (labels, 0.75),
    "indices": (lambda folder: labels(folder, by_index=True), 0.75),
    "unsplit": (unsplit, 2 / 3),
    "part": (part, 0.75),
    "split": (split, 2 / 3),
}


@pytest.fixture
def imported(own: Callable[[str], str], home: Path) -> Callable[[Path], Spec]:
    def make(data: Path) -> Spec:
        (home / "names.txt").write_text("red\ngreen\nblue\n")
        settings = {"source": own("brightest"), "data": str(data), "classes": str(home / "names.txt")}
        overrides = {"training.image_size": 32, "export.runtimes": []}
        spec, _ = importing.make_spec("colors", settings, None, overrides, trust_pickle=False)
        importing.import_and_export(spec, trust_pickle=False, output=Output(as_json=True))
        importing.write_spec(spec)
        return spec

    return make


def measure(spec: Spec, data: str | None = None) -> tuple[float, Measurement]:
    measurement = kinds.get(spec.kind).measurement(spec, MeasurementOptions(data))
    measured = measurement.run(in_process(spec), lambda rows: rows, is_endpoint=False)
    return measured.metrics["accuracy"], measurement


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_imports_own_figure_is_measured_again(
    layout: str, imported: Callable[[Path], Spec], tmp_path: Path
) -> None:
    write, expected = LAYOUTS[layout]
    write(tmp_path / "data")

    spec = imported(tmp_path / "data")

    assert steps.export_metrics(spec)["accuracy"] == pytest.approx(expected)
    for data in (None, str(tmp_path / "data")):
        accuracy, measurement = measure(spec, data)
        assert accuracy == pytest.approx(expected)
        assert measurement.is_recorded


def test_other_data_is_measured_whole_and_beside_nothing(
    imported: Callable[[Path], Spec], tmp_path: Path
) -> None:
    labels(tmp_path / "data")
    part(tmp_path / "other")

    accuracy, measurement = measure(imported(tmp_path / "data"), str(tmp_path / "other"))

    assert accuracy == 0.75
    assert not measurement.is_recorded


def test_a_class_that_the_model_doesnt_know_is_named(
    imported: Callable[[Path], Spec], tmp_path: Path
) -> None:
    labels(tmp_path / "data")
    picture(tmp_path / "other" / "violet" / "a.png", "rose")
    spec = imported(tmp_path / "data")

    with pytest.raises(CallError, match="the data has the class 'violet'; colors knows red, green, blue"):
        measure(spec, str(tmp_path / "other"))
