"""Dry sounds that people give: read within limits, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from haa_peft.errors import InputError

KINDS = {"WAV": ".wav", "WAVEX": ".wav", "FLAC": ".flac", "OGG": ".ogg", "MP3": ".mp3", "AIFF": ".aiff"}
"""Formats of libsndfile that are read, and how such files end."""
LONGEST_S = 30.0
LARGEST_MB = 20
"""Of a file, MB."""
RATES = (8_000, 192_000)
"""Hz, the lowest and the highest."""
MOST_CHANNELS = 2
QUIETEST = 1e-6
"""Peak of a sound that is not silent."""
CANCELLED = 1e-3
"""Peak of the mean of two channels, over theirs, below which they cancel."""


def read_sound(path: Path, longest_s: float = LONGEST_S) -> tuple[np.ndarray, int]:
    """A dry sound (N,), its channels averaged, at a peak of 1, and its sample rate in Hz.

    Parameters
    ----------
    path : a wav, flac, ogg, mp3 or aiff file of one or two channels.
    longest_s : seconds that it may last.

    Raises
    ------
    InputError
        For anything else, in a line that begins with the file's name.
    """
    import soundfile

    name = path.name[-80:]
    kinds = ", ".join(dict.fromkeys(ending[1:] for ending in KINDS.values()))
    try:
        with soundfile.SoundFile(path) as file:
            if file.format not in KINDS:
                raise InputError(f"{name}: is a {file.format} file but must be {kinds}")
            _check(name, file.channels, file.samplerate, file.frames, longest_s)
            rate = int(file.samplerate)
            samples = file.read(int(longest_s * rate) + 1, dtype="float64", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, OSError, MemoryError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: cannot be read as a sound; give one of {kinds}") from None
    _check(name, samples.shape[1], rate, len(samples), longest_s)  # the header may have said another length
    if not np.isfinite(samples).all():
        raise InputError(f"{name}: holds values that are not finite; write it anew")
    peak = float(np.abs(samples).max())
    if peak < QUIETEST:
        raise InputError(f"{name}: is silent; give a sound")
    mono = (samples / peak).mean(axis=1)
    level = float(np.abs(mono).max())
    if level < CANCELLED:
        raise InputError(f"{name}: its two channels cancel; give a mono file")
    return mono / level, rate


def _check(name: str, channels: int, rate: int, frames: int, longest_s: float) -> None:
    if not 1 <= channels <= MOST_CHANNELS:
        raise InputError(f"{name}: has {channels} channels but must have 1 or {MOST_CHANNELS}")
    if not RATES[0] <= rate <= RATES[1]:
        raise InputError(f"{name}: has {rate} samples a second but must have {RATES[0]} to {RATES[1]}")
    if frames <= 0:
        raise InputError(f"{name}: holds no samples; give a sound")
    if frames > longest_s * rate:
        raise InputError(f"{name}: lasts {frames / rate:.0f} s but at most {longest_s:g} s are taken; cut it")
