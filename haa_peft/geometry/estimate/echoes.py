"""Evidence of echoes in measured RIRs: how much likelier than chance something arrives at a given time.

The measurements are rid of what the loudspeaker adds, by dividing by their common direct sound. Echoes off one surface
then lie, over all positions, on the arrival times of its image source, and clutter does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d, uniform_filter1d
from scipy.signal import butter, sosfiltfilt

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.errors import InputError

HIGHPASS_HZ = 1000.0
"""Below it room modes and loudspeakers ring for longer than echoes are apart."""
BEFORE, AFTER = 16, 44
"""Samples of the direct sound around its arrival: 0.7 ms and 2 ms."""
REGULARISATION = 0.02
"""Of the division by the direct sound's spectrum, relative to its strongest frequency."""
WIDTH = 1.0
"""Samples that energy is smoothed over (standard deviation)."""
SURROUNDINGS = 720
"""Samples to either side whose mean magnitude a moment is compared with: 33 ms."""
LARGEST = 3.0
"""Times that mean; more counts as this much, so that one loud echo does not outvote eleven measurements."""
GUARD = 8
"""Samples from the direct sound's arrival on in which it hides echoes."""
LOUDER = 2.0
"""Times the surroundings: how loud an echo is expected."""
ABSENT = (0.3, 0.6, 0.6)
"""Share of positions whose echo of first, second or third order is hidden, weak or not there at all."""
THIRD_ORDER = 0.5
"""Weight of what third-order echoes say."""
COMMON = 88
"""Samples to either side over which the measurements' common course after the direct sound is smoothed: 4 ms."""
LEAST_RIRS = 3


@dataclass(frozen=True)
class EchoEvidence:
    """Log likelihood ratios (orders, N, T) of an echo against none, per order, measurement and sample at 22 050 Hz.

    positions (N, 3) and receiver (3,) in metres.
    """

    log_ratio: np.ndarray
    positions: np.ndarray
    receiver: np.ndarray

    def of_images(self, images: np.ndarray, order: int = 1) -> np.ndarray:
        """Evidence per measurement and image, (N, ...), for images (N, ..., 3) in metres of the N positions."""
        return self.of_distances(np.linalg.norm(images - self.receiver, axis=-1), order)

    def of_distances(self, distances: np.ndarray, order: int = 1) -> np.ndarray:
        """The same for lengths (N, ...) of paths in metres; nothing is known beyond the RIRs' end."""
        table = self.log_ratio[order - 1]
        length = table.shape[1]
        sample = (distances * (SAMPLE_RATE / SPEED_OF_SOUND) + 0.5).astype(np.intp)
        np.minimum(sample, length - 1, out=sample)  # the last sample is kept neutral
        sample += np.arange(len(table)).reshape(-1, *[1] * (sample.ndim - 1)) * length
        return table.ravel().take(sample)


def echo_evidence(rirs: np.ndarray, positions: np.ndarray, receiver: np.ndarray) -> EchoEvidence:
    """What RIRs (N, T) at 22 050 Hz, with propagation delay, say about when echoes arrive.

    Magnitudes above 1 kHz, over their mean within 33 ms, are taken for exponentially distributed, about 1 where there
    is no echo and about 2 where there is one; with some chance (``ABSENT``) an echo is not there although its surface
    is.

    Parameters
    ----------
    rirs : (N, T), at least 3 measurements.
    positions, receiver : (N, 3) and (3,) m.

    Raises
    ------
    InputError
        When they are fewer, of other shapes, not finite, or end within 33 ms of their direct sound.
    """
    rirs, positions = np.asarray(rirs, dtype=np.float64), np.asarray(positions, dtype=np.float64)
    receiver = np.asarray(receiver, dtype=np.float64)
    if rirs.ndim != 2 or positions.shape != (len(rirs), 3) or receiver.shape != (3,):
        raise InputError(
            f"rirs {rirs.shape}, positions {positions.shape} and receiver {receiver.shape} must be (N, T), (N, 3), (3,)"
        )
    if len(rirs) < LEAST_RIRS:
        raise InputError(f"{len(rirs)} measurements are too few to tell walls from clutter; give at least {LEAST_RIRS}")
    if not (np.isfinite(rirs).all() and np.isfinite(positions).all() and np.isfinite(receiver).all()):
        raise InputError("rirs, positions or receiver hold NaN or infinity; remove or measure again what does")
    onset = np.rint(np.linalg.norm(positions - receiver, axis=1) / SPEED_OF_SOUND * SAMPLE_RATE).astype(np.int64)
    late = np.flatnonzero(onset + SURROUNDINGS > rirs.shape[1])
    if len(late):
        raise InputError(
            f"RIR {late[0]} of {rirs.shape[1]} samples ends within 33 ms of its direct sound; "
            f"give longer RIRs at {SAMPLE_RATE} Hz"
        )
    highpass = butter(2, HIGHPASS_HZ, "highpass", fs=SAMPLE_RATE, output="sos")
    sharp = sosfiltfilt(highpass, without_loudspeaker(rirs, onset), axis=1)
    magnitude = np.sqrt(gaussian_filter1d(sharp**2, WIDTH, axis=1, mode="constant").clip(0))
    loudness = np.zeros_like(magnitude)
    for row, measured, start in zip(loudness, magnitude, onset + GUARD, strict=True):
        mean = uniform_filter1d(measured[start:], 2 * SURROUNDINGS + 1, mode="reflect")
        row[start:] = np.minimum(measured[start:] / np.maximum(mean, 1e-30), LARGEST)
    ratio = np.exp(loudness * (1 - 1 / LOUDER)) / LOUDER
    log_ratio = np.stack([np.log(absent + (1 - absent) * ratio) for absent in ABSENT])
    log_ratio[2] *= THIRD_ORDER
    return EchoEvidence(_centred(log_ratio, onset + GUARD), positions, receiver)


def _centred(log_ratio: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Evidence (orders, N, T) less what all have so long after their direct sound; 0 up to ``start`` (N,).

    Loudspeakers that go on ringing, and decay, make early moments louder than later ones in every measurement. And the
    mean of what is measured becomes neutral, so a wall whose echoes would come when nothing is known gains nothing.
    """
    length = log_ratio.shape[2]
    longest = length - start.min()
    aligned = np.full((*log_ratio.shape[:2], longest), np.nan)
    for i, begin in enumerate(start):
        aligned[:, i, : length - begin] = log_ratio[:, i, begin:]
    common = uniform_filter1d(np.nanmean(aligned, axis=1), 2 * COMMON + 1, axis=1, mode="nearest")
    centred = np.zeros_like(log_ratio)
    for i, begin in enumerate(start):
        centred[:, i, begin:] = log_ratio[:, i, begin:] - common[:, : length - begin]
    centred[:, :, -1] = 0  # stands for all that comes later
    return centred.astype(np.float32)


def without_loudspeaker(rirs: np.ndarray, onset: np.ndarray) -> np.ndarray:
    """RIRs (N, T) divided by the direct sound that they have in common, whose arrival (N,) is in samples.

    Echoes come at other times after the direct sound in every measurement, so the median over measurements keeps the
    loudspeaker's response alone.
    """
    padded = np.pad(rirs, ((0, 0), (BEFORE, AFTER)))
    direct = np.stack([row[start : start + BEFORE + AFTER] for row, start in zip(padded, onset, strict=True)])
    peak = np.abs(direct).max(axis=1, keepdims=True)
    fade = np.hanning(AFTER)[AFTER // 2 :]
    window = np.concatenate([np.ones(BEFORE + AFTER - len(fade)), fade])
    response = np.median(direct / np.maximum(peak, 1e-30), axis=0) * window
    if not response.any():
        return rirs
    length = 1 << int(rirs.shape[1] + BEFORE + AFTER).bit_length()
    spectrum = np.fft.rfft(response, length)
    power = np.abs(spectrum) ** 2
    early = np.exp(-2j * np.pi * np.fft.rfftfreq(length) * BEFORE)  # the response begins before the arrival
    inverse = spectrum.conj() * early / (power + REGULARISATION * power.max())
    return np.fft.irfft(np.fft.rfft(rirs, length) * inverse, length)[:, : rirs.shape[1]]
