"""Features of sounds inside the graph: as their definitions say, whatever a sound is filled up with."""

from pathlib import Path

import numpy as np
import pytest
import torch

from handlers.inputs.sounds import SoundInput
from handlers.kinds.audio_classifier import filled
from handlers.runtime.runtimes import openvino_core
from tests.support.sound_models import RATE, tone
from training.data.sounds import Sound
from training.export.runtimes import openvino_form
from training.sounds.augmentation import hidden, stretched, varied
from training.sounds.features import FrontEnd, mel_bands
from training.sounds.learner import SoundSplit
from training.sounds.networks import SoundNetwork
from training.sounds.settings import Settings

FRAME, HOP, MELS = 256, 80, 40
EVERY = ("log_mel", "mfcc", "chroma", "rms", "zero_crossings", "centroid", "rolloff")


def rows(feature: str, waveform: np.ndarray) -> np.ndarray:
    """Of one waveform: float32 [rows, frames]."""
    front = FrontEnd((feature,), RATE, FRAME, HOP, MELS)  # type: ignore[arg-type]
    return front(torch.from_numpy(waveform)[None])[0].numpy()  # type: ignore[no-any-return]


def test_log_mel_is_that_of_the_fourier_transform() -> None:
    """As torch.stft has it, in bands of the mel scale."""
    waveform = tone("low", 0.5)
    window = torch.hann_window(FRAME, dtype=torch.float64)
    spectrum = torch.stft(
        torch.from_numpy(waveform).double(),
        FRAME,
        HOP,
        window=window,
        return_complex=True,
        pad_mode="constant",
    )
    power = (spectrum.abs() * 2 / window.sum()).square().numpy()
    bands = mel_bands(np.arange(FRAME // 2 + 1) * RATE / FRAME, RATE, MELS)

    assert np.abs(rows("log_mel", waveform) - np.log(bands @ power + 1e-6)).max() < 2e-3
    assert bands.sum(1) == pytest.approx(np.ones(MELS))


def test_each_feature_says_what_it_is_called_for() -> None:
    """Of tones: their pitch class, level, crossings, middle and highest frequencies."""
    times = np.arange(RATE) / RATE
    a4, loud = np.sin(2 * np.pi * 440 * times).astype(np.float32), 20
    middle = slice(20, 80)
    assert set(rows("chroma", a4)[:, middle].argmax(0)) == {9}  # C is 0
    assert rows("zero_crossings", a4)[0, middle] == pytest.approx(np.full(60, 880 / RATE), abs=0.01)
    assert rows("centroid", a4)[0, middle] == pytest.approx(np.full(60, 440 / 4_000), abs=0.01)
    assert rows("rolloff", a4)[0, middle] == pytest.approx(np.full(60, 440 / 4_000), abs=0.02)
    quieter = (a4 / loud).astype(np.float32)
    fall = rows("rms", a4)[0, middle] - rows("rms", quieter)[0, middle]
    assert fall == pytest.approx(np.full(60, 2 * np.log(loud)), abs=0.01)
    mel, mfcc = rows("log_mel", a4), rows("mfcc", a4)
    assert mfcc[0] == pytest.approx(mel.mean(0), abs=1e-4)
    basis = np.cos(np.pi / MELS * 3 * (np.arange(MELS) + 0.5)) * np.sqrt(2 / MELS)
    assert mfcc[3] == pytest.approx(basis @ mel, abs=1e-3)


@pytest.mark.parametrize("features", [("log_mel",), EVERY])
def test_what_a_sound_is_filled_up_with_changes_nothing(features: tuple[str, ...]) -> None:
    """Alone, and in a batch of longer ones; nor does its level, nor what stands behind its end."""
    torch.manual_seed(0)
    settings = Settings(data="x", hidden=4, layers=3, features=features)  # type: ignore[arg-type]
    network = SoundNetwork(settings, RATE, 3).eval()
    sounds = [tone("low", seconds) for seconds in (0.5, 0.06, 0.303)]
    waveforms, samples = map(torch.from_numpy, filled(sounds))
    together = network(waveforms, samples)
    for row, sound in enumerate(sounds):
        alone = network(torch.from_numpy(sound)[None], samples[row : row + 1])
        assert torch.allclose(alone[0], together[row], atol=1e-5)
    if features == ("log_mel",):
        assert torch.allclose(network(waveforms / 2, samples), together, atol=2e-2)


@pytest.mark.slow
def test_openvino_computes_every_feature(tmp_path: Path) -> None:
    """At any length, from the exported graph."""
    torch.manual_seed(0)
    settings = Settings(data="x", hidden=4, layers=3, features=EVERY)  # type: ignore[arg-type]
    network = SoundNetwork(settings, RATE, 3).eval()
    waveforms, samples = map(torch.from_numpy, filled([tone("low", 0.5), tone("high", 0.3)]))
    batch_size = torch.export.Dim("batch", min=1, max=8)
    shapes = ({0: batch_size, 1: torch.export.Dim("samples", min=400, max=9_000)}, {0: batch_size})
    program = torch.export.export(network, (waveforms, samples), dynamic_shapes=shapes, strict=False)
    openvino_form.converted(program, tmp_path / openvino_form.FILE)
    compiled = openvino_core().compile_model(tmp_path / openvino_form.FILE, "CPU")
    for seconds in (0.06, 0.4, 1.1):
        batch = filled([tone("high", seconds)])
        found = compiled(list(batch))[0]
        with torch.no_grad():
            expected = network(*map(torch.from_numpy, batch)).numpy()
        assert np.abs(found - expected).max() < 5e-2 * max(1, np.abs(expected).max())


def test_a_varied_sound_keeps_its_kind() -> None:
    """At another pitch and tempo, no longer than the window, finite, and another one at each draw."""
    settings = Settings(data="x")
    waveform, rng = tone("low", 0.5), np.random.default_rng(0)
    found = [varied(waveform, settings, RATE, 4_000, rng) for _ in range(20)]
    assert all(one.dtype == np.float32 and len(one) <= 4_000 and np.isfinite(one).all() for one in found)
    assert len({one.tobytes() for one in found}) == 20
    still = Settings(data="x", pitch=0, shift=0, noise=None, volume=0)
    assert np.array_equal(varied(waveform, still, RATE, 4_000, rng), waveform)
    high = varied(waveform, still.model_copy(update={"pitch": 12.0}), RATE, 9_000, np.random.default_rng(3))
    peaks = [np.abs(np.fft.rfft(one)).argmax() * RATE / len(one) for one in (waveform, high)]
    assert peaks[1] / peaks[0] == pytest.approx(len(waveform) / len(high), rel=0.03)


def test_stretched_and_hidden_features_keep_their_places() -> None:
    """No faster and no slower than allowed; stripes hide at most a fifth each."""
    torch.manual_seed(0)
    ramp = torch.arange(100.0).repeat(64, 5, 1)
    frames = torch.full((64,), 100)
    slower, count = stretched(ramp, frames, 0.25)
    for one, steps in zip(slower, count.tolist(), strict=True):
        assert 79 <= steps <= 134
        pace = one[0, 1:steps] - one[0, : steps - 1]
        assert bool((pace <= 1.26).all())
        assert bool((pace >= -1e-4).all())
    assert torch.equal(stretched(ramp, frames, 0.0)[0], ramp)
    shown = hidden(torch.ones(64, 1, 40, 100), frames, 1, 1)[:, 0]
    kept_rows, kept_frames = shown.amax(2).sum(1), shown.amax(1).sum(1)
    assert bool((kept_rows >= 31).all())
    assert bool((kept_frames >= 79).all())
    assert float(shown.mean()) < 0.95


def test_windows_to_learn_from_lie_side_by_side() -> None:
    """Those that are measured overlap, as they are served; a rest that is too short isn't learned from."""
    config = SoundInput(RATE, 4_000, 2_000, 400)
    sounds = [
        Sound(Path("a.wav"), 0, "a", "", count, config, np.zeros(count, np.float32))
        for count in (3_000, 9_000, 8_200)
    ]
    learned = SoundSplit(sounds, is_learned=True)
    assert learned.windows[:2] == [(0, 0, 3_000), (1, 0, 4_000)]
    assert learned.windows[2:] == [(1, 4_000, 4_000), (1, 8_000, 1_000), (2, 0, 4_000), (2, 4_000, 4_000)]
    served = SoundSplit(sounds, is_learned=False)
    assert [start for number, start, _ in served.windows if number == 1] == [0, 2_000, 4_000, 5_000]
