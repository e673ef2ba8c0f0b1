"""Room acoustic parameters of ISO 3382-1, broadband and in octave bands.

Not the figures of the xRIR paper: those count from sample 0 and read two points of the decay curve.

1. **Direct sound**: everything counts from the first sample of the broadband RIR within 20 dB of its maximum
   (Annex A).
2. **Octave bands**: magnitude of a third-order Butterworth band-pass (IEC 61260-1), applied to the spectrum
   with zero phase, since a causal filter delays and stretches the sound at low frequencies. What rings before
   the onset, over one reciprocal bandwidth, counts as direct sound and cannot move the onset. For exponential
   decays of time T in a band of width B the filter alone adds under 2 % to T20 and T30 from B T = 7 on (0.08 s
   at 125 Hz; causal filters need 16: Jacobsen, J. Sound Vib. 115, 1987), and to EDT 6 % at B T = 9, 3 % at 13
   and 1.5 % at 18.
3. **Noise and truncation** (5.3.3; Lundeby et al., Acustica 81, 1995): late decay and noise are fitted in turn.
   Noise is what the decay does not explain of the last part, so the end of a clean recording that still decays
   is not taken for noise. The RIR is cut where the decay meets the noise, or where the recording ends; noise is
   subtracted before the cut, and the energy of the extended late decay is added behind it.
4. **Headroom**: behind the cut the curve is assumed. A value is given only if the lowest level it reads lies
   10 dB above the level at the cut, be that noise or the end of the recording: there the corrected curve must be
   down 20 dB for EDT and Ts, 35 dB for T20, 45 dB for T30, and 10 dB below its level at 50 (80) ms for C50 (C80);
   D50 needs what C50 or what EDT needs, whichever is less. Otherwise it is NaN. With 0.42 s behind the direct
   sound, EDT exists for reverberation times up to 1.26 s, T20 up to 0.72 s and T30 up to 0.56 s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from haa_peft.checks import check_kind, is_rate, measured_rirs
from haa_peft.errors import InputError

Floats = NDArray[np.float64]
Samples = NDArray[np.int64]

OCTAVE_BANDS = (125, 250, 500, 1000, 2000, 4000)
PARAMETERS = ("edt_s", "t20_s", "t30_s", "c50_db", "c80_db", "d50", "ts_s")
DECAY_RANGES_DB = {"edt_s": (0, -10), "t20_s": (-5, -25), "t30_s": (-5, -35)}
HEADROOM_DB = 10.0
ONSET_DB = -20.0
SILENCE_DB = -120.0
SETTLING_S = 0.01
"""The late decay is not sought in the first 10 ms, where the direct sound is."""
ITERATIONS = 12
NEPERS_PER_DB = np.log(10) / 10
TINY = np.finfo(np.float64).tiny


def iso_metrics(
    rirs: ArrayLike,
    sample_rate: float,
    *,
    bands: Sequence[int] = OCTAVE_BANDS,
    headroom_db: float = HEADROOM_DB,
) -> dict[str, dict[str, Floats]]:
    """Decay times, clarity, definition and centre time of RIRs.

    Parameters
    ----------
    rirs : (N, T) sound pressure; arrays or CPU tensors of any float type.
    sample_rate : Hz.
    bands : nominal mid-band frequencies of octaves, Hz. A band that reaches over half the sample rate is NaN.
    headroom_db : see point 4 of the module's text.

    Returns
    -------
    ``{"broadband": {...}, "125": {...}, ...}``, each ``{"edt_s", "t20_s", "t30_s", "c50_db", "c80_db", "d50",
    "ts_s"}`` -> (N,). NaN where headroom is too small, or the RIR is silent, not finite or does not decay.

    Raises
    ------
    InputError : `rirs` is not two-dimensional, `sample_rate` not positive, or `bands` are no list of 1 to 100 000 Hz.
    """
    signals = measured_rirs(rirs, sample_rate)
    check_kind("bands", bands, (list, tuple), "a list of octaves' mid-band frequencies in Hz")
    for band in bands:
        if not is_rate(band) or not 1 <= band <= 100_000:
            raise InputError(f"bands hold {band!r:.60} but must be octaves' mid-band frequencies from 1 to 100000 Hz")
    if not isinstance(headroom_db, Real) or isinstance(headroom_db, bool) or not abs(headroom_db) <= 1000:
        raise InputError(f"headroom_db is {headroom_db!r:.60} but must be a number of dB from -1000 to 1000")
    signals = np.where(np.isfinite(signals).all(axis=1, keepdims=True), signals, 0.0)
    # Room for the filters to ring in: before the first sample, and so long behind that none of it comes round.
    ringing = {band: round(sample_rate / _octave(band)[1]) for band in bands}
    lead = max(ringing.values(), default=0)
    signals = np.pad(signals, ((0, 0), (lead, 0)))
    length = signals.shape[1]
    onset, end = sounding_part(signals)
    result = {"broadband": _parameters(signals, onset, onset, end, sample_rate, headroom_db)}

    padded = fft.next_fast_len(length + 10 * lead, real=True)
    spectra, frequencies = fft.rfft(signals, padded), fft.rfftfreq(padded, 1 / sample_rate)
    for band, blur in ringing.items():
        if _octave(band)[0] * 10**0.15 > sample_rate / 2:
            result[str(band)] = {name: np.full(len(signals), np.nan) for name in PARAMETERS}
            continue
        filtered = fft.irfft(spectra * octave_gain(frequencies, band), padded)[:, :length]
        result[str(band)] = _parameters(filtered, onset - blur, onset, end, sample_rate, headroom_db)
    return result


def sounding_part(rirs: Floats) -> tuple[Samples, Samples]:
    """First sample within 20 dB of the maximum, and the one behind the last above -120 dB: (N, T) -> (N,), (N,).

    Zeros behind the last sound are padding, not a measured decay: the recording ends with the sound.
    """
    level = np.abs(rirs) / np.maximum(np.abs(rirs).max(axis=1, keepdims=True), TINY)
    onset = (level >= 10 ** (ONSET_DB / 20)).argmax(axis=1)
    end = rirs.shape[1] - (level[:, ::-1] > 10 ** (SILENCE_DB / 20)).argmax(axis=1)
    return onset, end


def _octave(band: float) -> tuple[float, float]:
    """Exact mid-band frequency and bandwidth in Hz of a nominal octave (IEC 61260-1, base ten)."""
    centre = 1000 * 10 ** (0.3 * round(np.log2(band / 1000)))
    return centre, centre * (10**0.15 - 10**-0.15)


def octave_gain(frequencies: Floats, band: float) -> Floats:
    """Gain of an octave's third-order Butterworth band-pass at frequencies in Hz, (F,) -> (F,)."""
    centre, width = _octave(band)
    detuning = (frequencies**2 - centre**2) / (np.maximum(frequencies, 1e-9) * width)
    return 1 / np.sqrt(1 + detuning**6)


@dataclass
class LateDecay:
    """The straight end of a decay and the noise under it, (N,) each; NaN where nothing decays."""

    rate: Floats
    """Nepers of energy per sample."""
    cut: Samples
    """Sample where the decay meets the noise, or where the recording ends."""
    tail: Floats
    """Energy of the decay behind `cut`."""
    noise: Floats
    """Mean square of the noise."""


def late_decay(power: Floats, onset: Samples, end: Samples, sample_rate: float) -> LateDecay:
    """Fit decay and noise in turn (after Lundeby et al., 1995).

    The decay is fitted to the 20 dB that end 5 dB above the noise. Its rate comes from the energies of the two
    halves of that window, which needs no smoothing and no averaging of decibels. Noise is what is heard in the
    last tenth, or in all from 10 dB behind the knee, less the decay's own energy there.

    Parameters
    ----------
    power : (N, T) squared sound pressure.
    onset, end : (N,) first sample of the direct sound, first sample behind the recording.
    sample_rate : Hz.
    """
    length = power.shape[1]
    remaining = np.zeros((len(power), length + 1))
    # Summed from the end, so that small late energies keep their digits.
    remaining[:, :length] = power[:, ::-1].cumsum(axis=1)[:, ::-1]
    remaining -= np.take_along_axis(remaining, end.clip(0)[:, None], axis=1)

    def energy(start: Floats, stop: Floats) -> Floats:
        edges = np.nan_to_num(np.stack([start, stop], axis=1)).clip(0, length).astype(int)
        return -np.diff(np.take_along_axis(remaining, edges, axis=1))[:, 0]

    recorded = end.astype(float)
    settled = onset + np.ceil(SETTLING_S * sample_rate)
    last_tenth = np.floor(recorded - (recorded - onset) / 10)
    rate, level, anchor = np.full((3, len(power)), np.nan)
    noise = np.zeros(len(power))
    with np.errstate(all="ignore"):
        # First window: until what remains is on average within 3 dB of the last quarter.
        quarter = np.floor(recorded - (recorded - onset) / 4)
        calm = 2 * energy(quarter, recorded) / (recorded - quarter)
        sample = np.arange(length)
        below = remaining[:, :length] <= calm[:, None] * (recorded[:, None] - sample)
        start, stop = settled, (below & (sample >= settled[:, None])).argmax(axis=1).astype(float)
        for _ in range(ITERATIONS):
            half = np.floor((stop - start) / 2)
            first = energy(start, start + half) - noise * half
            second = energy(start + half, start + 2 * half) - noise * half
            decays = (half > 0) & (first > second) & (second > noise * half)
            rate = np.where(decays, np.log(first / second) / half, rate)
            # The line passes through `level` at `anchor` and has the energy of the window.
            level = np.where(decays, (first + second) * rate / np.expm1(2 * rate * half), level)
            anchor = np.where(decays, start + 2 * half, anchor)
            decibel = NEPERS_PER_DB / rate

            knee = anchor + np.log(level / noise) / rate
            quiet = np.floor(np.fmin(knee + 10 * decibel, last_tenth))
            explained = level * np.exp(-rate * (quiet - anchor)) * -np.expm1(-rate * (recorded - quiet)) / rate
            noise = np.fmax(energy(quiet, recorded) - explained, 0) / (recorded - quiet)
            knee = anchor + np.log(level / noise) / rate
            late = np.floor(np.fmin(knee - 5 * decibel, recorded))
            # A window that does not decay lies in the noise: go half the way back to the direct sound.
            stop = np.where(decays, late, np.floor((settled + stop) / 2))
            late = np.ceil(np.maximum(stop - 20 * decibel, np.maximum(settled, onset + 5 * decibel)))
            start = np.where(decays, late, settled)
        cut = np.floor(np.fmin(knee, recorded))
        tail = level * np.exp(-rate * (cut - anchor)) / rate
    return LateDecay(rate, cut.astype(int), tail, noise)


def _parameters(
    rirs: Floats, first: Samples, onset: Samples, end: Samples, sample_rate: float, headroom_db: float
) -> dict[str, Floats]:
    """All values of one band, (N, T) -> (N,) each; sound counts from `first`, time from `onset`."""
    power = rirs**2
    decay = late_decay(power, onset, end, sample_rate)
    sample = np.arange(power.shape[1])
    inside = (sample >= first[:, None]) & (sample < decay.cut[:, None])
    power = np.where(inside, power - decay.noise[:, None], 0.0)
    with np.errstate(all="ignore"):
        curve = power[:, ::-1].cumsum(axis=1)[:, ::-1] + decay.tail[:, None]
        total = curve[:, 0]
        curve = np.maximum(curve / total[:, None], TINY)
        values = _decay_times(10 * np.log10(curve), onset, sample_rate)
        lowest = {name: np.full(len(rirs), float(lower)) for name, (_, lower) in DECAY_RANGES_DB.items()}
        for name, early_s in (("c50_db", 0.05), ("c80_db", 0.08)):
            border = np.minimum(onset + round(early_s * sample_rate), rirs.shape[1] - 1)
            late = np.take_along_axis(curve, border[:, None], axis=1)[:, 0]
            values[name], lowest[name] = 10 * np.log10((1 - late) / late), 10 * np.log10(late)
        values["d50"] = 1 / (1 + 10 ** (-values["c50_db"] / 10))
        lowest["ts_s"], lowest["d50"] = lowest["edt_s"], np.maximum(lowest["edt_s"], lowest["c50_db"])
        moment = power @ sample + decay.tail * (decay.cut + 1 / decay.rate)
        values["ts_s"] = (moment / total - onset) / sample_rate
        level_at_cut = 10 * np.log10(decay.tail / total)
        heard = {name: level_at_cut <= lowest[name] - headroom_db for name in PARAMETERS}
    return {name: np.where(heard[name], values[name], np.nan) for name in PARAMETERS}


def _decay_times(level: Floats, onset: Samples, sample_rate: float) -> dict[str, Floats]:
    """Seconds per 60 dB of the least-squares lines over each range of decay curves in dB, (N, T) -> (N,)."""
    sample = np.arange(level.shape[1])
    sums = np.pad(level.cumsum(axis=1), ((0, 0), (1, 0)))
    moments = np.pad((level * sample).cumsum(axis=1), ((0, 0), (1, 0)))
    sounding = sample >= onset[:, None]
    times = {}
    for name, (upper, lower) in DECAY_RANGES_DB.items():
        start = ((level <= upper) & sounding).argmax(axis=1)
        stop = ((level < lower) & sounding).argmax(axis=1)
        edges = np.stack([start, stop], axis=1)
        total, moment = (np.diff(np.take_along_axis(x, edges, axis=1))[:, 0] for x in (sums, moments))
        count = stop - start
        slope = (moment - (start + stop - 1) / 2 * total) / (count * (count**2 - 1.0) / 12)
        times[name] = np.where((count > 1) & (slope < 0), -60 / slope / sample_rate, np.nan)
    return times
