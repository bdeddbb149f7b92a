"""Data sets of clips: folders of one's own, and the built-in motions."""

import json
from pathlib import Path

import numpy as np
import pytest

from handlers.inputs.clips import ClipInput, open_clip
from handlers.inputs.images import ImageInput
from marina.core.errors import CallError
from tests.support.clip_files import clips_of_two_classes, config, greys
from tests.support.picture_files import clip, drawn, encoded
from training.data import clip_folder, digits, fingerprint, load_clips, motions
from training.data.limits import Limits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return clips_of_two_classes(tmp_path / "clips")


def test_clip_folder_reads_files_and_frame_folders(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder of files and of folders of frames is read, and what is no clip is left out."""
    (folder / "darker" / "still.gif").write_bytes(encoded(drawn(), "GIF"))
    (folder / "darker" / "cut.gif").write_bytes(clip()[:-20])
    data = load_clips(str(folder), 0)
    clips = [*data.train, *data.validation, *data.test]
    of_frames = next(one for one in clips if Path(str(one.image)).is_dir() and one.label == 0)

    assert data.classes == ("brighter", "darker")
    assert (len(clips), len(data.validation), len(data.test)) == (38, 6, 6)
    assert isinstance(of_frames, clip_folder.Clip)
    assert np.diff(greys(of_frames.chosen(config(12)))).tolist() == [1] * 11
    assert json.loads(of_frames.encoded()[0]).keys() == {"frames"}
    assert {one.encoded()[1] for one in clips} == {"image/gif", "image/webp", "video/mp4", "application/json"}
    single = "1 of 40 clips left out: a clip has at least 2 frames, this is a single picture: "
    assert f"{single}clips/darker/still.gif" in caplog.text
    assert "1 of 40 clips left out: the GIF is cut off: clips/darker/cut.gif" in caplog.text


@pytest.mark.parametrize("limits", [{"max_bytes": 100}, {"max_frames": 11}, {"max_pixels": 500}])
def test_clips_above_a_limit_of_serving_are_not_learned_from(
    folder: Path, caplog: pytest.LogCaptureFixture, limits: dict[str, int]
) -> None:
    """What the endpoint would refuse is left out, and the settings are named."""
    with pytest.raises(CallError):
        load_clips(str(folder), 0, limits=Limits(**limits))

    assert "clips left out: above training.max_bytes" in caplog.text


def test_a_folder_without_clips_is_refused_with_how_one_looks(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()

    with pytest.raises(CallError, match=r"(?s)no clips in .*cat/\*.gif"):
        load_clips(str(tmp_path), 0)
    with pytest.raises(CallError, match="neither the built-in set 'motions' nor a folder"):
        load_clips("motion", 0)


def test_middle_frame_is_the_same_for_every_motion() -> None:
    """The middle frame is the same for every motion, and opposite motions run backwards."""
    figures = digits.load().train[:5]
    clips = [motions.clip(figures, label, np.random.default_rng(3))[..., 0].astype(int) for label in range(8)]

    assert all(np.array_equal(one[7], clips[0][7]) for one in clips)
    places = [np.abs(one - np.median(one)) > 40 for one in clips]
    columns, rows = (
        [np.argwhere(place)[:, axis].mean() for place in (found[0] for found in places)] for axis in (1, 0)
    )
    assert columns[0] > columns[7] + 1 > columns[1] + 2
    assert rows[2] > rows[7] > rows[3]
    assert places[4][0].sum() < places[7][7].sum() < places[5][0].sum()


def test_the_same_motions_come_every_time_and_a_clip_is_sent_without_loss() -> None:
    data, again = motions.load(8, 1, 1), motions.load(4, 2, 1)

    assert fingerprint(again.train) == fingerprint(data.train[:4])
    assert {example.label for example in data.train} == set(range(8))
    body, kind = data.train[0].encoded()
    sent = open_clip(body, ClipInput(motions.FRAMES, ImageInput(40, 40, "L")))
    assert kind == "image/apng"
    assert np.array_equal(
        np.stack([np.asarray(frame) for frame in sent]), np.asarray(data.train[0].image)[..., 0]
    )
