"""The documentation is correct: the README's steps run as written, and every spec in the docs is valid."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from marina.core import kinds, paths, spec
from marina.engines import server_process as server
from training.train import settings_of

README = (paths.SOURCE / "README.md").read_text(encoding="utf-8")
GUIDE = (paths.SOURCE / "docs" / "guide" / "add-a-model.md").read_text(encoding="utf-8")
IMPORT = (paths.SOURCE / "docs" / "guide" / "import-a-model.md").read_text(encoding="utf-8")


def test_the_readmes_path_runs_from_top_to_bottom_as_written(home: Path) -> None:
    path = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)[0]
    shutil.copy(paths.SOURCE / "models" / "cartpole.yaml", home / "models")
    port = server.free_port_base()
    environment = {**os.environ, "MARINA_PORT_BASE": str(port)}

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", path],
        check=False,
        capture_output=True,
        text=True,
        cwd=paths.SOURCE,
        env=environment,
        timeout=600,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r'\{"action":1,"q_values":\[', done.stdout)
    assert re.search(r"mean_return │ +[45]\d\d", done.stdout)
    assert "requests/s" in done.stdout
    assert server.read_state(port) is None
    assert not server.was_started(port)


@pytest.mark.parametrize(
    "block",
    re.findall(r"`models/(\w+\.yaml)`:\n\n```yaml\n(.*?)```", GUIDE, re.DOTALL),
    ids=lambda block: block[0],
)
def test_every_spec_of_the_guide_is_valid_down_to_its_recipes_settings(
    home: Path, block: tuple[str, str]
) -> None:
    name, text = block
    (home / "models" / name).write_text(text)

    one = spec.load(Path(name).stem)

    assert settings_of(one)


def test_the_guide_shows_a_spec_of_every_kind() -> None:
    pages = [page.read_text(encoding="utf-8") for page in (paths.SOURCE / "docs" / "guide").glob("*.md")]

    shown = {kind for page in pages for kind in re.findall(r"^kind: (\w+)", page, re.MULTILINE)}

    assert set(kinds.names()) <= shown


def test_every_command_that_the_documents_name_exists() -> None:
    import typer

    from marina import cli

    known = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    named = {word for text in (README, GUIDE, IMPORT) for word in re.findall(r"marina ([a-z]+)\b", text)}

    assert named - {"up"} <= known.keys()
    assert len(named) > 8
