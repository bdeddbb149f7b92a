"""The command `marina import` for picture models: the kind is found, a spec is written, floors hold."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from marina import cli
from marina.core import spec
from marina.core.console import Output
from marina.core.errors import BelowFloor, CallError
from marina.pipeline import importing
from training.imports.sources import origin
from training.train import settings_of


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("torchvision:resnet18", "classifier"),
        ("fcos_resnet50_fpn", "detector"),
        ("fasterrcnn_resnet50_fpn", "detector"),
        ("timm:resnet10t", "classifier"),
        ("model.pt2", "classifier"),
    ],
)
def test_the_kind_is_found_by_looking(source: str, kind: str) -> None:
    assert importing.detect_kind(source, {}, trust_pickle=False) == kind


def test_kind_is_found_in_a_users_function_and_in_a_saved_policy(
    own: Callable[[str], str], tmp_path: Path
) -> None:
    """The kind is found in a user's own function and in a saved policy."""
    with zipfile.ZipFile(tmp_path / "policy.zip", "w") as archive:
        archive.writestr("policy.pth", b"")

    assert importing.detect_kind(own("ssd"), {}, trust_pickle=False) == "detector"
    assert importing.detect_kind(own("brightest"), {}, trust_pickle=False) == "classifier"
    assert importing.detect_kind(str(tmp_path / "policy.zip"), {}, trust_pickle=False) == "policy"
    with pytest.raises(CallError, match="neither a classifier nor a detector"):
        importing.detect_kind("deeplabv3_resnet50", {}, trust_pickle=False)
    with pytest.raises(CallError, match=r"policy.zip doesn't say where it learned; .*training.environment="):
        importing.make_spec("pole", {"source": str(tmp_path / "policy.zip")}, None, {}, trust_pickle=False)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("resnet18", "torchvision"),
        ("timm:vit_tiny_patch16_224.augreg_in21k", "timm"),
        ("~/a b/net.py:build", "factory"),
        ("package.module:build", "factory"),
        ("x.pt2", "program"),
        ("x.pth", "pickle"),
    ],
)
def test_a_source_says_what_it_is(source: str, expected: str) -> None:
    assert origin(source).kind == expected


def run(*words: str) -> Any:
    return CliRunner().invoke(cli.app, ["import", *words])


def test_import_writes_a_spec_that_the_next_import_reuses(own: Callable[[str], str], home: Path) -> None:
    """The command writes a spec, which the next import uses and leaves unchanged."""
    first = run(
        "colours",
        "--from",
        own("brightest"),
        "--set",
        "training.image_size=32",
        "--set",
        "serving.workers=2",
        "--json",
    )
    path = home / "models" / "colours.yaml"
    text = path.read_text()
    second = run("colours", "--from", own("brightest"), "--set", "training.mean=[0.5]", "--json")

    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert text.startswith("# Imported from own.py:brightest.\n")
    assert yaml.safe_load(text)["training"] == {
        "recipe": "imported_classifier",
        "source": own("brightest"),
        "image_size": 32,
    }
    assert yaml.safe_load(text)["serving"] == {"workers": 2}
    assert path.read_text() == text
    assert json.loads(second.stdout.splitlines()[-1])["ok"] is True
    assert spec.load("colours").is_exported
    metadata = json.loads((spec.load("colours").export_dir / "model_metadata.json").read_text())
    assert (metadata["training"]["mean"], metadata["training"]["image_size"], metadata["floor"]) == (
        [0.5],
        32,
        {},
    )


def test_an_import_that_fails_leaves_no_spec_behind(own: Callable[[str], str], home: Path) -> None:
    done = run("colours", "--from", own("with_a_tuple"))

    assert done.exit_code == 2
    assert list((home / "models").iterdir()) == []


def test_an_import_never_takes_the_place_of_a_model_that_is_trained(home: Path) -> None:
    text = "# Reads.\nkind: classifier\ntraining: {recipe: classifier}\nfloor: {accuracy: 0.9}\n"
    (home / "models" / "digits.yaml").write_text(text)

    with pytest.raises(
        CallError, match="is there already, a classifier of the recipe classifier; choose another name"
    ):
        importing.make_spec("digits", {"source": "resnet18"}, None, {}, trust_pickle=False)

    assert (home / "models" / "digits.yaml").read_text() == text


def test_only_an_import_may_do_without_a_floor(home: Path) -> None:
    (home / "models" / "own.yaml").write_text("# Reads.\nkind: classifier\ntraining: {recipe: classifier}\n")
    (home / "models" / "brought.yaml").write_text(
        "# Reads.\nkind: classifier\ntraining: {recipe: imported_classifier, source: resnet18}\n"
    )

    assert spec.load("brought").floor == {}
    with pytest.raises(CallError, match=r"floor: .*write at least one metric"):
        settings_of(spec.load("own"))


def test_a_floor_holds_for_imports_too(own: Callable[[str], str], home: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "2").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "data" / "2" / "0.png")
    given = {"source": own("brightest"), "data": str(tmp_path / "data")}
    one, _ = importing.make_spec(
        "colours", given, None, {"training.image_size": 32, "floor.accuracy": 0.5}, trust_pickle=False
    )

    with pytest.raises(BelowFloor, match=r"accuracy 0 is below the floor 0.5"):
        importing.import_and_export(one, trust_pickle=False, output=Output(as_json=True))


def test_a_file_is_written_into_the_spec_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.py").write_text("")
    monkeypatch.chdir(tmp_path)

    assert importing.absolute("net.py:build") == f"{tmp_path}/net.py:build"
    assert importing.absolute("net.py") == f"{tmp_path}/net.py"
    assert importing.absolute("torchvision:resnet18") == "torchvision:resnet18"
    assert importing.absolute("IMAGENET1K_V1") == "IMAGENET1K_V1"
