"""Specs: how one is read, and how a wrong one is refused."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

from marina.core import spec
from marina.core.errors import CallError
from marina.core.spec import Section, validate
from training.train import settings_of

GOOD = (
    '# Reads one digit.\nversion: "1.2"\nkind: classifier\ntraining: {recipe: classifier, data: '
    "digits}\nfloor: {accuracy: 0.9}\n"
)


def write(home: Path, text: str, name: str = "own") -> None:
    (home / "models" / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_a_spec_takes_its_name_from_the_file_and_its_text_from_line_one(home: Path) -> None:
    write(home, GOOD)

    one = spec.load("own")

    assert (one.name, one.about, one.version) == ("own", "Reads one digit.", "1.2")
    assert one.archive_name == "own-1.2.mar"
    assert one.export_dir == home / "exports" / "own" / "1.2"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("floorr: {accuracy: 1}\n", ["floorr", "floor", "serving"]),
        ("serving: {batchsize: 4}\n", ["serving.batchsize", "batch_size"]),
        ("serving: {batch_size: many}\n", ["serving.batch_size", "integer", "many"]),
        ("serving: {workers: 3, max_workers: 2}\n", ["max_workers (2) is below workers (3)"]),
        ("serving: {max_batch_delay_ms: 0}\n", ["serving.max_batch_delay_ms", "greater than or equal to 1"]),
        ("samples: {held_out: 0}\n", ["no samples"]),
        ("samples: {requests: [{name: a, expect: {class: x}}]}\n", ["'a' needs either 'file' or 'json'"]),
        ("name: other\n", ["'name' is not written"]),
    ],
)
def test_a_wrong_spec_is_refused_with_its_file_the_key_and_the_choice(
    home: Path, change: str, words: list[str]
) -> None:
    write(home, GOOD + change)

    with pytest.raises(CallError) as caught:
        spec.load("own")

    assert all(word in str(caught.value) for word in ["own.yaml", *words]), str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.split("\n", 1)[1], "the first line must be a comment"),
        ("# a\n- list\n", "must be a mapping"),
        ("# a\n{broken", "is not YAML"),
        ("# a\nversion: 1.0\n", "version"),
    ],
)
def test_a_file_that_is_no_spec_says_what_it_should_be(home: Path, text: str, words: str) -> None:
    write(home, text)

    with pytest.raises(CallError, match=words):
        spec.load("own")


@pytest.mark.parametrize("name", ["../etc", "1st", "", "a b", "a" * 65])
def test_a_name_that_torchserve_or_a_path_would_trip_over_is_refused(home: Path, name: str) -> None:
    with pytest.raises(CallError, match="no model name"):
        spec.load(name)


def test_an_unknown_model_is_answered_with_the_known_ones(home: Path) -> None:
    write(home, GOOD, "first")

    with pytest.raises(CallError, match="known models: first"):
        spec.load("second")


def test_the_command_line_wins_over_the_spec(home: Path) -> None:
    write(home, GOOD)

    one = spec.load("own", {"training.epochs": 1, "serving.workers": 2, "floor.accuracy": 0.1})

    assert one.training.settings == {"data": "digits", "epochs": 1}
    assert (one.serving.workers, one.floor) == (2, {"accuracy": 0.1})


def test_an_override_below_a_value_is_refused(home: Path) -> None:
    write(home, GOOD)

    with pytest.raises(CallError, match="'kind' is a value, not a section"):
        spec.load("own", {"kind.deep": 1})


def test_all_of_torchserves_keys_are_set_from_the_spec(home: Path) -> None:
    write(home, GOOD + "serving: {workers: 2, batch_size: 4, max_batch_delay_ms: 3}\n")

    config = spec.load("own").serving.model_config_yaml()

    assert (config["minWorkers"], config["maxWorkers"], config["batchSize"], config["maxBatchDelay"]) == (
        2,
        2,
        4,
        3,
    )
    assert {
        "responseTimeout",
        "startupTimeout",
        "clientTimeoutInMills",
        "jobQueueSize",
        "maxRetryTimeoutInSec",
    } <= config.keys()


@pytest.mark.parametrize("name", spec.names())
def test_specs_of_the_repository_are_valid_with_recipe_settings(name: str) -> None:
    """Every spec of the repository is valid down to its recipe's settings."""
    assert settings_of(spec.load(name))


def test_unknown_recipe_setting_is_refused_with_the_known_ones(home: Path) -> None:
    """A setting that the recipe does not know is refused with those that it knows."""
    write(home, GOOD.replace("data: digits", "data: digits, epoch: 3"))

    with pytest.raises(CallError, match=r"unknown key 'epoch'; known here: .*epochs"):
        settings_of(spec.load("own"))


class Older(Section):
    renamed: ClassVar = {"steps": "total_timesteps"}

    total_timesteps: int = 1


class Newer(Older):
    renamed: ClassVar = {"clip": "clip_range"}

    clip_range: float = 0.2
    parts: tuple[Older, ...] = ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"clip": 1}, "here: 'clip' is now called 'clip_range'"),
        ({"steps": 1}, "here: 'steps' is now called 'total_timesteps'"),
        ({"parts": [{"steps": 1}]}, "here: 'parts.0.steps' is now called 'total_timesteps'"),
    ],
)
def test_a_renamed_key_is_refused_with_its_new_name(content: dict[str, Any], message: str) -> None:
    with pytest.raises(CallError) as caught:
        validate(Newer, content, "here")

    assert str(caught.value) == message


def test_an_unknown_recipe_is_answered_with_the_known_ones(home: Path) -> None:
    write(home, GOOD.replace("recipe: classifier", "recipe: magic"))

    with pytest.raises(CallError, match=r"no 'magic'; known: .*classifier, detector, dqn"):
        settings_of(spec.load("own"))
