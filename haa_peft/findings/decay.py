"""How far down decays can be read, and what else than sound is in them: noise, hum, an early end, missing bands."""

from __future__ import annotations

import numpy as np

from haa_peft.acoustics.iso import NEPERS_PER_DB, late_decay, sounding_part
from haa_peft.findings.finding import ERROR, NOTE, Finding

ROWS = 64
"""RIRs that are looked at, spread evenly."""
READABLE_DB = {"EDT": 20.0, "T20": 35.0, "T30": 45.0}
"""Usable range that a decay time needs: its lower limit and 10 dB of headroom (ISO 3382-1)."""
FLAT = 0.4
"""Times the rate of decay before, below which the end of an RIR is noise."""
SHORT_S = 0.1
SPOILT_S = 0.25
"""Seconds; what ends before while it decays is not what the network learns."""
MODELLED_S = 0.435
"""Seconds that the network models."""
HUM_HZ = (50.0, 60.0)
HUM_DB, HUM_LINES = 12.0, 3
"""Decibels above their surroundings that so many of the first six harmonics must be."""
HUM_SECONDS = 0.15
"""That lines are told apart in."""
BAND_DB = 40.0
"""Decibels below the middle of the spectrum, behind which a third of an octave holds nothing."""
BAND_HZ = 10_000.0
"""Hertz up to which rooms are heard; a limit below is noted."""


def decay_range(rirs: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many dB of each decay curve are decay, whether noise ends it, and the seconds per 60 dB of its late part.

    Parameters
    ----------
    rirs : (N, T) as measured.
    rate : Hz.

    Returns
    -------
    (N,) dB, (N,) of bool (False: the recording ends first), (N,) s; NaN where no decay is found above the noise.
    """
    signals = rirs.astype(np.float64)
    onset, end = sounding_part(signals)
    power = signals**2
    decay = late_decay(power, onset, end, rate)
    sample = np.arange(power.shape[1])
    inside = (sample >= onset[:, None]) & (sample < decay.cut[:, None])
    with np.errstate(all="ignore"):
        total = np.where(inside, power - decay.noise[:, None], 0.0).sum(axis=1) + decay.tail
        range_db = 10 * np.log10(total / decay.tail)
    by_noise = _flat_at_the_end(power, onset, end) | ~np.isfinite(range_db)
    return range_db, by_noise, 60 * NEPERS_PER_DB / decay.rate / rate


def _flat_at_the_end(power: np.ndarray, onset: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Whether power (N, T) falls less than 0.4 times as fast in the last quarter as in the two before, (N,)."""
    sums = np.pad(np.cumsum(power, axis=1), ((0, 0), (1, 0)))
    edges = onset[:, None] + np.rint((end - onset)[:, None] * np.array([0.25, 0.5, 0.75, 0.875, 1])).astype(int)
    energy = np.maximum(np.diff(np.take_along_axis(sums, edges, axis=1), axis=1), 1e-300)
    middle, last = 10 * np.log10(energy[:, 0] / energy[:, 1]), 20 * np.log10(energy[:, 2] / energy[:, 3])
    return (last < FLAT * middle) | (middle < 1)


def check_length(samples: int, rate: int) -> list[Finding]:
    """Whether RIRs of so many samples are too short to hold a room."""
    seconds = samples / rate
    if seconds >= SHORT_S:
        return []
    text = f"the RIRs are {1000 * seconds:.3g} ms ({samples} samples) long"
    return [Finding("short", ERROR, text, f"measure {MODELLED_S} s or more", figures={"seconds": seconds})]


def check_decay(rirs: np.ndarray, rate: int, arrival: np.ndarray) -> list[Finding]:
    """What limits how far down the decays of RIRs (N, T) can be read; ``arrival`` (N,) is their direct sound's, s."""
    rows = np.unique(np.linspace(0, len(rirs) - 1, min(len(rirs), ROWS)).round().astype(int))
    some = rirs[rows]
    seconds = rirs.shape[1] / rate
    range_db, noisy, _ = decay_range(some, rate)
    found = [_limit(range_db, noisy, seconds), _hum(some, rate), _band(some, rate, arrival[rows])]
    return [one for one in found if one is not None]


def _limit(range_db: np.ndarray, noisy: np.ndarray, seconds: float) -> Finding | None:
    """Noise, or the end of the recording, that comes before decay times can be read."""
    usable = float(np.median(np.nan_to_num(range_db, nan=0.0)))
    lost = [name for name, needed in READABLE_DB.items() if usable < needed]
    if "T20" not in lost:
        return None
    by_noise = bool(np.median(noisy) >= 0.5)
    figures = {"usable_db": usable}
    text = f"{usable:.0f} dB of decay can be read (median), too little for {', '.join(lost)}"
    if by_noise:
        severity = ERROR if "EDT" in lost else NOTE
        return Finding(
            "noise", severity, f"{text}: noise ends it", "average more sweeps, or play louder", figures=figures
        )
    if seconds >= MODELLED_S:
        return None  # a long decay, of which the network models the beginning
    severity = ERROR if "EDT" in lost and seconds < SPOILT_S else NOTE
    text += f": the RIRs end after {seconds:.3f} s while they decay"
    return Finding("truncated", severity, text, f"keep {MODELLED_S} s or more", figures=figures)


def _hum(rirs: np.ndarray, rate: int) -> Finding | None:
    """Lines of the mains in what is left at the end."""
    length = rirs.shape[1] // 2
    if length < HUM_SECONDS * rate:
        return None
    tail = rirs[:, -length:].astype(np.float64)
    tail = tail - tail.mean(axis=1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(tail * np.hanning(length), 4 * length)) ** 2
    frequencies = np.fft.rfftfreq(4 * length, 1 / rate)
    best, above, mains_hz = 0.0, np.empty(0), 0.0
    for mains in HUM_HZ:
        away = np.abs(frequencies[:, None] - mains * np.arange(1, 7)) / mains
        at, beside = away <= 2.0 / mains, (away >= 0.4) & (away <= 0.6)
        peak = np.stack([spectrum[:, column].max(axis=1) for column in at.T])
        floor = np.stack([np.median(spectrum[:, column], axis=1) for column in beside.T])
        decibels = 10 * np.log10(np.maximum(np.median(peak / np.maximum(floor, 1e-300), axis=1), 1e-300))
        if np.sort(decibels)[-HUM_LINES] > best:
            best, above, mains_hz = float(np.sort(decibels)[-HUM_LINES]), decibels, mains
    if best < HUM_DB or _decays(tail, rate, mains_hz):
        return None
    level = 20 * np.log10(np.median(np.sqrt((tail**2).mean(axis=1)) / np.abs(rirs).max(axis=1)))
    lines = ", ".join(f"{mains_hz * (k + 1):.0f}" for k in np.flatnonzero(above > HUM_DB))
    text = f"lines at {lines} Hz stand up to {above.max():.0f} dB out of the end, which is {level:.0f} dB re the peak"
    figures = {"mains_hz": mains_hz, "above_db": float(above.max())}
    return Finding("hum", NOTE, text, "mend the ground loop, or take the lines out", figures=figures)


def _decays(tail: np.ndarray, rate: int, mains: float) -> bool:
    """Whether the lines get weaker, as a room's modes do and the mains do not."""
    half = tail.shape[1] // 2
    window = np.hanning(half)
    lines = np.exp(-2j * np.pi * mains * np.arange(1, 7)[:, None] * np.arange(half) / rate) * window
    first, second = (np.abs(part @ lines.T) ** 2 for part in (tail[:, :half], tail[:, half : 2 * half]))
    return bool(np.median(10 * np.log10(first.sum(axis=1) / np.maximum(second.sum(axis=1), 1e-300))) > 3)


def _band(rirs: np.ndarray, rate: int, arrival: np.ndarray) -> Finding | None:
    """The frequency above which nothing was measured."""
    size = min(rirs.shape[1], round(0.05 * rate))
    start = np.clip(np.rint(arrival * rate).astype(int) - size // 20, 0, rirs.shape[1] - size)
    early = np.stack([row[at : at + size] for row, at in zip(rirs.astype(np.float64), start, strict=True)])
    early /= np.maximum(np.abs(early).max(axis=1, keepdims=True), 1e-300)
    power = (np.abs(np.fft.rfft(early * np.hanning(size))) ** 2).mean(axis=0)
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    centres = 1000 * 2 ** (np.arange(-3, 13) / 3)
    centres = centres[centres * 2 ** (-1 / 6) < rate / 2]
    octaves = np.log2(np.maximum(frequencies, 1))[:, None] - np.log2(centres)
    level = np.array([10 * np.log10(power[np.abs(third) <= 1 / 6].mean() + 1e-300) for third in octaves.T])
    middle = np.median(level[(centres >= 500) & (centres <= 4000)])
    heard = np.flatnonzero(level > middle - BAND_DB)
    highest = min(float(centres[heard[-1]] * 2 ** (1 / 6)), rate / 2) if len(heard) else 0.0
    if highest >= BAND_HZ:
        return None
    text = f"nothing was measured above {highest / 1000:.1f} kHz"
    cure = "measure up to 10 kHz or more; what is predicted above is made up"
    return Finding("band", ERROR if highest < 2000 else NOTE, text, cure, figures={"highest_hz": highest})
