"""A small model to be tracked, and a tracker that keeps what it is told."""

import json
from pathlib import Path
from typing import Any

from marina.core import spec
from tests.support.table_models import as_csv
from training.tracking.tracker import Status, TrackedModel

TRAINING = {
    "recipe": "regressor",
    "target": "y",
    "columns": {"x": "number"},
    "hidden": [4],
    "epochs": 3,
    "learning_rate": 0.05,
    "compare": False,
}


class Recorded:
    """A tracker that keeps what it is told; `fails` names the method that raises."""

    key, title, place = "recorded", "Recorded", "here"

    def __init__(self, fails: str = "") -> None:
        self.fails, self.told = fails, list[tuple[Any, ...]]()

    def check(self) -> None:
        pass

    def start(self, model: TrackedModel, run_id: str | None) -> str:
        self._tell("start", model.name, run_id)
        return run_id or "new"

    def log_parameters(self, parameters: Any) -> None:
        self._tell("log_parameters", parameters["recipe"], parameters["epochs"])

    def log_facts(self, facts: Any) -> None:
        self._tell("log_facts", facts["fingerprint"][:4])

    def log_metrics(self, metrics: Any, step: int | None) -> None:
        self._tell("log_metrics", sorted(metrics), step)

    def log_report(self, files: Any) -> None:
        self._tell("log_report", sorted(files), all(file.is_file() for file in files.values()))

    def log_archive(self, model: TrackedModel, archive: Path, sha256: str) -> None:
        self._tell("log_archive", archive.name)

    def end(self, status: Status) -> None:
        self._tell("end", status)

    def register_release(self, model: TrackedModel, sha256: str) -> str:
        self._tell("register_release", model.version)
        return "registered"

    def _tell(self, name: str, *about: Any) -> None:
        if name == self.fails:
            raise ConnectionError("the server is gone\nand more")
        self.told.append((name, *about))

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [about for told, *about in self.told if told == name]  # type: ignore[misc]


def write_rows(home: Path) -> None:
    """Two columns, of which one says the other."""
    rows = [{"x": k % 17, "y": 3 * (k % 17) + 1} for k in range(120)]
    (home / "rows.csv").write_text(as_csv(*rows), encoding="utf-8")


def write(home: Path, floor: float = -100.0, **changes: Any) -> spec.Spec:
    (home / "models").mkdir(exist_ok=True)
    training = {**TRAINING, "data": str(home / "rows.csv"), **changes}
    text = f"# A toy.\nkind: regressor\ntraining: {json.dumps(training)}\nexport: {{runtimes: []}}\n"
    (home / "models" / "toy.yaml").write_text(f"{text}floor: {{r2: {floor}}}\n", encoding="utf-8")
    return spec.load("toy", home=home)
