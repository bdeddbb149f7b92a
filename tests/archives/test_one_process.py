"""Archives of several versions in one process: each runs its own handlers."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers.runtime.predictor import Predictor
from marina.core.errors import CallError
from marina.core.spec import Spec
from marina.packaging import archive
from marina.packaging.handler_package import load_predictor

HANDLER = """
from handlers.kinds.policy import PolicyPredictor


class Signed(PolicyPredictor):
    def postprocess(self, outputs, prepared):
        return [{**answer, "signed": "second"} for answer in super().postprocess(outputs, prepared)]


PREDICTOR = Signed
"""
ROW = ({"body": {"observation": [0.0, 0.0, 0.1, 0.2]}}, {})


def loaded(spec: Spec, folder: Path) -> Predictor:
    """The predictor of the archive of `spec`, unpacked into `folder`, ready to answer."""
    with zipfile.ZipFile(archive.build(spec).path) as packed:
        packed.extractall(folder)
    predictor = load_predictor(folder)
    predictor.start(folder, {})
    return predictor


def test_two_versions_answer_in_one_process(
    exported: Callable[..., Spec], home: Path, tmp_path: Path
) -> None:
    """Two versions whose handlers differ answer differently, side by side, and share no module."""
    (home / "second.py").write_text(HANDLER, encoding="utf-8")

    first = loaded(exported(), tmp_path / "first")
    second = loaded(exported(version="1.1", more="handler: second.py\n"), tmp_path / "second")

    (old,), (new,) = (predictor.answer_rows([ROW]) for predictor in (first, second))
    assert new == {**old, "signed": "second"}
    assert (type(first).__module__, type(second).__module__) == (
        "handlers_balance_1_0.kinds.policy",
        "handlers_balance_1_1.custom",
    )
    assert first.answer_rows([ROW]) == [old]


def test_errors_of_two_versions_are_of_two_classes(exported: Callable[..., Spec], tmp_path: Path) -> None:
    """What one archive raises is no error of another's modules, nor of this process's."""
    predictors = [loaded(exported(version=one), tmp_path / one) for one in ("1.0", "1.1")]

    errors = [predictor.answer_rows([({"body": b"{"}, {})])[0] for predictor in predictors]

    assert [type(error).__name__ for error in errors] == ["BadRequest", "BadRequest"]
    assert type(errors[0]) is not type(errors[1])


def test_an_archive_of_flat_handlers_is_named(tmp_path: Path) -> None:
    """An archive from before handlers were a package can't be loaded into a process, and says so."""
    (tmp_path / "policy_handler.py").write_text("", encoding="utf-8")

    with pytest.raises(CallError, match="built by an earlier Marina"):
        load_predictor(tmp_path)


def test_a_handler_that_is_not_there_is_named(exported: Callable[..., Spec], home: Path) -> None:
    """A spec's own handler must lie in the project."""
    (home / "second.py").write_text(HANDLER, encoding="utf-8")
    spec = exported(more="handler: second.py\n")
    (home / "second.py").unlink()

    with pytest.raises(CallError, match=r"no file .*second\.py"):
        archive.build(spec)
