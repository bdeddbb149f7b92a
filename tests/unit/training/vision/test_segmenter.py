"""The segmenter: data with outlines, augmentation, losses, mean IoU and networks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handlers.inputs.images import ImageInput
from handlers.inputs.masks import mask_of_run_lengths
from marina.core.errors import CallError
from tests.support.outlined_scenes import folder_of_scenes
from training.data import Example, load_outlines, outlined_folder
from training.recipes import segmenter
from training.vision.segmentation.architectures import BACKBONES, build
from training.vision.segmentation.evaluation import by_class, overlap, pairs
from training.vision.segmentation.pixels import Batches, Prepared, augment


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_scenes(tmp_path_factory.mktemp("own") / "Shapes")


def test_outlines_become_a_label_map_with_small_objects_on_top(
    folder: Path,
) -> None:
    """Outlines become a label map with the smaller object on top and the background first."""
    data = load_outlines(str(folder), 0)
    example = next(one for one in data.train if Path(str(one.image)).stem == "3")
    labels = outlined_folder.label_map(example, 120, 90)
    disc = mask_of_run_lengths(example.outlines[1][1]["counts"], 90, 120)

    assert data.classes == ("background", "board", "disc")
    assert set(np.unique(labels)) == {0, 1, 2}
    assert (labels[disc] == 2).all() or disc.sum() > 34 * 26
    assert [len(part) for part in (data.train, data.validation, data.test)] == [16, 4, 4]


def test_the_pixels_of_crowds_count_for_nothing() -> None:
    outlines = ((-1, [[0, 0, 10, 0, 10, 10, 0, 10]]), (0, [[20, 0, 30, 0, 30, 10, 20, 10]]))
    labels = outlined_folder.label_map(Example(Path("a.png"), outlines=outlines), 40, 20)

    assert labels[5, 5] == outlined_folder.IGNORED
    assert labels[5, 25] == 1
    assert labels[15, 5] == 0


@pytest.mark.parametrize(
    "outline",
    [
        {"size": [5, 5], "counts": [25]},
        {"size": [40, 48], "counts": "x"},
        {"size": [40, 48]},
        [[0, 0, 1, 1]],
        [[1e400] * 6],
        ["abcdef"],
        7,
    ],
)
def test_an_outline_that_cannot_be_read_is_left_out_with_a_warning(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, outline: Any
) -> None:
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"][0]["segmentation"] = outline
    (tmp_path / "instances.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(folder / "images")
    load_outlines(str(tmp_path), 0)

    assert "outlines left out: no polygons and no run lengths that can be read" in caplog.text


def test_a_folder_of_boxes_alone_is_refused_with_what_is_needed(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "instances.json").read_text())
    for row in content["annotations"]:
        del row["segmentation"]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(folder / "images")

    with pytest.raises(CallError, match='give COCO json with a "segmentation"'):
        load_outlines(str(tmp_path), 0)
    with pytest.raises(CallError, match="is no folder"):
        load_outlines("shapes", 0)


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_labels_are_brought_to_the_input_as_the_pictures_are(folder: Path, fit: Any) -> None:
    data = load_outlines(str(folder), 0)
    inputs = ImageInput(64, 128, fit=fit)
    prepared = Prepared.of(data.train, inputs, "pictures")
    labels = prepared.labels

    red = (prepared.pixels[:, 0] > 160) & (prepared.pixels[:, 2] < 100)
    assert labels.shape == (16, 64, 128)
    assert float(((labels == 2) == red).float().mean()) > 0.985
    assert bool((labels[:, :, -20:] == outlined_folder.IGNORED).all()) == (fit == "letterbox")


def test_masks_follow_their_pixels_through_augmentation() -> None:
    """A white block on grey is where its label says, mirrored or not; what comes from outside counts for
    nothing.
    """
    pixels = torch.full((40, 3, 96, 128), 114.0)
    labels = torch.zeros(40, 96, 128, dtype=torch.uint8)
    pixels[:, :, 20:50, 60:80], labels[:, 20:50, 60:80] = 255, 1
    seen, moved = augment(
        pixels, labels, light=True, flips=("horizontal",), generator=torch.Generator().manual_seed(0)
    )

    for image, label in zip(seen, moved, strict=True):
        bright = image.mean(0) > (image.mean(0).amax() + image.mean(0).median()) / 2
        assert float(((label == 1) & bright).sum()) / float(((label == 1) | bright).sum()) > 0.85
    assert set(moved.unique().tolist()) == {0, 1, outlined_folder.IGNORED}


def test_batches_show_every_picture_once_in_an_order_that_the_seed_decides() -> None:
    pixels, labels = (
        torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 3, 4, 4),
        torch.zeros(8, 4, 4, dtype=torch.uint8),
    )
    orders = [
        [
            int(one[0, 0, 0])
            for batch, _ in Batches(Prepared(pixels, labels, []), 3, False, False, seed)
            for one in batch
        ]
        for seed in (0, 0, 1)
    ]

    assert len(set(orders[0])) == len(orders[0]) == 6
    assert orders[0] == orders[1] != orders[2]


def test_loss_falls_towards_the_truth_and_ignores_void_pixels() -> None:
    """The loss falls towards the truth and leaves out the pixels that do not count."""
    labels = torch.tensor([[[0, 1], [1, 255]]])
    right = torch.stack([labels != 1, labels == 1], 1).float() * 20
    other = right.clone()
    other[0, :, 1, 1] = torch.tensor([9.0, -9.0])

    assert float(segmenter.loss_of(right, labels, 1.0)) < 0.01
    assert float(segmenter.loss_of(right, labels, 1.0)) == pytest.approx(
        float(segmenter.loss_of(other, labels, 1.0)), abs=1e-6
    )
    assert float(segmenter.loss_of(-right, labels, 1.0)) > float(segmenter.loss_of(-right, labels, 0.0)) > 5
    assert float(segmenter.loss_of(right, torch.full_like(labels, 255), 1.0)) == 0


def test_overlap_is_intersection_over_union_of_all_pixels_together() -> None:
    truth = np.array([[0, 0, 1, 1], [2, 2, 255, 1]], np.uint8)
    found = np.array([[0, 1, 1, 1], [2, 0, 0, 0]], np.uint8)
    counts = pairs(found, truth, 4)

    assert counts.sum() == 7
    expected = {"a": 1 / 4, "b": 2 / 4, "c": 1 / 2}
    assert {name: value["iou"] for name, value in by_class(counts, "abcd").items()} == expected
    assert overlap(counts)["mean_iou"] == pytest.approx(np.mean(list(expected.values())))
    assert overlap(counts)["dice"] == pytest.approx(np.mean([2 / 5, 4 / 6, 2 / 3]))
    assert overlap(counts)["pixel_accuracy"] == pytest.approx(4 / 7)


SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("unet_mobilenet_v2", "deeplabv3_mobilenet_v3_large", "fcn_resnet50")
]


@pytest.mark.parametrize("architecture", ["unet_small", "lraspp_mobilenet_v3_large", *SLOW])
def test_exported_graph_equals_the_network_for_any_batch(architecture: str) -> None:
    """The exported graph equals the network, and a batch equals its rows one by one."""
    torch.manual_seed(0)
    network = build(architecture, 3).eval()
    pixels = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(network, (pixels[:2],), dynamic_shapes=({0: batch},), strict=False).module()

    with torch.inference_mode():
        whole = network(pixels)
        assert whole.shape[:2] == (3, 3)
        assert (whole.shape[2] * 96, whole.shape[2] <= 64) == (whole.shape[3] * 64, True)
        torch.testing.assert_close(program(pixels), whole, rtol=0, atol=1e-4)
        for k in range(3):
            torch.testing.assert_close(network(pixels[k : k + 1])[0], whole[k], rtol=0, atol=1e-4)


def test_weights_of_other_classes_give_all_but_the_last_layer(tmp_path: Path) -> None:
    """Weights of other classes give all but the last layer, and other weights are refused."""
    given = build("lraspp_mobilenet_v3_large", 5).network
    torch.save(given.state_dict(), tmp_path / "five.pth")
    taken = build("lraspp_mobilenet_v3_large", 3, str(tmp_path / "five.pth")).network

    assert torch.equal(taken.classifier.cbr[0].weight, given.classifier.cbr[0].weight)
    assert taken.classifier.low_classifier.out_channels == 3
    with pytest.raises(CallError, match="don't fit"):
        build("unet_small", 3, str(tmp_path / "five.pth"))
    with pytest.raises(CallError, match="unet_small takes none, or a file"):
        build("unet_small", 3, "coco")
    with pytest.raises(CallError, match="no such file"):
        build("fcn_resnet50", 3, str(tmp_path / "six.pth"))


@pytest.mark.parametrize("weights", ["imagenet", "coco"])
@pytest.mark.usefixtures("no_weights")
def test_weights_that_can_not_be_fetched_are_asked_for_by_their_file(weights: str) -> None:
    with pytest.raises(CallError, match=r"no network\. Offline, put the file \w+-\w+\.pth into "):
        build("lraspp_mobilenet_v3_large", 3, weights)


def test_every_architecture_is_one_that_the_recipe_takes() -> None:
    assert set(segmenter.Settings.model_json_schema()["properties"]["architecture"]["enum"]) == set(BACKBONES)
