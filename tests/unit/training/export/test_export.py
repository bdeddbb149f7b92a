"""The export: what it writes, and what it refuses to write."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from handlers.runtime.checksums import verify_checksums
from marina.core import paths
from marina.core.errors import BelowFloor, CallError, ParityError, WorkError
from marina.core.spec import Spec
from tests.support.toy_exports import write_spec
from tests.support.toy_policies import balance
from training.export.staging import remove_leftovers, staging_folder
from training.export.trained import Sample


def test_an_export_is_complete_checksummed_and_without_pickles(exported: Callable[..., Spec]) -> None:
    folder = exported().export_dir

    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    assert {
        "model.pt2",
        "model_metadata.json",
        "preprocess_config.json",
        "postprocess_config.json",
        "SHA256SUMS",
    } <= names
    assert {"samples/samples.json", "samples/step-0.json"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".pth"))]
    assert verify_checksums(folder) == len(names) - 1


def test_the_exported_program_takes_any_batch_and_equals_the_model(exported: Callable[..., Spec]) -> None:
    folder = exported().export_dir
    program, model = torch.export.load(folder / "model.pt2").module(), balance().module

    for size in (1, 2, 7, 64):
        batch = torch.randn(size, 4)
        torch.testing.assert_close(program(batch), model(batch))


def test_below_the_floor_nothing_is_exported(exported: Callable[..., Spec], home: Path) -> None:
    """Below the floor nothing is exported, and the message says by how much."""
    with pytest.raises(BelowFloor, match=r"mean_return 12 is below the floor 50 by 38; nothing was exported"):
        exported(trained=balance(mean_return=12.0))

    assert not (home / "exports" / "balance" / "1.0").exists()


def test_a_metric_that_is_not_a_number_is_below_every_floor(exported: Callable[..., Spec]) -> None:
    with pytest.raises(BelowFloor):
        exported(trained=balance(mean_return=float("nan")))


def test_a_floor_of_an_unknown_metric_is_refused_with_the_known_ones(exported: Callable[..., Spec]) -> None:
    trained = balance()
    trained.metrics = {"accuracy": 1.0}

    with pytest.raises(CallError, match="no metric 'mean_return'; this recipe measures accuracy"):
        exported(trained=trained)


def test_a_sample_that_the_model_answers_otherwise_stops_the_export(exported: Callable[..., Spec]) -> None:
    trained = balance()
    trained.samples = [Sample("step-0", trained.samples[0].body, "application/json", {"action": 0})]

    with pytest.raises(WorkError, match="sample 'step-0' is answered wrongly: action 1 instead of 0"):
        exported(trained=trained)


def test_requests_of_the_spec_become_golden_samples(
    exported: Callable[..., Spec],
) -> None:
    """Requests of the spec become golden samples with the model's own answers."""
    more = (
        "samples: {held_out: 1, requests: [{name: own, json: {observation: [0, 0, -1, 0]}, expect: "
        "{action: 0}}]}\n"
    )

    folder = exported(more=more).export_dir

    index = json.loads((folder / "samples" / "samples.json").read_text())
    assert [(entry["name"], entry["answer"]["action"]) for entry in index] == [("step-0", 1), ("own", 0)]


def test_a_sample_file_that_is_missing_is_named(exported: Callable[..., Spec]) -> None:
    with pytest.raises(CallError, match=r"sample 'own': no file .*gone.png"):
        exported(more="samples: {requests: [{name: own, file: gone.png, expect: {action: 0}}]}\n")


class Drifting(torch.nn.Module):
    """A model whose graph is not what it does in Python: it counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, observations: torch.Tensor) -> dict[str, torch.Tensor]:
        self.calls += 1
        values = observations[:, :2] + self.calls
        return {"action": values.argmax(dim=1), "q_values": values}


def test_graph_that_differs_from_its_model_is_refused(
    exported: Callable[..., Spec],
) -> None:
    """A graph that differs from its model is refused with the difference."""
    trained = balance()
    trained.module = Drifting().eval()
    trained.samples = [Sample("step-0", b'{"observation": [0, 1, 0, 0]}', "application/json", {"action": 1})]

    with pytest.raises(ParityError, match=r"at batch \d+ the exported graph is off by"):
        exported(trained=trained)


def test_a_new_export_takes_the_place_of_the_old_one(exported: Callable[..., Spec], home: Path) -> None:
    one = exported()
    (one.export_dir / "left-over").write_text("")

    exported(trained=balance(mean_return=77.0))

    metadata = json.loads((one.export_dir / "model_metadata.json").read_text())
    assert metadata["metrics"] == {"mean_return": 77.0}
    assert [path.name for path in one.export_dir.parent.iterdir()] == ["1.0"]
    assert not (one.export_dir / "left-over").exists()


def test_program_stores_only_the_rows_of_its_example(
    exported: Callable[..., Spec],
) -> None:
    """The program stores the rows of its example, not the whole tensor that they are a view of."""
    trained = balance()
    trained.example = (torch.zeros(500_000, 4)[:3],)

    one = exported(trained=trained)

    assert (one.export_dir / "model.pt2").stat().st_size < 200_000


def test_what_a_killed_export_left_is_removed(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = write_spec(home)
    place = spec.export_dir.parent
    left, own = place / ".1.0-abcd1234", place / "2.0"
    for folder in (left, own):
        (folder / "report").mkdir(parents=True)
    (left / "SHA256SUMS").write_text("")

    with caplog.at_level(logging.WARNING), staging_folder(spec) as folder:
        assert sorted(path.name for path in place.iterdir()) == sorted(["2.0", folder.name])
        assert remove_leftovers(place) == []  # that of a living process
    assert "balance: removed what a killed export left: .1.0-abcd1234" in caplog.text
    assert [path.name for path in place.iterdir()] == ["2.0"]


@pytest.mark.parametrize(("there", "names"), [(True, ["1.0"]), (False, ["1.0"])])
def test_an_export_that_was_moved_away_returns_to_its_place(
    tmp_path: Path, there: bool, names: list[str]
) -> None:
    """A process killed between two renames leaves the old export set aside, perhaps with no new one."""
    for name in (".1.0-abcd1234", ".1.0-abcd1234.old", *(["1.0"] if there else [])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)

    remove_leftovers(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == names
    assert (tmp_path / "1.0" / "name").read_text() == ("1.0" if there else ".1.0-abcd1234.old")


def test_a_process_that_was_killed_is_told_from_one_that_lives(home: Path) -> None:
    spec = write_spec(home)
    script = (
        "import sys, time; from marina.core import spec; from training.export.staging import staging_folder\n"
    )
    script += (
        "with staging_folder(spec.load('balance')) as folder: print(folder.name, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=paths.SOURCE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert remove_leftovers(spec.export_dir.parent) == []
        process.kill()

    assert remove_leftovers(spec.export_dir.parent) == [name]
