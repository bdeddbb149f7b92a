"""Segmentation: data with outlines, augmentation, losses, overlap, the networks, the recipe, and the handler that serves it."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from marina import draw, evaluate, spec
from marina.errors import CallError
from marina.samples import mismatch
from training import datasets, segmenter
from training.datasets import coco, outlined_folder
from training.export import export, handler_of
from training.segmentation.architectures import BACKBONES, build
from training.segmentation.evaluation import by_class, overlap, pairs
from training.segmentation.pixels import Batches, Prepared, augment
from training.train import settings_of

from bundle_images import ImageInput
from bundle_masks import mask_of_run_lengths, read_mask, run_lengths
from bundle_replies import Picture

SPEC = """# Finds discs and boards on noise.
kind: segmenter
training: {{recipe: segmenter, data: {data}, epochs: 6, batch_size: 4, height: 64, width: 96, learning_rate: 5.0e-3}}
floor: {{mean_iou: {floor}}}
export: {{max_batch: 8}}
samples: {{held_out: 3}}
"""


def scene(seed: int, size: tuple[int, int] = (120, 90)) -> tuple[Image.Image, list[dict[str, Any]]]:
    """A red disc and a blue board on dark noise, with their outlines in COCO's two ways."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 90, (size[1], size[0], 3), np.uint8))
    pen = ImageDraw.Draw(image)
    x, y, radius = *rng.integers(30, (90, 60)).tolist(), int(rng.integers(12, 24))
    disc = Image.new("1", size)
    ImageDraw.Draw(disc).ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    left, top = rng.integers(4, (40, 30)).tolist()
    board = [left, top, left + 34, top, left + 34, top + 26, left, top + 26]
    pen.polygon(board, fill=(40, 70, 230))
    image.paste((230, 60, 40), mask=disc)
    counts = run_lengths(np.array(disc))
    return image, [
        {"category_id": 1, "bbox": [left, top, 34, 26], "segmentation": [board]},
        {"category_id": 2, "bbox": [x - radius, y - radius, 2 * radius, 2 * radius], "segmentation": {"size": [90, 120], "counts": counts}},
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes as somebody's own COCO folder."""
    root = tmp_path_factory.mktemp("own") / "Shapes"
    (root / "images").mkdir(parents=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "board"}, {"id": 2, "name": "disc"}]}
    for k in range(24):
        image, rows = scene(k)
        image.save(root / "images" / f"{k}.png")
        content["images"].append({"id": k, "file_name": f"{k}.png"})
        content["annotations"] += [{"id": 2 * k + j, "image_id": k, **row} for j, row in enumerate(rows)]
    (root / "instances.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[spec.Spec, Any]:
    """The spec and the result of a short training, exported; and its handler, which answers as in the server."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("MARINA_HOME", str(home))
        (home / "models").mkdir()
        (home / "models" / "shapes.yaml").write_text(SPEC.format(data=folder, floor=0.5))
        one = spec.load("shapes")
        making = one.export_dir.parent / ".making"
        (making / "report").mkdir(parents=True)
        trained = segmenter.train(settings_of(one), 1, making / "report")
        place = export(one, trained, making)
        handler = handler_of("segmenter")
        handler.load(place)
        yield one, trained, handler, place


def answered(handler: Any, image: Image.Image, **options: str) -> Any:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    (answer,) = handler.answer_rows([({"body": buffer.getvalue()}, options)])
    return answer


# --- data -------------------------------------------------------------------------------------------------------------------


def test_outlines_become_a_label_map_with_the_smaller_object_on_top_and_the_background_first(folder: Path) -> None:
    data = datasets.load(str(folder), "segmenter", 0)
    example = next(one for one in data.train if Path(str(one.image)).stem == "3")
    labels = outlined_folder.label_map(example, 120, 90)
    disc = mask_of_run_lengths(example.outlines[1][1]["counts"], 90, 120)

    assert data.classes == ("background", "board", "disc")
    assert set(np.unique(labels)) == {0, 1, 2}
    assert (labels[disc] == 2).all() or disc.sum() > 34 * 26
    assert [len(part) for part in (data.train, data.validation, data.test)] == [16, 4, 4]


def test_crowds_count_for_nothing_and_outlines_that_can_not_be_read_cost_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    outlines = ((-1, [[0, 0, 10, 0, 10, 10, 0, 10]]), (0, [[20, 0, 30, 0, 30, 10, 20, 10]]), (0, {"size": [5, 5], "counts": [25]}))
    labels = outlined_folder.label_map(datasets.Example(Path("a.png"), outlines=outlines), 40, 20)

    assert labels[5, 5] == outlined_folder.IGNORED
    assert labels[5, 25] == 1
    assert labels[15, 5] == 0
    assert "a.png: an outline is left out: run lengths for [5, 5]" in caplog.text


def test_a_folder_of_boxes_alone_is_refused_with_what_is_needed(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "instances.json").read_text())
    for row in content["annotations"]:
        del row["segmentation"]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(folder / "images")

    with pytest.raises(CallError, match='give COCO json with a "segmentation"'):
        datasets.load(str(tmp_path), "segmenter", 0)
    with pytest.raises(CallError, match="is no folder"):
        datasets.load("shapes", "segmenter", 0)


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_labels_are_brought_to_the_input_as_the_pictures_are(folder: Path, fit: Any) -> None:
    data = datasets.load(str(folder), "segmenter", 0)
    inputs = ImageInput(64, 128, fit=fit)
    prepared = Prepared.of(data.train, inputs, "pictures")
    labels = prepared.labels(inputs)

    red = (prepared.pixels[:, 0] > 160) & (prepared.pixels[:, 2] < 100)
    assert labels.shape == (16, 64, 128)
    assert float(((labels == 2) == red).float().mean()) > 0.985
    assert bool((labels[:, :, -20:] == outlined_folder.IGNORED).all()) == (fit == "letterbox")


def test_masks_follow_their_pixels_through_augmentation() -> None:
    """A white block on grey is where its label says, mirrored or not; what comes from outside counts for nothing."""
    pixels = torch.full((40, 3, 96, 128), 114.0)
    labels = torch.zeros(40, 96, 128, dtype=torch.uint8)
    pixels[:, :, 20:50, 60:80], labels[:, 20:50, 60:80] = 255, 1
    seen, moved = augment(pixels, labels, light=True, flip=True, generator=torch.Generator().manual_seed(0))

    for image, label in zip(seen, moved, strict=True):
        bright = image.mean(0) > (image.mean(0).amax() + image.mean(0).median()) / 2
        assert float(((label == 1) & bright).sum()) / float(((label == 1) | bright).sum()) > 0.85
    assert set(moved.unique().tolist()) == {0, 1, outlined_folder.IGNORED}


def test_batches_show_every_picture_once_in_an_order_that_the_seed_decides() -> None:
    pixels, labels = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 3, 4, 4), torch.zeros(8, 4, 4, dtype=torch.uint8)
    orders = [[int(one[0, 0, 0]) for batch, _ in Batches(pixels, labels, 3, False, False, seed) for one in batch] for seed in (0, 0, 1)]

    assert len(set(orders[0])) == len(orders[0]) == 6
    assert orders[0] == orders[1] != orders[2]


# --- learning ---------------------------------------------------------------------------------------------------------------


def test_the_loss_falls_towards_the_truth_and_leaves_out_what_does_not_count() -> None:
    labels = torch.tensor([[[0, 1], [1, 255]]])
    right = torch.stack([labels != 1, labels == 1], 1).float() * 20
    other = right.clone()
    other[0, :, 1, 1] = torch.tensor([9.0, -9.0])

    assert float(segmenter.loss_of(right, labels, 1.0)) < 0.01
    assert float(segmenter.loss_of(right, labels, 1.0)) == pytest.approx(float(segmenter.loss_of(other, labels, 1.0)), abs=1e-6)
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


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("unet_mobilenet_v2", "deeplabv3_mobilenet_v3_large", "fcn_resnet50")]


@pytest.mark.parametrize("architecture", ["unet_small", "lraspp_mobilenet_v3_large", *SLOW])
def test_the_exported_graph_equals_the_network_and_a_batch_equals_one_by_one(architecture: str) -> None:
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


def test_weights_of_other_classes_give_all_but_the_last_layer_and_others_are_refused(tmp_path: Path) -> None:
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
def test_weights_that_can_not_be_fetched_are_asked_for_by_their_file(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)

    with pytest.raises(CallError, match=r"no network\. Offline, put the file \w+-\w+\.pth into "):
        build("lraspp_mobilenet_v3_large", 3, weights)


def test_every_architecture_is_one_that_the_recipe_takes() -> None:
    assert set(segmenter.Settings.model_json_schema()["properties"]["architecture"]["enum"]) == set(BACKBONES)


# --- the recipe and the handler ---------------------------------------------------------------------------------------------


def test_a_short_training_finds_the_shapes_and_hands_over_all_that_the_export_needs(made: Any) -> None:
    _, trained, _, place = made

    assert trained.metrics.keys() == {"mean_iou", "dice", "pixel_accuracy"}
    assert trained.metrics["mean_iou"] > 0.5
    assert {path.name for path in (place / "report").iterdir()} == {"curves.png", "examples.png", "worst.png"}
    assert trained.classes == ["background", "board", "disc"]
    assert trained.training["by_class"].keys() == {"background", "board", "disc"}
    assert len(json.loads((place / "samples" / "samples.json").read_text())) == 3


def test_the_answer_has_the_size_of_the_picture_and_its_forms_say_the_same(made: Any) -> None:
    handler, image = made[2], scene(100, (120, 90))[0].resize((333, 250))
    answer, lengths, text, areas = (answered(handler, image, format=form) for form in ("json", "rle", "compressed_rle", "areas"))
    picture = answered(handler, image, accept="image/png")
    labels = read_mask(answer["mask"])

    assert labels is not None
    assert labels.shape == (250, 333)
    assert isinstance(picture, Picture)
    assert np.array_equal(np.array(Image.open(io.BytesIO(picture.content))), labels)
    assert [one["pixels"] for one in answer["areas"]] == np.bincount(labels.ravel(), minlength=3).tolist()
    assert sum(one["share"] for one in answer["areas"]) == pytest.approx(1)
    for index, (one, other) in enumerate(zip(lengths["areas"], text["areas"], strict=True)):
        assert np.array_equal(mask_of_run_lengths(one["mask"]["counts"], 250, 333), labels == index)
        assert np.array_equal(mask_of_run_lengths(other["mask"]["counts"], 250, 333), labels == index)
    assert areas == {key: value for key, value in answer.items() if key != "mask"}
    around = answered(handler, image, format="polygons")
    for index, one in enumerate(around["areas"]):
        inside = coco.filled(one["polygons"], 333, 250) if one["polygons"] else np.zeros((250, 333), bool)
        assert (inside & (labels == index)).sum() >= 0.95 * (labels == index).sum()  # holes are filled, corners cut
    for one in (answer, lengths, text, areas, around):
        jsonschema.Draft202012Validator(handler.answer_schema()).validate(one)


def test_a_batch_is_answered_as_its_pictures_are_one_by_one(made: Any) -> None:
    handler = made[2]
    bodies = []
    for seed, size in ((50, (120, 90)), (51, (40, 200)), (52, (300, 31))):
        buffer = io.BytesIO()
        scene(seed)[0].resize(size).save(buffer, "PNG")
        bodies.append(({"body": buffer.getvalue()}, {"format": "rle"}))

    whole = handler.answer_rows(bodies)

    for row, answer in zip(bodies, whole, strict=True):
        (alone,) = handler.answer_rows([row])
        for one, other in zip(answer["areas"], alone["areas"], strict=True):
            assert abs(one["pixels"] - other["pixels"]) <= 2


def test_measured_through_the_handler_the_overlap_is_that_of_training(made: Any) -> None:
    one, trained, handler, _ = made
    data = datasets.load(one.training.settings["data"], "segmenter", 1)

    found = evaluate.measure(one, lambda rows, headers: handler.answer_rows([({"body": body}, headers) for body, _ in rows]), data, 0, list)

    assert {name: found[name] for name in trained.metrics} == pytest.approx(trained.metrics, abs=1e-4)


def test_samples_are_pictures_with_about_the_right_areas_or_stand_as_found(made: Any) -> None:
    data = datasets.load(made[0].training.settings["data"], "segmenter", 1)
    truth = [outlined_folder.label_map(example, 120, 90) for example in data.test]

    right = segmenter.samples([truth[0], np.zeros_like(truth[1]), *truth[2:]], truth, data)
    wrong = segmenter.samples([np.ones_like(one) for one in truth], truth, data)

    assert {sample.name for sample in right} == {"shapes-0", "shapes-2", "shapes-3"}
    assert {sample.name for sample in wrong} == {f"shapes-{k}-as-found" for k in range(4)}
    assert wrong[0].expect == {"areas": {"board": 1.0}}
    answer = {"areas": [{"class": name, "share": share} for name, share in right[0].expect["areas"].items()]}
    assert mismatch(right[0].expect, answer) == ""


def test_an_answer_is_drawn_on_its_picture_with_its_masks(made: Any, tmp_path: Path) -> None:
    image = scene(100)[0]
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    draw.draw(buffer.getvalue(), answered(made[2], image), tmp_path / "drawn.png")

    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.width >= draw.LEAST_SIDE
    with pytest.raises(CallError, match="leave the option format out"):
        draw.draw(buffer.getvalue(), answered(made[2], image, format="areas"), tmp_path / "drawn.png")


def test_base64_of_the_label_map_is_a_png_of_one_byte_per_pixel(made: Any) -> None:
    answer = answered(made[2], scene(7)[0])

    with Image.open(io.BytesIO(base64.b64decode(answer["mask"]))) as mask:
        assert (mask.mode, mask.size) == ("P", (120, 90))
