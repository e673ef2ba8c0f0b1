"""Sounds are read within limits; odd ones are refused in one line."""

import struct

import numpy as np
import pytest
import soundfile

from haa_peft.errors import InputError
from haa_peft.page.sounds import read_sound

RATE = 8000
TONE = np.sin(np.arange(RATE) / 5) * 0.25


def written(path, samples, rate=RATE, **more):
    soundfile.write(path, samples, rate, **more)
    return path


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_sounds_are_read_at_a_peak_of_one(kind, tmp_path):
    samples, rate = read_sound(written(tmp_path / f"tone.{kind}", TONE))
    assert rate == RATE
    assert abs(samples).max() == pytest.approx(1)
    assert len(samples) >= RATE
    if kind in ("wav", "flac", "aiff"):
        np.testing.assert_allclose(samples, TONE / abs(TONE).max(), atol=1e-3)


def test_channels_are_averaged(tmp_path):
    samples, _ = read_sound(written(tmp_path / "two.wav", np.stack([TONE, 0 * TONE], axis=1), subtype="FLOAT"))
    np.testing.assert_allclose(samples, TONE / abs(TONE).max(), atol=1e-6)


def test_huge_values_are_brought_down(tmp_path):
    samples, _ = read_sound(written(tmp_path / "huge.wav", TONE * 1e300, subtype="DOUBLE"))
    np.testing.assert_allclose(samples, TONE / abs(TONE).max(), atol=1e-6)


def long_header(path, seconds, rate):
    """A WAV file whose header says hours, with a second of samples behind it."""
    size = 2 * rate * seconds
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16,
                       b"data", size)  # fmt: skip
    path.write_bytes(head + (TONE * 32767).astype("<i2").tobytes())
    return path


def flac_of_hours(path):
    """A FLAC file whose header says three hours."""
    written(path, TONE)
    content = bytearray(path.read_bytes())
    total = 3 * 3600 * RATE  # 36 bits behind rate, channels and sample size
    content[21] = content[21] & 0xF0 | total >> 32
    content[22:26] = struct.pack(">I", total & 0xFFFFFFFF)
    path.write_bytes(content)
    return path


ODD = {
    "a text": (lambda p: p.write_text("hello") and p, "cannot be read as a sound"),
    "nothing": (lambda p: p.touch() or p, "cannot be read as a sound"),
    "half a header": (lambda p: p.write_bytes(b"RIFF\x24\0\0\0WAVEfmt ") and p, "cannot be read as a sound"),
    "no samples": (lambda p: written(p, np.zeros(0)), "holds no samples"),
    "silence": (lambda p: written(p, np.zeros(800)), "is silent"),
    "NaN": (lambda p: written(p, np.append(TONE, np.nan), subtype="FLOAT"), "not finite"),
    "infinity": (lambda p: written(p, np.append(TONE, np.inf), subtype="FLOAT"), "not finite"),
    "eight channels": (lambda p: written(p, np.ones((800, 8))), "has 8 channels but must have 1 or 2"),
    "channels that cancel": (lambda p: written(p, np.stack([TONE, -TONE], axis=1)), "channels cancel"),
    "a low rate": (lambda p: written(p, TONE, 100), "has 100 samples a second but must have 8000 to 192000"),
    "a high rate": (lambda p: written(p, TONE, 1_000_000), "has 1000000 samples a second"),
    "31 seconds": (lambda p: written(p, np.tile(TONE, 31)), "lasts 31 s but at most 30 s"),
    "a header of three hours": (flac_of_hours, "lasts 10800 s but at most 30 s"),
    "another format": (lambda p: written(p, TONE, format="W64"), "is a W64 file but must be wav, flac"),
    "a folder": (lambda p: p.mkdir() or p, "cannot be read as a sound"),
    "no file": (lambda p: p, "cannot be read as a sound"),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_files_are_refused_in_one_line(odd, tmp_path):
    make, reason = ODD[odd]
    with pytest.raises(InputError) as refused:
        read_sound(make(tmp_path / ("odd.flac" if "hours" in odd else "odd.wav")))
    said = str(refused.value)
    assert said.startswith("odd.")
    assert reason in said
    assert "\n" not in said
    assert str(tmp_path) not in said


def test_a_header_that_lies_is_bounded_by_what_is_there(tmp_path):
    samples, _ = read_sound(long_header(tmp_path / "long.wav", 3 * 3600, RATE))
    assert len(samples) == len(TONE)
