"""Sounds are read from any format that the library writes, at any rate; bad ones are refused."""

import io
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
import soundfile
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from handlers.inputs.sound_files import FORMATS
from handlers.inputs.sounds import LISTENED, Sound, SoundInput, read_sound
from handlers.protocol.errors import BadRequest, RequestError
from tests.support.bad_sounds import bad_sounds
from tests.support.sound_models import INPUT, RATE, file_of, tone

TONE = tone("low", 0.5)
LOSSLESS = ("WAV", "FLAC", "AIFF", "AU", "CAF", "W64")
CODED = ("ADPCM", "GSM", "ULAW", "ALAW", "VORBIS", "OPUS", "MPEG", "G72", "DWVW", "DPCM")
UNWRITTEN = ("MPEG_LAYER_I", "MPEG_LAYER_II", "DWVW_12")  # that the library lists and doesn't write
WRITTEN = [
    (form, subtype)
    for form in soundfile.available_formats()
    for subtype in soundfile.available_subtypes(form)
    if form not in ("RAW", "SD2")
    and subtype not in UNWRITTEN
    and (form, subtype) != ("WAV", "MPEG_LAYER_III")
]


def heard(body: object, rate: int | None = None, sounds: SoundInput = INPUT) -> Sound:
    """A sound with its samples."""
    return read_sound(body, sounds, rate)


@pytest.mark.parametrize(("form", "subtype"), WRITTEN)
def test_every_format_is_read_or_refused_by_name(form: str, subtype: str) -> None:
    """16, 24 and 32 bits, floats and compressed ones: the samples are those that were written."""
    body = file_of(TONE, form=form, subtype=subtype)
    if form not in FORMATS or "DWVW" in subtype:
        with pytest.raises(BadRequest):
            heard(body)
        return
    sound = heard(body)

    assert sound.waveform is not None
    assert abs(len(sound.waveform) - len(TONE)) <= (3_000 if form == "MP3" else 700)
    length = min(len(sound.waveform), len(TONE))
    spectra = [np.abs(np.fft.rfft(one[:length])) for one in (sound.waveform, TONE)]
    likeness = np.prod(spectra, axis=0).sum() / np.prod([np.sqrt(np.square(one).sum()) for one in spectra])
    assert likeness > (0.98 if any(name in subtype for name in CODED) else 0.9995)


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from([one for one in WRITTEN if one[0] in LOSSLESS and "DWVW" not in one[1]]),
    rate=st.sampled_from([8_000, 11_025, 16_000, 44_100, 48_000]),
    channels=st.integers(1, 6),
    seconds=st.floats(0.03, 0.6),
)
def test_any_rate_and_channels_give_the_same_sound(
    form: tuple[str, str], rate: int, channels: int, seconds: float
) -> None:
    """At the graph's rate, in one channel, as long as it was, as loud as it was."""
    samples = np.repeat(tone("low", seconds, rate)[:, None], channels, 1)
    try:
        body = file_of(samples, rate, *form)
    except (soundfile.SoundFileError, ValueError):  # not every coding has every rate and channels
        assume(False)
    sound = heard(body)

    assert sound.waveform is not None
    assert sound.waveform.dtype == np.float32
    assert abs(len(sound.waveform) - len(samples) * RATE / rate) <= 700  # compressed ones come in blocks
    loudness = [float(np.sqrt(np.mean(np.square(one)))) for one in (sound.waveform, samples)]
    assert loudness[0] == pytest.approx(loudness[1], rel=0.4 if seconds < 0.1 else 0.2)


@pytest.mark.parametrize("name", bad_sounds())
def test_a_bad_sound_is_refused_in_words(name: str) -> None:
    """With what is wrong, and where."""
    body, status, words = bad_sounds()[name]
    with pytest.raises(RequestError, match=words) as refused:
        heard(body)

    assert refused.value.status == status


def test_a_stream_without_a_length_is_read() -> None:
    """What a pipe writes has no length in its header."""
    for size in (0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFDA):
        body = bytearray(file_of(TONE))
        body[40:44] = size.to_bytes(4, "little")
        sound = heard(bytes(body))

        assert sound.waveform is not None
        assert np.abs(sound.waveform - TONE).max() < 1e-4


def test_a_clipped_sound_says_so() -> None:
    """It is answered, with the share of its samples at full scale."""
    loud = np.clip(4 * TONE, -1, 1)

    assert heard(file_of(TONE)).clipped == 0
    assert heard(file_of(loud)).clipped == pytest.approx(float((np.abs(loud) >= 1).mean()), abs=1e-3)


def test_numbers_are_samples_at_the_rate_that_is_said() -> None:
    """By default the graph's."""
    for payload in (TONE, TONE.tolist(), TONE.astype(np.float64)):
        sound = heard(payload)
        assert sound.waveform is not None
        assert np.allclose(sound.waveform, TONE)
    twice = heard(tone("low", 0.5, 16_000), 16_000)
    assert twice.waveform is not None
    assert abs(len(twice.waveform) - 4_000) <= 1
    for payload, words in (
        ([], "no samples"),
        ([0.5, float("nan")] * 300, "finite"),
        ([[0.5, 0.1]] * 300, "numbers, not list"),
        (np.ones((2, 300), np.float32), "one channel"),
        (np.ones(300, np.int16), "divide whole numbers"),
        ([3.0, 20.0] * 300, "full scale of 1"),
        ({"a": 1}, "send the file"),
    ):
        with pytest.raises(BadRequest, match=words):
            heard(payload)
    with pytest.raises(BadRequest, match="the file says 8000"):
        heard(file_of(TONE), 16_000)


def test_windows_are_the_same_however_a_sound_is_read() -> None:
    """Kept as samples, or read again block by block; the last one ends where the sound does."""
    for seconds in (0.49, 0.5, 0.51, 0.75, 3.7):
        samples = tone("low", seconds)
        kept = heard(file_of(samples))
        again = Sound(INPUT, kept.seconds, 0.0, None, file_of(samples))
        for one in (kept, again):
            windows = list(one.windows())
            starts = [start for start, _ in windows]
            assert starts == list(INPUT.starts(len(samples)))
            assert windows[-1][0] + len(windows[-1][1]) == len(samples)
            for start, window in windows:
                assert np.abs(window - samples[start : start + INPUT.window]).max() < 1e-4


@pytest.mark.parametrize("minutes", [10, pytest.param(180, marks=pytest.mark.slow)])
def test_a_long_sound_needs_no_more_memory_than_its_file(minutes: int) -> None:
    """Of a window a second, at another rate: at most 20 MB beside the file's bytes, and nothing is kept."""
    config = SoundInput(RATE, window=8_000, hop=8_000, minimum=200)
    block = (tone("low", 60, 4_000) * 32_767).astype(np.int16)
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 4_000, 1, "PCM_16", format="FLAC", compression_level=0.0) as file:
        for _ in range(minutes):
            file.write(block)
    body = buffer.getvalue()
    tracemalloc.start()
    sound = read_sound(body, config)
    count = sum(1 for _ in sound.windows())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert sound.seconds == count == 60 * minutes
    assert sound.seconds > LISTENED
    assert most < 20e6 + len(body)


@settings(max_examples=100, deadline=None)
@given(
    body=st.binary(max_size=300)
    | st.tuples(
        st.sampled_from([file_of(TONE, form=form) for form in ("WAV", "FLAC", "OGG", "AIFF", "MP3")]),
        st.integers(0, 3_000),
        st.binary(min_size=1, max_size=8),
    ).map(lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + len(parts[2]) :])
)
def test_whatever_is_sent_is_a_sound_or_refused(body: bytes) -> None:
    """A sound has finite samples of one channel."""
    with suppress(RequestError):
        sound = heard(body)
        assert all(np.isfinite(window).all() and window.ndim == 1 for _, window in sound.windows())
