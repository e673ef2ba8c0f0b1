"""What a map can show: room acoustic parameters with unit and just noticeable difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft

from haa_peft.acoustics.iso import OCTAVE_BANDS, TINY, Floats, iso_metrics, octave_gain
from haa_peft.checks import real_numbers
from haa_peft.errors import InputError
from haa_peft.maps.sti import speech_transmission_index

BROADBAND = "broadband"
BANDS = (BROADBAND, *map(str, OCTAVE_BANDS))
"""Of all metrics but STI, which has its own."""


@dataclass(frozen=True)
class Metric:
    """A room acoustic parameter.

    Attributes
    ----------
    label, unit : for people; the unit is empty for a number without one.
    column : of a table.
    jnd : just noticeable difference, in the unit, or as a share of the value where ``relative``.
    iso : its name in :func:`~haa_peft.acoustics.iso.iso_metrics`; empty where it is computed here.
    """

    label: str
    unit: str
    column: str
    jnd: float
    relative: bool = False
    iso: str = ""

    def step(self, values: ArrayLike) -> float:
        """One just noticeable difference, in the unit, at the median of values (N,)."""
        known = np.abs(np.asarray(values)[np.isfinite(values)])
        return self.jnd * float(np.median(known)) if self.relative and len(known) else self.jnd


METRICS = {
    "c50": Metric("C50", "dB", "c50_db", 1.0, iso="c50_db"),
    "edt": Metric("EDT", "s", "edt_s", 0.05, relative=True, iso="edt_s"),
    "t30": Metric("T30", "s", "t30_s", 0.05, relative=True, iso="t30_s"),
    "d50": Metric("D50", "", "d50", 0.05, iso="d50"),
    "level": Metric("level", "dB", "level_db", 1.0),
    "sti": Metric("STI", "", "sti", 0.03),
}
"""JNDs of ISO 3382-1, Table A.1 (T30 as EDT, C50 as C80); of STI, Bradley et al., J. Acoust. Soc. Am. 106, 1999."""


def check_metric(metric: str, band: str) -> Metric:
    """The metric of a name; raises ``InputError`` for another one, or a band that it is not given in."""
    if not isinstance(metric, str) or metric not in METRICS:
        raise InputError(f"metric is {metric!r:.60} but must be one of {', '.join(METRICS)}")
    if not isinstance(band, str) or band not in BANDS:
        raise InputError(f"band is {band!r:.60} but must be one of {', '.join(BANDS)} (Hz)")
    if metric == "sti" and band != BROADBAND:
        raise InputError(f"band is {band} but STI is of all octaves at once; leave the band out")
    return METRICS[metric]


def metric_values(rirs: ArrayLike, sample_rate: float, metric: str, band: str = BROADBAND) -> Floats:
    """A metric of RIRs (N, T), (N,); NaN where it is not defined.

    Parameters
    ----------
    rirs : (N, T) sound pressure, direct sound included.
    sample_rate : Hz.
    metric : of ``METRICS``. Level is ten times the logarithm of the energy: the sum of squares over the sample rate.
    band : of ``BANDS``.

    Raises
    ------
    InputError
        For another metric or band, or RIRs that are none.
    """
    found = check_metric(metric, band)
    if metric == "sti":
        return speech_transmission_index(rirs, sample_rate)
    if metric == "level":
        return level(rirs, sample_rate, band)
    bands = () if band == BROADBAND else (int(band),)
    return iso_metrics(rirs, sample_rate, bands=bands)[band][found.iso]


def level(rirs: ArrayLike, sample_rate: float, band: str) -> Floats:
    """Energy levels (N,) dB of RIRs (N, T), re the square of their unit times a second; NaN where they are silent.

    ``sample_rate`` is in Hz, ``band`` one of ``BANDS``.
    """
    signals = real_numbers("rirs", rirs)
    if band == BROADBAND:
        energy = (signals**2).sum(axis=1)
    else:
        padded = fft.next_fast_len(signals.shape[1], real=True)
        gain = octave_gain(fft.rfftfreq(padded, 1 / sample_rate), int(band))
        spectra = np.abs(fft.rfft(signals, padded)) ** 2 * gain**2
        # all but the first and the last of a real spectrum stand for two
        twice = np.full(spectra.shape[1], 2.0)
        twice[0], twice[-1] = 1.0, 2.0 if padded % 2 else 1.0
        energy = (spectra @ twice) / padded
    return np.where(energy > 0, 10 * np.log10(np.maximum(energy, TINY) / sample_rate), np.nan)
