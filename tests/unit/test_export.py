"""The export: what it writes, and what it refuses to write."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from marina.errors import BelowFloor, CallError, ParityError, WorkError
from marina.spec import Spec
from tests.toy_policies import balance
from training.trained import Sample

from bundle_checksums import verify_checksums


def test_an_export_is_complete_checksummed_and_without_pickles(exported: Callable[..., Spec]) -> None:
    folder = exported().export_dir

    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    assert {"model.pt2", "model_metadata.json", "preprocess_config.json", "postprocess_config.json", "SHA256SUMS"} <= names
    assert {"samples/samples.json", "samples/step-0.json"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".pth"))]
    assert verify_checksums(folder) == len(names) - 1


def test_the_exported_program_takes_any_batch_and_equals_the_model(exported: Callable[..., Spec]) -> None:
    folder = exported().export_dir
    program, model = torch.export.load(folder / "model.pt2").module(), balance().module

    for size in (1, 2, 7, 64):
        batch = torch.randn(size, 4)
        torch.testing.assert_close(program(batch), model(batch))


def test_below_the_floor_nothing_is_exported_and_the_message_says_by_how_much(exported: Callable[..., Spec], home: Path) -> None:
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


def test_requests_of_the_spec_become_golden_samples_with_the_models_own_answers(exported: Callable[..., Spec]) -> None:
    more = "samples: {held_out: 1, requests: [{name: own, json: {observation: [0, 0, -1, 0]}, expect: {action: 0}}]}\n"

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


def test_a_graph_that_differs_from_its_model_is_refused_with_the_difference(exported: Callable[..., Spec]) -> None:
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


def test_the_program_holds_the_rows_of_its_example_and_not_all_that_they_are_a_part_of(exported: Callable[..., Spec]) -> None:
    trained = balance()
    trained.example = (torch.zeros(500_000, 4)[:3],)

    one = exported(trained=trained)

    assert (one.export_dir / "model.pt2").stat().st_size < 200_000
