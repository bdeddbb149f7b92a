"""Temperatures and decisions: fitted as in the papers, served as they were measured."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.inputs.images import Opened
from handlers.kinds.classifier import ClassifierPredictor
from handlers.kinds.decision import Decision, ranked
from handlers.protocol.requests import Prepared
from handlers.runtime.export import Export
from handlers.runtime.runtimes import TorchRuntime
from marina.core.errors import CallError
from marina.core.spec import validate
from training.recipes.classifier import Settings
from training.vision.classification import networks
from training.vision.classification.calibration import calibration_error, fit_decision, fit_temperature


def drawn(scale: float, count: int = 4000, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are `scale` times what the labels were drawn from, so that this is their temperature."""
    source = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, classes, generator=source)
    labels = torch.multinomial(logits.softmax(1), 1, generator=source)[:, 0]
    return scale * logits, labels


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_made_logits_too_sure_or_too_shy(scale: float) -> None:
    logits, labels = drawn(scale)

    assert fit_temperature(logits, labels) == pytest.approx(scale, rel=0.1)


def test_the_temperature_brings_the_calibration_error_down() -> None:
    logits, labels = drawn(3.0)
    after = (logits / fit_temperature(logits, labels)).softmax(1)

    assert calibration_error(logits.softmax(1), labels) > 0.1
    assert calibration_error(after, labels) < 0.03


def test_without_a_wrong_answer_nothing_is_learnt_of_the_temperature() -> None:
    logits = torch.eye(3).repeat(5, 1)

    assert fit_temperature(logits, torch.arange(3).repeat(5)) == 1.0


@pytest.mark.parametrize(("recall", "found"), [(1.0, 10), (0.91, 10), (0.9, 9), (0.5, 5)])
def test_the_decision_finds_the_wanted_share_and_no_more(recall: float, found: int) -> None:
    # ten of the class, twenty of the other
    own = torch.cat([torch.linspace(0.05, 0.95, 10), torch.linspace(0.02, 0.62, 20)])
    labels = torch.cat([torch.ones(10), torch.zeros(20)]).long()
    decision = fit_decision(torch.stack([1 - own, own], 1), labels, 1, recall)

    assert int((own[:10] >= decision.threshold).sum()) == found


def test_decision_threshold_reorders_classes_not_probabilities() -> None:
    """From its threshold on, the decision's class comes first; the probabilities are unchanged."""
    probabilities = np.array([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3], [0.1, 0.75, 0.15], [0.05, 0.9, 0.05]])

    assert ranked(probabilities, Decision(2, 0.25)).tolist() == [[0, 1, 2], [2, 0, 1], [1, 2, 0], [1, 0, 2]]
    assert ranked(probabilities, Decision(1, 0.8))[:, 0].tolist() == [0, 0, 2, 1]
    assert ranked(probabilities, None)[:, 0].tolist() == [0, 0, 1, 1]


def served(tmp_path: Path, postprocess: dict[str, object]) -> ClassifierPredictor:
    for name, content in (
        ("model_metadata", {"name": "xray", "version": "1.0", "kind": "classifier", "max_batch": 8}),
        ("preprocess_config", {"input": "image", "height": 8, "width": 8}),
        ("postprocess_config", {"type": "classification", "top_k": 2, **postprocess}),
        ("class_mapping", {"0": "normal", "1": "pneumonia"}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    handler = ClassifierPredictor()
    handler.configure(Export.open(tmp_path))
    return handler


def test_a_decision_is_served_with_the_honest_probability(tmp_path: Path) -> None:
    handler = served(tmp_path, {"decision": {"class_index": 1, "threshold": 0.2}})
    logits = np.log([[0.7, 0.3], [0.9, 0.1]])
    sick, well = handler.postprocess(logits, [Prepared((), {"top_k": 1}), Prepared(())])

    assert sick["predictions"] == [
        {"class": "pneumonia", "probability": pytest.approx(0.3), "class_index": 1}
    ]
    assert [one["class"] for one in well["predictions"]] == ["normal", "pneumonia"]
    assert "pneumonia first from probability 0.2 on" in json.dumps(handler.answer_schema())


def test_without_a_decision_the_most_probable_class_is_first(tmp_path: Path) -> None:
    handler = served(tmp_path, {})
    (answer,) = handler.postprocess(np.log([[0.7, 0.3]]), [Prepared(())])

    assert [one["class"] for one in answer["predictions"]] == ["normal", "pneumonia"]


def test_the_class_that_is_answered_is_the_one_that_is_explained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = networks.build("small_cnn", "none", 2, 3, networks.preset_of("small_cnn", "none", 8)).eval()
    picture = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    unlikely = int(network(picture[None]).argmin())
    handler = served(tmp_path, {"decision": {"class_index": unlikely, "threshold": 0.01}})
    handler.model = TorchRuntime(torch.export.export(network, (picture[None],), strict=False).module())
    answer = handler.explanation(
        Opened(Image.new("RGB", (8, 8)), (8, 8)), Prepared((picture.numpy(),), {}, (8, 8))
    )

    assert answer["class_index"] == unlikely
    assert answer["probability"] < 0.5


@pytest.mark.parametrize(
    "said", [{"class": "pneumonia"}, {"class": "pneumonia", "recall": 1.5}, {"recall": 0.9}, {"klass": "a"}]
)
def test_a_decision_that_is_not_whole_is_refused(said: dict[str, object]) -> None:
    with pytest.raises(CallError, match="operating_point"):
        validate(Settings, {"operating_point": said}, "models/xray.yaml: training")
