"""Archives: self-contained, reproducible, complete; the built-in ones load as TorchServe loads them."""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from handlers.runtime.golden import difference
from marina.core import paths
from marina.core.errors import CallError, WorkError
from marina.core.spec import Spec, names, parse
from marina.packaging import archive, stock_check


@pytest.mark.parametrize("name", names())
def test_built_in_archive_loads_in_a_stock_environment(
    built_in: list[Spec], name: str, tmp_path: Path
) -> None:
    """A built-in archive loads where only TorchServe, torch and torchvision are installed."""
    (one,) = [spec for spec in built_in if spec.name == name]
    with zipfile.ZipFile(paths.model_store() / one.archive_name) as packed:
        packed.extractall(tmp_path)

    told = stock_check.load(stock_check.environment(paths.find_home()), tmp_path)

    assert {"torchserve", "torch", "torchvision"} <= set(told["packages"])
    assert not {"marina", "pydantic", "typer", "lightning", "gymnasium", "requests"} & set(told["packages"])
    assert told["foreign"] == []
    assert len(told["modules"]) > 4
    assert all(Path(file).is_relative_to(tmp_path) for file in told["modules"].values())
    assert len(told["golden"]) == one.samples.held_out
    assert not any(
        difference(golden, answer) for golden, answer in zip(told["golden"], told["answers"], strict=True)
    )


def test_an_archive_that_needs_more_than_that_is_told_what_it_lacks(
    exported: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = stock_check.environment(paths.SOURCE)
    one = exported()
    built = archive.build(one)
    needy = contents(built.path)
    errors = "handlers_balance_1_0/protocol/errors.py"
    needy[errors] = b"import pydantic\n" + needy[errors]
    with zipfile.ZipFile(built.path, "w") as packed:
        for name, content in needy.items():
            packed.writestr(name, content)
    monkeypatch.setattr(stock_check, "environment", lambda _: repository)

    with pytest.raises(WorkError, match="No module named 'pydantic'"):
        stock_check.check(one)


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def test_archive_build_is_reproducible(
    exported: Callable[..., Spec],
) -> None:
    """Two builds of one export are equal byte for byte, and the second writes nothing."""
    one = exported()
    first = archive.build(one)
    kept = first.path.read_bytes()
    first.path.unlink()
    os.utime(one.export_dir / "model.pt2", (0, 10**9))

    second = archive.build(one)

    assert second.path.read_bytes() == kept
    assert (first.changed, second.changed, archive.build(one).changed) == (True, True, False)


def test_an_archive_holds_program_samples_handlers_spec_and_all_settings(
    exported: Callable[..., Spec],
) -> None:
    one = exported(more="serving: {workers: 2, batch_size: 4}\n")

    packed = contents(archive.build(one).path)

    assert {
        "model.pt2",
        "samples/samples.json",
        "policy_handler.py",
        "handlers_balance_1_0/kinds/policy.py",
        "spec.yaml",
        "SHA256SUMS",
    } <= packed.keys()
    assert yaml.safe_load(packed["model-config.yaml"]) == one.serving.model_config_yaml()
    assert parse(packed["spec.yaml"].decode(), "balance", "spec.yaml") == one
    manifest = json.loads(packed["MAR-INF/MANIFEST.json"])["model"]
    assert (manifest["modelName"], manifest["modelVersion"], manifest["handler"]) == (
        "balance",
        "1.0",
        "policy_handler.py",
    )
    assert not [name for name in packed if name.endswith(".pyc") or name.startswith("report")]


def test_the_checksums_inside_and_beside_an_archive_are_right(exported: Callable[..., Spec]) -> None:
    built = archive.build(exported())
    packed = contents(built.path)

    listed = dict(line.split("  ")[::-1] for line in packed["SHA256SUMS"].decode().splitlines())

    assert listed.keys() == {
        name for name in packed if name != "SHA256SUMS" and not name.startswith("MAR-INF")
    }
    assert all(hashlib.sha256(packed[name]).hexdigest() == digest for name, digest in listed.items())
    beside = built.path.with_name(built.path.name + ".sha256").read_text()
    assert beside == f"{hashlib.sha256(built.path.read_bytes()).hexdigest()}  balance-1.0.mar\n"


def test_builds_of_one_model_at_the_same_time_do_not_disturb_each_other(
    exported: Callable[..., Spec],
) -> None:
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

    done = subprocess.run(
        [paths.SOURCE / "archive.sh", "balance"], check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert "balance-1.0.mar (built" in done.stdout.replace("\n", "")
    assert (home / "model_store" / "balance-1.0.mar").is_file()


def test_every_key_that_torchserve_knows_is_written(exported: Callable[..., Spec]) -> None:
    """The keys are the setters of the server's own class; the two that are left out are explained in
    `Serving`.
    """
    jar = Path(importlib.util.find_spec("ts").origin).parent / "frontend" / "model-server.jar"
    with zipfile.ZipFile(jar) as classes:
        setters = re.findall(
            rb"\x00.set([A-Z][A-Za-z]+)",
            classes.read("org/pytorch/serve/archive/model/ModelConfig.class"),
            re.DOTALL,
        )
    known = {f"{setter[:1].lower()}{setter[1:]}" for setter in (name.decode() for name in setters)}
    known = (known - {"parallelMode"}) | {"parallelType"}

    written = exported().serving.model_config_yaml().keys()

    assert {"minWorkers", "useVenv", "maxNumSequence"} <= known
    assert known - written == {"deviceIds"}
    assert written - known == {"handler"}


def test_the_spec_inside_an_archive_is_read_whatever_the_folder_says_now(
    exported: Callable[..., Spec], home: Path
) -> None:
    one = exported(more="service_level: {p95_ms: 77}\n")
    archive.build(one)
    (home / "models" / "balance.yaml").unlink()

    assert archive.spec_of("balance", "1.0") == one
    with pytest.raises(CallError, match=r"in the store: balance-1\.0"):
        archive.spec_of("balance", "1.1")
