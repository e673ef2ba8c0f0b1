"""Sounds kept on disk until their gain is known, then written as files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import soundfile

from haa_peft.commands.outputs import beside
from haa_peft.errors import InputError
from haa_peft.listening.loudness import Meter

PEAK_DB = -1.0
"""re full scale, of the loudest file unless a gain is given."""
FRAMES = 1 << 16
"""That are written at once."""
TINY = 1e-12


class Recording:
    """A sound of any length, in an unnamed file of interleaved 32-bit floats.

    Attributes
    ----------
    meter : its peak, and how loud it is; of several channels that are no ears, the first.
    """

    def __init__(self, rate: int, ears: bool = True) -> None:
        self.meter, self._rate, self._ears, self._channels = Meter(rate), rate, ears, 0
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115

    def add(self, block: np.ndarray) -> None:
        """Take the next samples (C, n) float32."""
        self._channels = len(block)
        self._file.write(block.T.tobytes())
        self.meter.add(block, None if self._ears else 1)

    def write(self, out: Path, gain_db: float) -> None:
        """Write a file of 24 bits; raises ``InputError`` where that cannot be."""
        self._file.seek(0)
        kind = out.suffix[1:].upper()
        try:
            with beside(out) as place, soundfile.SoundFile(place, "w", self._rate, self._channels, "PCM_24",
                                                           format=kind) as file:  # fmt: skip
                while content := self._file.read(4 * self._channels * FRAMES):
                    samples = np.frombuffer(content, dtype=np.float32).reshape(-1, self._channels)
                    file.write(samples * np.float32(10 ** (gain_db / 20)))
        except RuntimeError as error:
            raise InputError(f"{out}: cannot be written ({str(error).rstrip('.')}); choose another ending") from None
        self._file.close()


class Said(NamedTuple):
    """Of a file: gain in dB, peak in dBFS and loudness in LUFS with it."""

    gain: float
    peak: float
    loudness: float


def levels(meters: Sequence[Meter], gain_db: float | None = None, same_loudness: bool = False) -> list[Said]:
    """Gains of sounds that are compared, with which none clips.

    Parameters
    ----------
    meters : of each sound.
    gain_db : of all; the loudest peaks at -1 dBFS unless it is given.
    same_loudness : bring all to the loudness of the first before; else all get one gain.

    Raises
    ------
    InputError
        For a gain with which one clips, or a sound without loudness that is to have the same.
    """
    peaks = [20 * np.log10(max(meter.peak, TINY)) for meter in meters]
    loud = [meter.loudness for meter in meters]
    own = [0.0] * len(meters)
    if same_loudness:
        if not np.isfinite(loud).all():
            raise InputError("--same-loudness: a file is silent or below 0.1 s, so it has no loudness; leave it out")
        own = [loud[0] - one for one in loud]
    loudest = max(peak + gain for peak, gain in zip(peaks, own, strict=True))
    if gain_db is not None and loudest + gain_db > 0:
        raise InputError(f"--gain {gain_db:g} would clip; give at most {np.floor(-loudest * 100) / 100:.2f} dB")
    common = PEAK_DB - loudest if gain_db is None else gain_db
    return [Said(gain + common, peak + gain + common, one + gain + common)
            for gain, peak, one in zip(own, peaks, loud, strict=True)]  # fmt: skip
