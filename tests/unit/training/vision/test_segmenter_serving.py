"""A segmenter trained and exported, and the handler that serves it."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from handlers.inputs.masks import mask_of_run_lengths, read_mask
from handlers.kinds import predictor_of
from handlers.kinds.segmenter import SegmenterPredictor
from handlers.protocol.replies import Picture
from marina.core import kinds, spec
from marina.core.errors import CallError
from marina.kinds.pictures import LEAST_SIDE, save_picture
from tests.support.measuring import measure
from tests.support.outlined_scenes import folder_of_scenes, scene
from training.data import coco, load_outlines, outlined_folder
from training.export.writer import export
from training.recipes import segmenter
from training.runs.run import Run
from training.train import settings_of

SPEC = """# Finds discs and boards on noise.
kind: segmenter
training: {{recipe: segmenter, data: {data}, epochs: 6, batch_size: 4, height: 64, width: 96,
  learning_rate: 5.0e-3}}
floor: {{mean_iou: {floor}}}
export: {{max_batch: 8}}
samples: {{held_out: 3}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_scenes(tmp_path_factory.mktemp("own") / "Shapes")


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[spec.Spec, Any]:
    """The spec and the result of a short training, exported; and its handler, which answers as in the
    server.
    """
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("MARINA_HOME", str(home))
        (home / "models").mkdir()
        (home / "models" / "shapes.yaml").write_text(SPEC.format(data=folder, floor=0.5))
        one = spec.load("shapes")
        making = one.export_dir.parent / ".making"
        (making / "report").mkdir(parents=True)
        trained = segmenter.train(settings_of(one), Run(making / "report", seed=1))
        place = export(one, trained, making)
        handler = predictor_of("segmenter")
        handler.load(place)
        yield one, trained, handler, place


def answered(handler: Any, image: Image.Image, **options: str) -> Any:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    (answer,) = handler.answer_rows([({"body": buffer.getvalue()}, options)])
    return answer


def test_short_segmenter_training_finds_the_shapes(made: Any) -> None:
    """A short training finds the shapes and returns all that the export needs."""
    _, trained, _, place = made

    assert trained.metrics.keys() == {"mean_iou", "dice", "pixel_accuracy"}
    assert trained.metrics["mean_iou"] > 0.5
    names = {path.name for path in (place / "report").iterdir()} - {"tensorboard"}
    assert names == {"curves.png", "examples.png", "history.json", "worst.png"}
    assert trained.classes == ["background", "board", "disc"]
    assert trained.training["by_class"].keys() == {"background", "board", "disc"}
    assert len(json.loads((place / "samples" / "samples.json").read_text())) == 3


def test_the_answer_has_the_size_of_the_picture_and_its_forms_say_the_same(made: Any) -> None:
    handler, image = made[2], scene(100, (120, 90))[0].resize((333, 250))
    answer, lengths, text, areas = (
        answered(handler, image, format=form) for form in ("json", "rle", "compressed_rle", "areas")
    )
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
        # holes are filled, corners cut
        assert (inside & (labels == index)).sum() >= 0.95 * (labels == index).sum()
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
    data = load_outlines(one.training.settings["data"], 1)

    found = measure(
        one,
        lambda rows, headers: handler.answer_rows([({"body": body}, headers) for body, _ in rows]),
        data,
    )

    assert {name: found[name] for name in trained.metrics} == pytest.approx(trained.metrics, abs=1e-4)


def test_samples_are_pictures_with_about_the_right_areas_or_stand_as_found(made: Any) -> None:
    data = load_outlines(made[0].training.settings["data"], 1)
    truth = [outlined_folder.label_map(example, 120, 90) for example in data.test]

    right = segmenter.samples([truth[0], np.zeros_like(truth[1]), *truth[2:]], truth, data)
    wrong = segmenter.samples([np.ones_like(one) for one in truth], truth, data)

    assert {sample.name for sample in right} == {"shapes-0", "shapes-2", "shapes-3"}
    assert {sample.name for sample in wrong} == {f"shapes-{k}-as-found" for k in range(4)}
    assert wrong[0].expect == {"areas": {"board": 1.0}}
    answer = {"areas": [{"class": name, "share": share} for name, share in right[0].expect["areas"].items()]}
    assert SegmenterPredictor.mismatch(right[0].expect, answer) == ""


def test_an_answer_is_drawn_on_its_picture_with_its_masks(made: Any, tmp_path: Path) -> None:
    image = scene(100)[0]
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    draw = kinds.get("segmenter").draw
    save_picture(draw(buffer.getvalue(), answered(made[2], image)), tmp_path / "drawn.png")

    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.width >= LEAST_SIDE
    with pytest.raises(CallError, match="leave the option format out"):
        draw(buffer.getvalue(), answered(made[2], image, format="areas"))


def test_base64_of_the_label_map_is_a_png_of_one_byte_per_pixel(made: Any) -> None:
    answer = answered(made[2], scene(7)[0])

    with Image.open(io.BytesIO(base64.b64decode(answer["mask"]))) as mask:
        assert (mask.mode, mask.size) == ("P", (120, 90))
