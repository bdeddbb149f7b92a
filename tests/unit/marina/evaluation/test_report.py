"""The page about an export: whole, in one file, for every kind."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from handlers.runtime.checksums import write_checksums
from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.evaluation import report
from training.runs.environment import write_provenance
from training.runs.run import Run
from training.vision.classification.learner import Learner, fit
from training.vision.classification.settings import ClassifierSettings

VOID = {"meta", "img", "br"}


class Tags(HTMLParser):
    """Refuses tags that don't close in order, and keeps every address and the text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(content)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_page_of_every_kind_is_self_contained(built_in: list[Spec]) -> None:
    """The page of every kind is complete and loads nothing from elsewhere."""
    for one in built_in:
        content = report.page(one)
        page = Tags(content)
        metrics = json.loads((one.export_dir / "model_metadata.json").read_text())["metrics"]

        assert len(page.addresses) >= len(list((one.export_dir / "report").glob("*.png"))) > 0
        assert all(address.startswith("data:image/") for address in page.addresses)
        assert not re.search(r"<script|@import|url\(|https?://", content.split("<main>")[0])
        assert all(name.replace("_", " ") in page.text for name in metrics)
        assert all(
            digest in page.text
            for digest in re.findall(r"^[0-9a-f]{64}", (one.export_dir / "SHA256SUMS").read_text(), re.M)
        )


def test_what_others_wrote_is_shown_and_not_run(exported: Callable[..., Spec]) -> None:
    one = exported()
    folder = one.export_dir
    said = json.loads((folder / "model_metadata.json").read_text())
    said["about"] = said["data"]["source"] = "<script>alert(1)</script> & more"
    (folder / "model_metadata.json").write_text(json.dumps(said))
    (folder / "report" / "classes.json").write_text(json.dumps([{"class": "<b>", "f1": 0.5, "pictures": 12}]))
    write_checksums(folder)

    content = report.page(one)

    assert "<script" not in content
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in content
    assert "<td>&lt;b&gt;</td><td class=number>0.500</td><td class=number>12</td>" in content


def test_a_floor_that_is_missed_is_marked(exported: Callable[..., Spec]) -> None:
    one = exported()
    said = json.loads((one.export_dir / "model_metadata.json").read_text())
    said["metrics"]["mean_return"] = 40.0
    (one.export_dir / "model_metadata.json").write_text(json.dumps(said))
    write_checksums(one.export_dir)

    assert '<div class="floor missed">✗ 10 below the floor 50</div>' in report.page(one)


def test_without_an_export_it_says_what_to_run(exported: Callable[..., Spec]) -> None:
    one = exported()
    (one.export_dir / "SHA256SUMS").unlink()

    with pytest.raises(CallError, match="run: marina train balance"):
        report.page(one)


def test_a_run_leaves_its_history_its_spec_and_its_machine(
    exported: Callable[..., Spec], tmp_path: Path
) -> None:
    one = exported()
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(12, 4), torch.arange(12) % 2)
    learner = Learner(torch.nn.Linear(4, 2), [], ClassifierSettings(epochs=3, batch_size=4))
    run = Run(tmp_path)
    fit(learner, data, data, run)
    write_provenance(one, run)

    assert json.loads((tmp_path / "history.json").read_text()) == learner.history
    assert "kind: policy" in (tmp_path / "spec.yaml").read_text()
    machine = json.loads((tmp_path / "environment.json").read_text())
    assert (machine["torch"], machine["processes"]) == (version("torch"), 1)


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    data = TensorDataset(torch.randn(12, 4), torch.arange(12) % 2)
    learner = Learner(torch.nn.Linear(4, 2), [], ClassifierSettings(epochs=3, batch_size=4))
    fit(learner, data, data, Run(tmp_path))

    read = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in read.Scalars("loss/validation")]
    assert found == [
        (epoch, pytest.approx(row["validation_loss"])) for epoch, row in enumerate(learner.history, 1)
    ]
