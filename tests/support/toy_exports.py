"""Exports of toy policies, written as training would write them."""

from pathlib import Path

from marina.core import spec
from marina.core.spec import Spec
from tests.support.toy_policies import balance
from training.export.trained import Trained
from training.export.writer import export

SPEC = "# Pushes to where the pole falls.\nkind: policy\ntraining: {recipe: dqn}\nfloor: {mean_return: 50}\n"


def write_spec(home: Path, name: str = "balance", more: str = "", version: str = "1.0") -> Spec:
    """The toy's spec, in `home`."""
    (home / "models").mkdir(exist_ok=True)
    (home / "models" / f"{name}.yaml").write_text(f'{SPEC}version: "{version}"\n{more}', encoding="utf-8")
    return spec.load(name, home=home)


def export_toy(
    home: Path, name: str = "balance", more: str = "", trained: Trained | None = None, version: str = "1.0"
) -> Spec:
    """Write a spec and its export into `home`, as training would have left them."""
    one = write_spec(home, name, more, version)
    folder = one.export_dir.parent / ".making"
    (folder / "report").mkdir(parents=True)
    export(one, trained or balance(), folder)
    return one
