"""Every command on every kind: it works, or the error says why it can't."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from marina import engines
from marina.core import kinds, spec
from marina.core.console import Output
from marina.engines import server_process
from marina.packaging import archive
from marina.pipeline import steps
from tests.support import generators, series_models, signal_models, sound_models, table_models, tagged_data
from tests.support.text_models import TEXTS
from tests.support.toy_kinds import TOYS, clip, picture
from training.export.writer import export

pytestmark = pytest.mark.slow

SPEC = (
    '# A toy.\nkind: {kind}\nversion: "{version}"\ntraining: {{recipe: {recipe}}}\nfloor: {{accuracy: 0.9}}\n'
)
SPEC += "service_level: {{p95_ms: 5000}}\n"
RECIPES = {"policy": "dqn", "tensor": "imported_tensor", "generator": "sequence_to_sequence"}
ROW = ("row.json", json.dumps(table_models.ROW).encode())
BODIES = {
    "audio_classifier": ("tone.wav", sound_models.file_of(sound_models.tone("low"))),
    "tagger": ("text.txt", tagged_data.TEXT.encode()),
    "generator": ("text.txt", generators.TEXT.encode()),
    "embedder": ("text.txt", TEXTS["light"].encode()),
    "forecaster": ("series.json", json.dumps(series_models.REQUEST).encode()),
    "sequence_classifier": ("signal.json", json.dumps({"signal": signal_models.SIGNAL}).encode()),
    "regressor": ROW,
    "tabular_classifier": ROW,
    "policy": ("step.json", b'{"observation": [0, 0, 0.1, 0.2]}'),
    "tensor": ("plant.json", b'{"position": [1, 2, 3], "history": [[0, 0, 1, 0]]}'),
    "text_classifier": ("text.txt", TEXTS["light"].encode()),
    "video_classifier": ("clip.gif", clip("light")),
}
NO_PICTURE = "only answers about pictures can be drawn"
NO_EXPLANATION = "has no explanations"
ONLY_POLICIES = "only policies play"
NO_PICTURES = (
    *("forecaster", "policy", "regressor", "sequence_classifier", "tabular_classifier", "tensor"),
    *("embedder", "generator", "tagger", "text_classifier"),
)
# command -> kind -> what it says where it can't; nothing for a command that works
TABLE: dict[str, dict[str, str]] = {
    "ready NAME": {},
    "predict NAME FILE": {},
    "predict NAME FILE --draw drawn.png": dict.fromkeys(NO_PICTURES, NO_PICTURE),
    "explain NAME FILE": dict.fromkeys(("detector", "segmenter", "video_classifier"), NO_EXPLANATION),
    "evaluate NAME --episodes 3": {kind: "doesn't name its data" for kind in TOYS if kind != "policy"},
    "play NAME": {kind: ONLY_POLICIES for kind in TOYS if kind != "policy"},
    "openapi NAME": {},
    "report NAME": {},
    "loadtest NAME --users 2 --seconds 2": {},
    "history NAME": {},
    "release NAME --version 1.1": {},
    "rollback NAME": {},
}


@dataclass
class Served:
    """A project with a toy of every kind, in two versions, and a server of its own."""

    home: Path
    port: int

    def run(self, *words: str) -> tuple[int, dict[str, Any], str]:
        """Exit code, the object that the command prints last, and what it says on stderr."""
        served = [] if words[0] in ("openapi", "report", "history") else ["--port-base", str(self.port)]
        command = [sys.executable, "-m", "marina", *words, *served, "--json"]
        environment = {**os.environ, "MARINA_HOME": str(self.home)}
        done = subprocess.run(
            command, cwd=self.home, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, default_engine: str) -> Iterator[Served]:
    """All kinds, registered in their first version; the second lies in the store."""
    home = tmp_path_factory.mktemp("kinds")
    (home / "models").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARINA_HOME", str(home))
        for version in ("1.1", "1.0"):
            models = [packed(home, kind, version) for kind in TOYS]
        port = server_process.free_port_base()
        with steps.serving(models, port, Output(as_json=True), engines.get(default_engine)):
            yield Served(home, port)


def packed(home: Path, kind: str, version: str) -> spec.Spec:
    """The archive of one toy; a model is called like its kind."""
    recipe = RECIPES.get(kind, kind)
    text = SPEC.format(kind=kind, version=version, recipe=recipe)
    (home / "models" / f"{kind}.yaml").write_text(text, encoding="utf-8")
    name, body = BODIES.get(kind, ("picture.png", picture("light")))
    (home / f"{kind}-{name}").write_bytes(body)
    model = spec.load(kind, home=home)
    folder = model.export_dir.parent / f".making-{version}"
    (folder / "report").mkdir(parents=True)
    export(model, TOYS[kind](), folder)
    archive.build(model)
    return model


def test_there_is_a_toy_of_every_kind() -> None:
    """A new built-in kind comes into the table."""
    assert set(TOYS) == set(kinds.names())


@pytest.mark.parametrize("kind", TOYS)
def test_every_command_works_or_says_why_not(served: Served, kind: str) -> None:
    """No command ends in a traceback, whatever the kind."""
    file = f"{kind}-{BODIES.get(kind, ('picture.png',))[0]}"
    wrong = []
    for command, refusals in TABLE.items():
        words = [{"NAME": kind, "FILE": file}.get(word, word) for word in command.split()]
        code, result, errors = served.run(*words)
        expected = refusals.get(kind, "")
        right = code in (1, 2) and expected in result.get("error", "") if expected else code == 0
        if not right or "Traceback" in errors:
            wrong.append(f"{command}: {code} {str(result)[:300]} {errors[-500:]}")

    assert wrong == []
