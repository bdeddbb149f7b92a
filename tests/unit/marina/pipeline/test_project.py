"""`marina init`: what a new project holds, and what it refuses."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from marina import cli
from marina.core import paths, spec


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the working directory."""
    monkeypatch.delenv("MARINA_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_project_is_complete_and_its_example_can_be_read(folder: Path) -> None:
    done = CliRunner().invoke(cli.app, ["init", "--json"])

    assert done.exit_code == 0
    assert json.loads(done.stdout.splitlines()[-1])["project"] == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "Makefile", "README.md", "models"]
    assert paths.find_home() == folder
    assert [spec.load(name).kind for name in spec.names()] == ["policy"]


def test_it_says_what_it_made_and_what_comes_next(folder: Path) -> None:
    done = CliRunner().invoke(cli.app, ["init", "my models"])

    assert (folder / "my models" / "Makefile").is_file()
    assert "made models/cartpole.yaml, Makefile" in done.output
    assert "my models' && marina up" in " ".join(done.output.split())


@pytest.mark.parametrize("file", ["Makefile", "models/cartpole.yaml"])
def test_a_folder_where_it_would_overwrite_is_refused_whole(folder: Path, file: str) -> None:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text("mine")

    done = CliRunner().invoke(cli.app, ["init"])

    assert done.exit_code == 2
    assert f"has {file} already" in " ".join(done.output.split())
    assert (folder / file).read_text() == "mine"
    assert not (folder / "README.md").exists()
