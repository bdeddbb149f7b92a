"""Compiled forms other than OpenVINO's: built if their tools are installed, rejected if their answers differ,
skipped if they can't run.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handlers.runtime.checksums import write_checksums
from handlers.runtime.export import Export
from handlers.runtime.machine import processor_instructions
from handlers.runtime.runtimes import TorchRuntime, arrays, load
from marina.core import spec
from marina.core.spec import Spec
from marina.evaluation import report
from marina.packaging import runtime_table as candidates
from tests.support.color_classifier import (
    STARTED,
    answers,
    calibrated,
    classifier,
    coloured,
    export_inputs,
    exported_classifier,
    started,
    table,
)
from tests.support.repository import ROOT
from tests.support.toy_exports import export_toy
from tests.support.toy_policies import balance
from training.export.runtimes import aotinductor_form, onnx_form, openvino_form
from training.export.runtimes.candidates import Candidate
from training.export.runtimes.choosing import _serving
from training.export.trained import spread

CPUINFO = (
    "processor\t: 0\nflags\t\t: fpu vme sse4_2 avx2 avx512f amx_int8 hypervisor\n\nprocessor\t: "
    "1\nflags\t\t: fpu\n"
)
ARM = "processor\t: 0\nFeatures\t: fp asimd sve bf16 paca\n"


def serve(one: Spec, **entry: Any) -> None:
    """Let an export's runtime.json name this as what serves."""
    path = one.export_dir / "runtime.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "serve": [entry]}))
    write_checksums(one.export_dir)


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An export with all candidates that need no compiler."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARINA_HOME", str(home))
        more = "export: {runtimes: [openvino, onnxruntime], precisions: [fp32, bf16, int8]}\n"
        yield exported_classifier(home, calibrated(classifier()), more)


def test_every_runtime_is_tried_in_every_precision_that_it_has(tried: Spec) -> None:
    rows = table(tried)

    wanted = [("torch", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8")]
    assert list(rows) == [*wanted, ("onnxruntime", "fp32"), ("onnxruntime", "int8")]
    assert rows["onnxruntime", "fp32"]["difference"] < 1e-4
    for runtime in ("openvino", "onnxruntime"):
        assert rows[runtime, "int8"]["milliseconds"] > 0
        assert rows[runtime, "int8"]["agreement"] > 0.8
        assert bool(rows[runtime, "int8"]["refused"]) == (rows[runtime, "int8"]["agreement"] < 0.99)


def test_only_the_files_of_what_serves_are_kept(tried: Spec) -> None:
    serving = json.loads((tried.export_dir / "runtime.json").read_text())["serve"]
    files = {path.name for path in tried.export_dir.iterdir() if path.suffix in (".onnx", ".xml", ".bin")}

    assert {entry["file"] for entry in serving} <= files
    assert {name.partition(".")[0] for name in files} == {
        entry["file"].partition(".")[0] for entry in serving
    }
    assert not (tried.export_dir / ".candidates").exists()


def test_what_a_machine_may_not_have_is_followed_by_what_it_has() -> None:
    def serving(*said: tuple[str, str, float]) -> list[str]:
        return [
            entry["file"]
            for entry in _serving(
                [(Candidate(*one, milliseconds_batch=1), {"file": f"{one[0]} {one[1]}"}) for one in said], 8
            )
        ]

    portable = ("torch", "fp32", 5.0)
    reduced, exact = ("openvino", "bf16", 2.0), ("openvino", "fp32", 3.0)
    assert serving(portable, exact, reduced) == ["openvino bf16"]
    assert serving(portable, exact, reduced, ("onnxruntime", "fp32", 2.5)) == ["openvino bf16"]
    assert serving(portable, exact, reduced, ("onnxruntime", "fp32", 1.0), ("onnxruntime", "int8", 1.5)) == [
        "onnxruntime fp32",
        "openvino bf16",
    ]
    assert serving(portable, ("openvino", "fp32", 5.5), ("aotinductor", "fp32", 1.0)) == [
        "aotinductor fp32",
        "openvino fp32",
    ]
    assert serving(portable, ("openvino", "fp32", 12.0)) == []


def test_the_table_says_what_serves_and_why_others_do_not(tried: Spec) -> None:
    rows = candidates.rows(tried)

    verdicts = {row[0]: row[-1] for row in rows}
    assert list(verdicts.values()).count("serves") == 1
    assert verdicts["torch fp32"] == "slower"
    page = report.page(tried)
    assert all(f"<td>{name}</td>" in page for name in verdicts)
    assert "ms at 8" in page


@pytest.mark.slow
def test_eight_bits_answer_any_batch_nearly_as_the_model_does(tried: Spec, tmp_path: Path) -> None:
    made = export_inputs(tried, calibrated(classifier()))
    batch = coloured(7, seed=5)
    expected = torch.softmax(made.trained.module(batch), 1).numpy()

    for form in (openvino_form, onnx_form):
        runtime = load(tmp_path, form.build(made, "int8", tmp_path), made.form)
        for size in (1, 7):
            found = torch.softmax(torch.from_numpy(runtime(batch[:size].numpy())), 1).numpy()
            np.testing.assert_allclose(found, expected[:size], atol=0.1)
        assert (runtime.precision, runtime(batch.numpy()).dtype) == ("int8", np.float32)


def test_the_ranges_of_eight_bits_are_measured_on_training_data_alone(home: Path) -> None:
    one = exported_classifier(home, more="export: {precisions: [int8]}\n")

    assert (
        table(one)["openvino", "int8"]["refused"]
        == "there is no training data to measure the ranges of eight bits on"
    )
    assert started(one).computing["precision"] == "fp32"


def test_a_missing_tool_is_told_with_what_installs_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nncf", "onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    more = "export: {runtimes: [openvino, onnxruntime], precisions: [fp32, int8]}\n"
    rows = table(exported_classifier(home, calibrated(classifier()), more))

    assert rows["openvino", "int8"]["refused"] == "nncf is not installed; run: pip install 'marina[int8]'"
    assert (
        rows["onnxruntime", "fp32"]["refused"]
        == "onnx and onnxscript are not installed; run: pip install 'marina[onnx]'"
    )
    assert not rows["openvino", "fp32"]["refused"]


def test_onnx_runtime_serves_what_the_trained_model_answers(home: Path) -> None:
    one = exported_classifier(home, more="export: {runtimes: [onnxruntime], precisions: [fp32]}\n")
    handler = started(one)
    portable = TorchRuntime.load(one.export_dir / "model.pt2")

    assert (handler.computing["runtime"], handler.computing["precision"]) == ("onnxruntime", "fp32")
    assert [answer["predictions"][0]["class"] for answer in answers(handler, one)] == ["red", "green", "blue"]
    for size in (1, 3, 64):
        batch = coloured(size, seed=size).numpy()
        np.testing.assert_allclose(handler.model(batch), portable(batch), rtol=1e-4, atol=1e-4)
    handler.model.set_threads(2)
    np.testing.assert_allclose(handler.model(batch), portable(batch), rtol=1e-4, atol=1e-4)


def test_worker_with_onnx_runtime_imports_neither_torch_nor_onnx(home: Path) -> None:
    """A worker with ONNX Runtime imports neither torch nor what made its file."""
    one = exported_classifier(home, more="export: {runtimes: [onnxruntime], precisions: [fp32]}\n")
    names = ("torch", "openvino", "onnx", "onnxscript")
    script = STARTED.format(kind="classifier", folder=str(one.export_dir), names=names)

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["onnxruntime"]


def test_a_policy_acts_through_onnx_runtime_as_it_was_trained(home: Path) -> None:
    one = export_toy(
        home, more="export: {runtimes: [onnxruntime], precisions: [fp32, int8]}\nserving: {batch_size: 4}\n"
    )
    handler = started(one)
    observations = torch.randn(9, 4)

    expected, found = arrays(balance().module(observations)), handler.model(observations.numpy())

    assert (
        table(one)["onnxruntime", "int8"]["refused"]
        == "a policy serves exactly as it was evaluated, in float32"
    )
    assert handler.computing["runtime"] == "onnxruntime"
    assert list(found) == ["action", "q_values"]
    assert np.array_equal(found["action"], expected["action"])
    np.testing.assert_allclose(found["q_values"], expected["q_values"], rtol=1e-5, atol=1e-6)


def test_where_onnx_runtime_is_not_installed_the_portable_program_serves(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = exported_classifier(home, more="export: {runtimes: [onnxruntime], precisions: [fp32]}\n")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    assert started(one).computing["runtime"] == "torch"


@pytest.mark.parametrize(
    ("needs", "why"),
    [
        ({"instructions": ["avx1024", "sse2"]}, "compiled for a processor with avx1024"),
        ({"torch": "1.13.0"}, "compiled by torch 1.13.0, and here is 2"),
    ],
)
def test_machine_code_of_another_machine_falls_back_to_the_program(
    home: Path, needs: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Machine code for another machine is refused, and the portable program serves."""
    one = exported_classifier(home, more="export: {runtimes: []}\n")
    serve(one, runtime="aotinductor", precision="fp32", file="aotinductor-fp32.pt2", needs=needs)

    assert started(one).computing["runtime"] == "torch"
    assert why in caplog.text


def test_a_processor_tells_its_instructions_as_linux_names_them(tmp_path: Path) -> None:
    (tmp_path / "x86").write_text(CPUINFO)
    (tmp_path / "arm").write_text(ARM)

    assert processor_instructions(tmp_path / "x86") >= {"sse4_2", "avx2", "avx512f", "amx_int8"}
    assert "hypervisor" not in processor_instructions(tmp_path / "x86")
    assert processor_instructions(tmp_path / "arm") == {"fp", "asimd", "sve", "bf16"}
    assert processor_instructions(tmp_path / "none") == set()


def test_without_a_compiler_machine_code_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    one = exported_classifier(home, more="export: {runtimes: [aotinductor]}\n")

    assert table(one)["aotinductor", "fp32"]["refused"].startswith(
        "there is no C++ compiler 'no-such-compiler'; install one"
    )


def test_calibration_takes_its_instances_from_the_whole_length() -> None:
    assert spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert spread(list(range(3)), 4) == [0, 1, 2]
    assert len(spread(torch.arange(1000))) <= 128


@pytest.mark.slow
def test_machine_code_answers_as_the_model_does(home: Path, tmp_path: Path) -> None:
    one, trained = exported_classifier(home, more="export: {runtimes: []}\n"), classifier()
    made, batch = export_inputs(one, trained), coloured(9, seed=5)
    expected = trained.module(batch).numpy()

    for precision, tolerance in (("fp32", 1e-4), ("bf16", 0.05)):
        entry = aotinductor_form.build(made, precision, tmp_path)
        runtime = load(tmp_path, entry, made.form)
        for size in (1, 9):
            np.testing.assert_allclose(
                runtime(batch[:size].numpy()), expected[:size], rtol=tolerance, atol=tolerance
            )
        assert set(entry["needs"]) == {"torch", "instructions"}


@pytest.mark.slow
def test_machine_code_serves_and_says_so(home: Path) -> None:
    one = exported_classifier(home, more="export: {runtimes: [aotinductor], precisions: [fp32]}\n")

    assert table(one)["aotinductor", "fp32"]["refused"] == ""
    assert started(one).computing["runtime"] == "aotinductor"
    assert len(answers(started(one), one)) == len(Export.open(one.export_dir).samples)


QUIET = """
import sys
sys.path.insert(0, {source!r})
from tests.support.color_classifier import calibrated, classifier, export_inputs, exported_classifier
from training.export.runtimes import openvino_form
from pathlib import Path
sys.modules.pop("pytest", None)  # with it NNCF wouldn't tell anyway
home = Path({home!r})
one = exported_classifier(home, classifier(), "export: {{runtimes: []}}\\n")
entry = openvino_form.build(export_inputs(one, calibrated(classifier())), "int8", home)
import nncf
print(type(nncf.telemetry.telemetry).__name__, entry["precision"])
"""


@pytest.mark.slow
def test_the_quantiser_tells_its_makers_nothing(home: Path) -> None:
    script = QUIET.format(source=str(ROOT), home=str(home))

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.split()[-2:] == ["MagicMock", "int8"]


def test_an_unknown_runtime_is_refused_with_the_known_ones(home: Path) -> None:
    (home / "models" / "colours.yaml").write_text(
        "# Names.\nkind: classifier\ntraining: {recipe: classifier}\nfloor: {accuracy: 0.5}\nexport: "
        "{runtimes: [onnx]}\n"
    )

    with pytest.raises(Exception, match="'openvino', 'onnxruntime' or 'aotinductor'"):
        spec.load("colours")
