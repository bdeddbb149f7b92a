"""`marina search`: trials by validation alone, resumed, pruned, and written into a spec of their own."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from marina import cli
from marina.core.errors import CallError
from marina.core.spec import load, parse
from marina.search import best_spec
from training.vision.classification import inputs

pytest.importorskip("optuna", reason="comes with the extra search")
study = import_module("marina.search.study")

ROWS = """# A number from a row.
kind: regressor

training:
  recipe: regressor
  data: sklearn:diabetes   # bundled
  epochs: 3

search:
  space:
    learning_rate: {low: 1e-3, high: 1e-1, log: true}
    hidden: [[8], [16, 8]]
    dropout: {low: 0, high: 0.5}
    batch_size: {low: 16, high: 64, step: 16}

floor:
  r2: 0.2   # of the test rows
"""


@pytest.fixture
def project(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (home / "models").mkdir(exist_ok=True)
    (home / "models" / "sugar.yaml").write_text(ROWS)
    monkeypatch.chdir(home)
    return home


def marina(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli.app, list(words))
    assert done.exit_code == code, done.output
    return done.output


def test_a_search_is_resumed_and_its_best_is_a_spec(project: Path) -> None:
    marina("search", "sugar", "--trials", "3")
    output = marina("search", "sugar", "--trials", "6")
    written = (project / "models" / "sugar-best.yaml").read_text()
    found = study.open_study(load("sugar"))
    trials, best = found.trials, load("sugar-best")

    assert "3 trials of this search are there already" in output
    assert len(trials) == 6
    assert best.training.settings == {
        **load("sugar").training.settings,
        **study.settings_of(found.best_trial, load("sugar").search.space),
    }
    assert "# bundled" in written
    assert "# of the test rows" in written
    assert not best.search.space
    assert len({str(trial.params) for trial in trials}) == 6


def test_the_page_shows_history_importance_and_settings(project: Path) -> None:
    marina("search", "sugar", "--trials", "6", "--out", "page.html")
    page = (project / "page.html").read_text()

    assert [page.count(f"<b>{title}.</b>") for title in ("History", "Importance", "Settings and values")] == [
        1
    ] * 3
    assert page.count("data:image/png") == 3
    assert "<script" not in page


def folder_of_pictures(folder: Path, of_test: int) -> None:
    """Bright and dark pictures; those of the test are drawn from the seed `of_test`."""
    for split, count in (("train", 12), ("val", 8), ("test", 8)):
        for number in range(count):
            rng = np.random.default_rng((of_test if split == "test" else 0, number))
            values = rng.integers(0, 200, (24, 24, 3), np.uint8)
            values += np.uint8(50 * (number % 2))
            place = folder / split / ("dark", "bright")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(place / f"{number}.png")


def test_the_test_split_is_never_seen(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture of it is prepared, and with other pictures there the same trials come out."""
    prepared: list[str] = []
    whole = inputs.picture

    def spy(example: Any, config: Any) -> Any:
        prepared.append(Path(str(example.image)).parts[-3])
        return whole(example, config)

    monkeypatch.setattr(inputs, "picture", spy)
    outcomes = []
    for seed in (1, 2):
        folder_of_pictures(tmp_path / str(seed), seed)
        text = f"""# Dark or bright.
kind: classifier
training: {{recipe: classifier, data: {tmp_path / str(seed)}, image_size: 16, epochs: 2, batch_size: 4}}
search:
  metric: validation_loss
  space: {{learning_rate: {{low: 1e-4, high: 1e-1, log: true}}, label_smoothing: [0.0, 0.1]}}
floor: {{accuracy: 0.5}}
"""
        spec = parse(text, f"bright{seed}", "bright").moved(home)
        found = study.open_study(spec)
        study.run_trials(spec, found, 3, print)
        outcomes.append([(trial.params, trial.value, trial.intermediate_values) for trial in found.trials])

    assert set(prepared) == {"train", "val"}
    assert outcomes[0] == outcomes[1]
    assert all(value is not None for _, value, _ in outcomes[0])


def test_settings_that_are_refused_together_are_pruned(project: Path) -> None:
    text = ROWS.replace("    dropout: {low: 0, high: 0.5}\n", "    momentum: [null, 0.5]\n")
    (project / "models" / "sugar.yaml").write_text(text)
    marina("search", "sugar", "--trials", "6")
    trials = study.open_study(load("sugar")).trials
    refused = [trial for trial in trials if trial.params["momentum"] == "0.5"]

    assert refused
    assert all(trial.state.name == "PRUNED" for trial in refused)
    assert all("momentum is of" in trial.user_attrs["refused"] for trial in refused)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("    hidden:", "    hiden:"), "no setting 'hiden'"),
        (("[[8], [16, 8]]", "[[8]]"), "at least two"),
        (("{low: 0, high: 0.5}", "{low: 1, high: 0.5}"), "low must be below high"),
        (("epochs: 3", "epochs: -3"), "training: epochs: "),
        (("search:\n", "search:\n  metric: accuracy\n"), "no 'accuracy' in an epoch's row"),
        ((ROWS[ROWS.index("search:") : ROWS.index("floor:")], ""), "no search.space"),
    ],
)
def test_a_space_that_can_not_be_searched_is_refused(
    change: tuple[str, str], reason: str, project: Path
) -> None:
    (project / "models" / "sugar.yaml").write_text(ROWS.replace(*change))

    assert reason in " ".join(marina("search", "sugar", "--trials", "2", code=2).split())


def test_a_spec_of_ones_own_is_not_overwritten(project: Path) -> None:
    own = project / "models" / "sugar-best.yaml"
    own.write_text(ROWS)
    marina("search", "sugar", "--trials", "2", code=2)

    assert own.read_text() == ROWS
    with pytest.raises(CallError, match="a spec of their own"):
        best_spec.place(load("sugar"), "sugar")


def test_a_recipe_without_epochs_on_examples_is_refused(project: Path) -> None:
    text = """# A grid.
kind: policy
training: {recipe: tabular_policy, environment: FrozenLake-v1, method: value_iteration}
search: {space: {gamma: {low: 0.5, high: 0.99}}}
floor: {mean_return: 0.0}
"""
    (project / "models" / "grid.yaml").write_text(text)

    assert "no epochs on labeled examples" in marina("search", "grid", code=2)


@pytest.mark.slow
def test_processes_share_a_search(project: Path) -> None:
    marina("search", "sugar", "--trials", "6", "--processes", "2")
    trials = study.open_study(load("sugar")).trials

    assert 6 <= len(trials) <= 7
    assert (project / "models" / "sugar-best.yaml").is_file()
