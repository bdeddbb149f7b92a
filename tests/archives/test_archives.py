"""Archives: self-contained, reproducible, complete; the built-in ones load as TorchServe loads them."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from marina import archive, paths
from marina.errors import CallError, WorkError
from marina.spec import Spec, names

# What TorchServe's worker does: its own loader, the unpacked archive first on the path, nothing of the repository.
LOAD = """
import json, sys
from pathlib import Path
folder, repository = sys.argv[1:]
sys.path = [folder] + [entry for entry in sys.path if Path(entry or ".").resolve() != Path(repository).resolve()]
from ts.context import RequestProcessor
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.model_loader import ModelLoaderFactory
manifest = json.loads(Path(folder, "MAR-INF/MANIFEST.json").read_text())["model"]
service = ModelLoaderFactory.get_model_loader().load(manifest["modelName"], folder, manifest["handler"], None, 4, None, True, None)
sample = json.loads(Path(folder, "samples/samples.json").read_text())[0]
context = service.context
context.request_ids, context.request_processor = {0: "a"}, [RequestProcessor({})]
(body,) = service._entry_point([{"body": Path(folder, "samples", sample["file"]).read_bytes()}], context)
handler = manifest["handler"].removesuffix(".py")
ours = {name: module.__file__ for name, module in sys.modules.items() if name.startswith("bundle_") or name == handler}
foreign = [name for name in ("marina", "training", "handlers") if name in sys.modules]
print(json.dumps({"answer": json.loads(body), "expected": sample["answer"], "files": ours, "foreign": foreign}))
"""


@pytest.mark.parametrize("name", names())
def test_a_built_in_archive_loads_in_a_fresh_process_from_its_own_files_alone(built_in: list[Spec], name: str, tmp_path: Path) -> None:
    (one,) = [spec for spec in built_in if spec.name == name]
    with zipfile.ZipFile(paths.model_store() / one.archive_name) as packed:
        packed.extractall(tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path), str(paths.SOURCE)],
        check=False,
        capture_output=True,
        text=True,
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["answer"].keys() == told["expected"].keys()
    assert told["foreign"] == []
    assert len(told["files"]) > 4
    assert {str(Path(file).parent) for file in told["files"].values()} == {str(tmp_path)}


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def test_two_builds_of_one_export_are_equal_byte_for_byte_and_the_second_changes_nothing(exported: Callable[..., Spec]) -> None:
    one = exported()
    first = archive.build(one)
    kept = first.path.read_bytes()
    first.path.unlink()
    os.utime(one.export_dir / "model.pt2", (0, 10**9))

    second = archive.build(one)

    assert second.path.read_bytes() == kept
    assert (first.changed, second.changed, archive.build(one).changed) == (True, True, False)


def test_an_archive_holds_program_samples_handlers_spec_and_all_settings(exported: Callable[..., Spec]) -> None:
    one = exported(more="serving: {workers: 2, batch_size: 4}\n")

    packed = contents(archive.build(one).path)

    assert {"model.pt2", "samples/samples.json", "policy_handler.py", "bundle_handler.py", "spec.yaml", "SHA256SUMS"} <= packed.keys()
    assert yaml.safe_load(packed["model-config.yaml"]) == one.serving.model_config_yaml()
    assert packed["spec.yaml"] == (paths.models() / "balance.yaml").read_bytes()
    manifest = json.loads(packed["MAR-INF/MANIFEST.json"])["model"]
    assert (manifest["modelName"], manifest["modelVersion"], manifest["handler"]) == ("balance", "1.0", "policy_handler.py")
    assert not [name for name in packed if name.endswith(".pyc") or name.startswith("report")]


def test_the_checksums_inside_and_beside_an_archive_are_right(exported: Callable[..., Spec]) -> None:
    built = archive.build(exported())
    packed = contents(built.path)

    listed = dict(line.split("  ")[::-1] for line in packed["SHA256SUMS"].decode().splitlines())

    assert listed.keys() == {name for name in packed if name != "SHA256SUMS" and not name.startswith("MAR-INF")}
    assert all(hashlib.sha256(packed[name]).hexdigest() == digest for name, digest in listed.items())
    beside = built.path.with_name(built.path.name + ".sha256").read_text()
    assert beside == f"{hashlib.sha256(built.path.read_bytes()).hexdigest()}  balance-1.0.mar\n"


def test_builds_of_one_model_at_the_same_time_do_not_disturb_each_other(exported: Callable[..., Spec]) -> None:
    one = exported()

    with ThreadPoolExecutor(4) as pool:
        digests = {built.sha256 for built in pool.map(lambda _: archive.build(one), range(4))}

    assert len(digests) == 1


def test_a_folder_with_the_models_name_in_the_temporary_folder_survives(
    exported: Callable[..., Spec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "scratch" / "balance" / "thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("years of work")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr("tempfile.tempdir", None)

    archive.build(exported())

    assert precious.read_text() == "years of work"
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["balance"]


def test_a_damaged_export_is_not_packed_and_the_file_is_named(exported: Callable[..., Spec]) -> None:
    one = exported()
    with (one.export_dir / "model.pt2").open("ab") as program:
        program.write(b"x")

    with pytest.raises(WorkError, match=r"model.pt2 was changed"):
        archive.build(one)


def test_without_an_export_the_command_that_makes_one_is_named(exported: Callable[..., Spec]) -> None:
    one = exported()
    (one.export_dir / "SHA256SUMS").unlink()

    with pytest.raises(CallError, match="run: marina train balance"):
        archive.build(one)


def test_the_script_packs_what_it_is_asked_for(exported: Callable[..., Spec], home: Path) -> None:
    exported()

    done = subprocess.run([paths.SOURCE / "archive.sh", "balance"], check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "balance-1.0.mar (built" in done.stdout.replace("\n", "")
    assert (home / "model_store" / "balance-1.0.mar").is_file()
