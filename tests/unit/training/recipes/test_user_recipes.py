"""Recipes, networks and environments of a user's own project, named in a spec and found in its home."""

import json
import sys
from pathlib import Path

import pytest

from marina.core import spec
from marina.core.errors import CallError
from training import recipes
from training.policies.envs import make as environments
from training.policies.envs.vectorize import make_vec
from training.train import settings_of, train

NEAREST_MEAN = """
import torch
from handlers.inputs.images import ImageInput
from marina.core.spec import Section
from training import data
from training.export.trained import Sample, Trained
from training.vision.classification.inputs import pixels
from distance import squared


class Settings(Section):
    size: int = 16


class NearestMean(torch.nn.Module):
    def __init__(self, means):
        super().__init__()
        self.register_buffer("means", means)

    def forward(self, images):
        return -squared(images.float().flatten(1) / 255, self.means)


def train(settings, run):
    digits = data.load_images("digits", run.seed)
    config = ImageInput(settings.size, settings.size, mode="L", fit="ink")
    images, labels = pixels(digits.train, config).tensors
    flat = images.float().flatten(1) / 255
    model = NearestMean(torch.stack([flat[labels == label].mean(0) for label in range(10)])).eval()
    images, labels = pixels(digits.test, config).tensors
    right = model(images).argmax(1) == labels
    samples = {}
    for row in right.nonzero()[:, 0].tolist():
        name = f"digit-{labels[row]}"
        samples[name] = Sample(name, *digits.test[row].encoded(), {"class": digits.classes[labels[row]]})
    (run.report / "means.txt").write_text("a picture per class")
    return Trained(
        kind="classifier",
        module=model,
        example=(images[:4],),
        metrics={"accuracy": float(right.float().mean())},
        preprocess=config.as_config(),
        postprocess={"type": "classification", "top_k": 3},
        samples=list(samples.values()),
        data=digits.about(),
        classes=list(digits.classes),
    )
"""
DISTANCE = "def squared(rows, means):\n    return (rows[:, None] - means).square().sum(2)\n"
SPEC = "# Reads digits by their means.\nkind: classifier\ntraining: {recipe: %s}\nfloor: {accuracy: %s}\n"


def written(home: Path, recipe: str, floor: float = 0.5) -> spec.Spec:
    (home / "models" / "means.yaml").write_text(SPEC % (recipe, floor))
    return spec.load("means")


@pytest.fixture
def project(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a recipe in a file and in a package."""
    for name in ("distance", "ours", "ours.means"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (home / "ours").mkdir()
    (home / "ours" / "means.py").write_text(NEAREST_MEAN)
    (home / "my_recipe.py").write_text(NEAREST_MEAN)
    (home / "distance.py").write_text(DISTANCE)
    return home


@pytest.mark.parametrize("recipe", ["my_recipe.py", "ours.means"])
def test_a_recipe_of_ones_own_is_trained_and_exported(recipe: str, project: Path) -> None:
    before = list(sys.path)

    folder = train(written(project, recipe))

    assert sys.path == before
    metadata = json.loads((folder / "model_metadata.json").read_text())
    assert metadata["metrics"]["accuracy"] > 0.7
    assert metadata["training"]["size"] == 16
    assert (folder / "SHA256SUMS").is_file()
    assert (folder / "report" / "means.txt").is_file()


def test_its_settings_are_checked_like_those_of_the_built_in_ones(project: Path) -> None:
    one = written(project, "my_recipe.py, sizes: 3")

    with pytest.raises(CallError, match="unknown key 'sizes'; known here: size"):
        settings_of(one)


def test_a_floor_is_asked_of_it(project: Path) -> None:
    (project / "models" / "means.yaml").write_text(
        "# Reads.\nkind: classifier\ntraining: {recipe: my_recipe.py}\n"
    )

    with pytest.raises(CallError, match="floor: write at least one metric"):
        settings_of(spec.load("means"))


@pytest.mark.parametrize(
    ("recipe", "content", "message"),
    [
        ("absent.py", None, "'absent.py': no such file in"),
        ("absent.recipe", None, "no module 'absent'"),
        ("empty.py", "", r"empty.py has no class Settings\(marina.core.spec.Section\)"),
        (
            "half.py",
            "from marina.core.spec import Section\nclass Settings(Section): pass\n",
            "no function train",
        ),
        ("broken.py", "one = 1\n1 / 0\n", r"broken.py raised ZeroDivisionError at .*broken.py:2"),
        ("lacking.py", "import no_such_package\n", "lacking.py raised ModuleNotFoundError .*no_such_package"),
    ],
)
def test_what_is_no_recipe_is_refused(recipe: str, content: str | None, message: str, home: Path) -> None:
    if content is not None:
        (home / recipe).write_text(content)

    with pytest.raises(CallError, match=message):
        settings_of(written(home, recipe))


def test_something_else_than_a_trained_model_is_refused(home: Path) -> None:
    (home / "odd.py").write_text(
        "from marina.core.spec import Section\nclass Settings(Section): pass\ndef train(settings, run): "
        "return 3\n"
    )

    with pytest.raises(CallError, match=r"odd.py: train gave a int, not a Trained"):
        train(written(home, "odd.py"))


def test_only_some_recipes_learn_on_several_devices(home: Path) -> None:
    one = written(home, "video_classifier")

    with pytest.raises(CallError, match="learns on one device; classifier and detector and segmenter learn"):
        train(one, devices=2)


def test_imports_say_so_themselves() -> None:
    imports = [name for name in recipes.names() if recipes.load(name).is_import]

    kinds = ["classifier", "detector", "embedder", "generator", "policy", "regressor"]
    kinds += ["tabular_classifier", "tensor"]
    assert imports == [f"imported_{kind}" for kind in kinds]


NETWORK = """
from torch import nn

def build(classes, channels):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, classes),
    )

def endless(classes, channels):
    return nn.Conv2d(channels, classes, 1)
"""


def test_a_network_of_ones_own_learns(home: Path) -> None:
    (home / "network.py").write_text(NETWORK)
    (home / "models" / "own.yaml").write_text(
        "# Reads digits.\nkind: classifier\ntraining: {recipe: classifier, architecture: 'network.py:build', "
        "epochs: 6, learning_rate: 0.01}\nfloor: {accuracy: 0.5}\n"
    )

    folder = train(spec.load("own"))

    assert json.loads((folder / "model_metadata.json").read_text())["metrics"]["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("network.py:built", "no function 'built'; it has build, endless"),
        ("network.py:endless", "must end in an nn.Linear with 10 outputs"),
        ("absent.py:build", "'absent.py': no such file"),
    ],
)
def test_a_network_that_is_none_is_refused(architecture: str, message: str, home: Path) -> None:
    (home / "network.py").write_text(NETWORK)
    (home / "models" / "own.yaml").write_text(
        f"# Reads.\nkind: classifier\ntraining: {{recipe: classifier, architecture: '{architecture}'}}\n"
        "floor: {accuracy: 0.5}\n"
    )

    with pytest.raises(CallError, match=message):
        train(spec.load("own"))


ENVIRONMENT = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

gymnasium.register("Short-v0", entry_point=CartPoleEnv, max_episode_steps=7, reward_threshold=6.5)
"""


def test_an_environment_of_ones_own_is_found_by_its_module(home: Path) -> None:
    (home / "short_poles.py").write_text(ENVIRONMENT)
    before = list(sys.path)

    env = environments.make("short_poles:Short-v0")
    vector = make_vec("short_poles:Short-v0", 2)

    assert env.spec is not None
    assert env.spec.max_episode_steps == 7
    assert vector.num_envs == 2
    assert environments.spec_of("short_poles:Short-v0").reward_threshold == 6.5
    assert sys.path == before


def test_a_policy_learns_in_an_environment_of_ones_own(home: Path) -> None:
    (home / "shorter_poles.py").write_text(ENVIRONMENT.replace("Short", "Shorter"))
    (home / "models" / "poles.yaml").write_text(
        "# Balances.\nkind: policy\ntraining: {recipe: ppo, environment: 'shorter_poles:Shorter-v0'}\n"
        "floor: {mean_return: 6.5}\n"
    )

    folder = train(spec.load("poles"))

    assert json.loads((folder / "model_metadata.json").read_text())["metrics"]["mean_return"] == 7
