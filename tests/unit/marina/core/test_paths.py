"""Where a project is found."""

from pathlib import Path

import pytest

from marina.core import paths, spec
from marina.core.errors import CallError
from tests.support.toy_exports import write_spec


def test_a_project_is_found_from_inside_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest folder upwards from the working directory that holds models/."""
    monkeypatch.delenv("MARINA_HOME", raising=False)
    inside = tmp_path / "data" / "pictures"
    inside.mkdir(parents=True)
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(inside)

    assert paths.find_home() == tmp_path
    assert paths.model_store() == tmp_path / "model_store"


def test_the_variable_counts_before_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARINA_HOME", str(tmp_path / "other"))

    assert paths.find_home() == tmp_path / "other"


def test_outside_of_every_project_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MARINA_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    if any((folder / "models").exists() for folder in tmp_path.parents):
        pytest.skip("the temporary folder lies in a project")

    with pytest.raises(CallError, match=r"no project in .*marina init"):
        spec.names()


def test_a_spec_keeps_the_project_that_it_was_read_from(home: Path, tmp_path: Path) -> None:
    """What is derived from it, an override included, stays there; `moved` takes it elsewhere."""
    other = tmp_path / "elsewhere"
    other.mkdir()
    write_spec(other)

    loaded = spec.load("balance", {"version": "2.0"}, other)

    assert loaded.export_dir == other / "exports" / "balance" / "2.0"
    assert loaded.model_copy(update={"version": "3.0"}).archive_path.parent == other / "model_store"
    assert loaded.moved(home).archive_path == home / "model_store" / "balance-2.0.mar"


def test_own_code_sets_no_variable_of_its_own_process() -> None:
    """`MARINA_HOME` is read in one place; children get it in the environment that they are started with."""
    assigned = []
    for folder in ("marina", "training", "handlers", "benchmarks"):
        for file in (paths.SOURCE / folder).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            if 'environ["MARINA_HOME"]' in text or 'environ.get("MARINA_HOME")' in text:
                assigned.append(file.relative_to(paths.SOURCE).as_posix())

    assert assigned == ["marina/core/paths.py"]
