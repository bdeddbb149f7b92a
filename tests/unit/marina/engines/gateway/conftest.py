"""Archives that are built once for all files here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from marina.engines.gateway.served_model import ServedModel
from marina.packaging import archive
from tests.support.gateways import load
from tests.support.homes import project_home
from tests.support.toy_exports import export_toy


@pytest.fixture(scope="session")
def balance_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a toy policy."""
    with project_home(tmp_path_factory) as home:
        return archive.build(export_toy(home)).path


@pytest.fixture(scope="module")
def balance(balance_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    """The toy policy, loaded into this process."""
    model = load(balance_archive, tmp_path_factory.mktemp("served") / "balance")
    yield model
    model.close()
