"""The built-in scenes: correct boxes, disjoint splits, reproducible."""

import numpy as np
import pytest

from training.data import ImageData, fingerprint, scenes


@pytest.fixture(scope="module")
def data() -> ImageData:
    return scenes.load(train=60, validation=10, test=10)


def test_scenes_are_colour_pictures_of_one_size_with_one_to_five_digits(data):
    for example in data.train:
        assert example.image.shape == (scenes.HEIGHT, scenes.WIDTH, 3)
        assert example.image.dtype == np.uint8
        assert 1 <= len(example.labels) <= scenes.MOST_DIGITS
        assert example.boxes.shape == (len(example.labels), 4)


def test_every_class_appears_and_has_a_name(data):
    assert data.classes == tuple("0123456789")
    assert set(np.concatenate([example.labels for example in data.train])) == set(range(10))


def test_boxes_lie_inside_the_picture_and_hide_little_of_each_other(data):
    for example in data.train:
        boxes = example.boxes
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= (scenes.WIDTH, scenes.HEIGHT)).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= (3, 10)).all()
        for k, box in enumerate(boxes):
            assert all(scenes._shared(tuple(box), tuple(other)) <= scenes.OVERLAP for other in boxes[:k])


def test_a_box_is_tight_around_ink_that_shows(monkeypatch):
    """On a plain ground without clutter the pixels that differ from it are those of the box."""
    monkeypatch.setattr(
        scenes, "_ground", lambda rng: np.full((scenes.HEIGHT, scenes.WIDTH, 3), 120, np.float32)
    )
    canvas, rng = scenes._ground(None), np.random.default_rng(3)
    ink = scenes._ink(np.asarray(scenes.digits.load().train[0].image), rng)

    left, top, right, bottom = scenes._place(canvas, ink, [], rng)

    changed = np.abs(canvas - 120).max(2) > 0.25 * scenes.CONTRAST
    rows, columns = np.nonzero(changed.any(1))[0], np.nonzero(changed.any(0))[0]
    assert abs(rows[0] - top) <= 1
    assert abs(rows[-1] + 1 - bottom) <= 1
    assert abs(columns[0] - left) <= 1
    assert abs(columns[-1] + 1 - right) <= 1


def test_ink_contrasts_with_its_ground_in_both_directions():
    rng = np.random.default_rng(0)
    ground = np.array([128, 128, 128], np.float32)
    luminance = np.array([scenes._contrasting(ground, rng) @ (0.299, 0.587, 0.114) for _ in range(100)]) - 128

    assert np.abs(luminance).min() >= scenes.CONTRAST - 1
    assert 20 < (luminance > 0).sum() < 80


def test_the_same_scenes_come_every_time_and_however_many_are_asked_for(data):
    again = scenes.load(train=5, validation=3, test=3)

    assert fingerprint(again.train) == fingerprint(data.train[:5])
    assert fingerprint(again.test) == fingerprint(data.test[:3])
    assert fingerprint(data.train[:3]) != fingerprint(data.test[:3])


def test_each_split_shows_the_digits_of_its_own_split_only(monkeypatch):
    """With test digits all of class 7, the test scenes show nothing else, and the others are as they were."""
    source = scenes.digits.load()
    sevens = [example for example in source.test if example.label == 7]
    monkeypatch.setattr(scenes.digits, "load", lambda: type(source)(**{**source.__dict__, "test": sevens}))
    data = scenes.load(train=8, validation=8, test=8)

    assert {int(label) for example in data.test for label in example.labels} == {7}
    assert len({int(label) for example in [*data.train, *data.validation] for label in example.labels}) > 5
