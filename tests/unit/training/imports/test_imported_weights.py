"""Imported weights in every format; pickles are refused unless trusted by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision

from marina.core.console import Output
from marina.core.errors import CallError
from marina.pipeline import importing
from tests.support.foreign_models import Payload, classifier, logits_of, noise
from training.imports.files import read_state
from training.recipes import imported_classifier
from training.recipes.imported_classifier import Settings


@pytest.mark.parametrize("form", ["plain", "nested", "prefixed", "safetensors"])
def test_torchvision_architecture_takes_the_head_of_its_state_dict(form: str, tmp_path: Path) -> None:
    """A torchvision architecture takes a state dict with the head that is in it."""
    torch.manual_seed(1)
    network = torchvision.models.squeezenet1_1(num_classes=7).eval()
    path = tmp_path / f"weights.{'safetensors' if form == 'safetensors' else 'pth'}"
    state = network.state_dict()
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        prefixed = {f"module.{key}": value for key, value in state.items()}
        torch.save(
            {"plain": state, "nested": {"epoch": 3, "state_dict": state}, "prefixed": prefixed}[form], path
        )

    trained = classifier(tmp_path, source="torchvision:squeezenet1_1", weights=str(path))

    pixels = noise(2, 3, 224, 224)
    mean, std = (
        torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
        torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
    )
    torch.testing.assert_close(
        logits_of(trained.module, pixels), logits_of(network, (pixels / 255 - mean) / std)
    )
    assert trained.classes == [str(index) for index in range(7)]
    assert (trained.preprocess["fit"], trained.preprocess["resize"], trained.preprocess["height"]) == (
        "crop",
        256,
        224,
    )
    assert trained.training["files"].keys() == {path.name}


def test_weights_that_dont_fit_are_refused_with_the_first_misfits(
    own: Callable[[str], str], tmp_path: Path
) -> None:
    safetensors.torch.save_file(
        {"colour.weight": torch.zeros(5, 3, 1, 1), "other.bias": torch.zeros(2)}, tmp_path / "a.safetensors"
    )

    with pytest.raises(CallError) as caught:
        classifier(tmp_path, source=own("brightest"), weights=str(tmp_path / "a.safetensors"))

    assert (
        "colour.bias is missing; other.bias is not known; colour.weight is (5, 3, 1, 1) instead of (3, 3, "
        "1, 1)" in str(caught.value)
    )


@pytest.mark.usefixtures("no_weights")
def test_weights_that_are_not_there_offline_are_named_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(
        CallError, match=r"no network. Offline, put the file resnet18-f37072fd.pth into .*checkpoints"
    ):
        classifier(tmp_path, source="resnet18", weights="IMAGENET1K_V1")


def test_weights_that_lack_information_are_asked_for_it_by_name(tmp_path: Path) -> None:
    """What weights need beyond their file is asked for by name."""
    torch.save({}, tmp_path / "inception_v3_google-0cc3c7bd.pth")

    with pytest.raises(CallError, match=r"more belongs to it than the file says; .*give IMAGENET1K_V1"):
        classifier(
            tmp_path, source="inception_v3", weights=str(tmp_path / "inception_v3_google-0cc3c7bd.pth")
        )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source": "resnet19"}, "is none of torchvision:NAME, .* did you mean resnet1"),
        ({"source": "torchvision:resnet19"}, "no architecture 'resnet19'; did you mean"),
        ({"source": "timm:resnet19"}, "timm has no model 'resnet19'; did you mean"),
        (
            {"source": "resnet18", "weights": "V9"},
            "unknown weights 'V9' of resnet18; known: IMAGENET1K_V1, DEFAULT, none, or a file",
        ),
        ({"source": "resnet18", "weights": "gone.pth"}, "weights 'gone.pth': no such file"),
        (
            {"source": "resnet18", "weights": "none", "arguments": {"depth": 3}},
            "resnet18 raised TypeError at .*depth",
        ),
        ({"source": "deeplabv3_resnet50", "weights": "none"}, "is no image classifier"),
        ({"source": "gone.pt2"}, "source 'gone.pt2': no such file"),
        ({"source": "gone.py:make"}, "source 'gone.py': no such file"),
        ({"source": "nowhere.at_all:make"}, "'nowhere.at_all': no module 'nowhere'"),
    ],
)
def test_a_source_that_cant_be_had_is_refused_with_what_can(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(CallError, match=words):
        classifier(tmp_path, **settings)


def test_pickled_model_needs_trust_and_is_exported_without_pickle(
    own: Callable[[str], str], home: Path, tmp_path: Path
) -> None:
    """A pickled model is refused; once trusted, the export is the same model without the pickle."""
    network = imported_classifier.build(Settings(source=own("brightest"), arguments={"factor": 3.0}))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        torch.save(network, tmp_path / "whole.pth")

        with pytest.raises(CallError, match=r"is a pickle of more than tensors, .*--trust-pickle"):
            classifier(tmp_path, source=str(tmp_path / "whole.pth"))

        one, _ = importing.make_spec(
            "colours", {"source": str(tmp_path / "whole.pth")}, None, {}, trust_pickle=True
        )
        importing.import_and_export(one, trust_pickle=True, output=Output(as_json=True))

    program = torch.export.load(one.export_dir / "model.pt2").module()
    pixels = noise(3, 3, 224, 224)
    torch.testing.assert_close(logits_of(program, pixels), logits_of(network, pixels / 255))
    assert not [path for path in one.export_dir.rglob("*") if path.suffix in (".pth", ".pt", ".pkl")]
    assert "trust_pickle" not in one.as_yaml()
    assert (
        json.loads((one.export_dir / "model_metadata.json").read_text())["training"]["trust_pickle"] is True
    )


@pytest.mark.parametrize("place", ["weights", "source", "beside tensors"])
def test_a_malicious_pickle_is_refused_and_does_not_run(
    place: str, own: Callable[[str], str], tmp_path: Path
) -> None:
    content: Any = Payload(tmp_path / "broken-in")
    torch.save(
        {"colour.bias": torch.zeros(3), "more": content} if place == "beside tensors" else content,
        tmp_path / "evil.pth",
    )
    evil = str(tmp_path / "evil.pth")

    with pytest.raises(CallError, match="could run any code"):
        classifier(
            tmp_path,
            **({"source": evil} if place == "source" else {"source": own("brightest"), "weights": evil}),
        )

    assert not (tmp_path / "broken-in").exists()
    torch.load(evil, weights_only=False)  # it would have
    assert (tmp_path / "broken-in").exists()


def test_a_malicious_file_in_the_place_of_torchvisions_own_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "hub" / "checkpoints"
    place.mkdir(parents=True)
    torch.save(Payload(tmp_path / "broken-in"), place / "squeezenet1_1-b8a52dc0.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    with pytest.raises(CallError, match="can't be had: Weights only load failed"):
        classifier(tmp_path, source="squeezenet1_1", weights="IMAGENET1K_V1")

    assert not (tmp_path / "broken-in").exists()


def test_files_that_are_no_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("nothing")
    (tmp_path / "text.safetensors").write_text("nothing")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "state.pth")

    with pytest.raises(CallError, match=r"text.pth (is a pickle|is no file of torch.save)"):
        read_state(tmp_path / "text.pth")
    with pytest.raises(CallError, match=r"no \.safetensors file"):
        read_state(tmp_path / "text.safetensors")
    with pytest.raises(CallError, match="holds no state dict"):
        read_state(tmp_path / "list.pth")
    with pytest.raises(CallError, match="holds weights and no architecture"):
        classifier(tmp_path, source=str(tmp_path / "state.pth"))
