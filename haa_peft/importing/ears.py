"""Whether azimuths count the way they are stated, by which of two microphones hears a source first."""

from __future__ import annotations

import numpy as np

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.findings.arrival import Arrivals
from haa_peft.findings.finding import ERROR, Finding
from haa_peft.importing.measured import Measurements

CLEAR = 0.7
"""Correlation of delays with differences of distances, beyond which, with the wrong sign, azimuths are mirrored."""
LEAST_SOURCES = 4


def check_azimuth(measured: Measurements) -> list[Finding]:
    """Azimuths that count the other way round; nothing where there are no two microphones, or no angles."""
    pair = _two_microphones(measured)
    if pair is None or not measured.angular:
        return []
    one, other = pair
    arrivals = Arrivals(measured.rirs[np.concatenate(pair)].astype(np.float32), measured.rate)
    first, second = np.split(arrivals.onset, 2)
    heard = (first - second) * SPEED_OF_SOUND
    sources, middle = measured.sources[one], (measured.receivers[one] + measured.receivers[other]) / 2
    mirrored = middle + np.array([1.0, -1.0, 1.0]) * (sources - middle)
    stated, turned = (
        np.linalg.norm(places - measured.receivers[one], axis=1)
        - np.linalg.norm(places - measured.receivers[other], axis=1)
        for places in (sources, mirrored)
    )
    if min(np.ptp(heard), np.ptp(stated), np.ptp(turned)) == 0:
        return []
    agrees, against = np.corrcoef(heard, stated)[0, 1], np.corrcoef(heard, turned)[0, 1]
    if agrees > -CLEAR or against < CLEAR:
        return []
    text = (
        f"of two microphones the farther one hears first (correlation of delays with distances {agrees:.2f}, and "
        f"{against:.2f} with azimuths the other way round): azimuths count clockwise, or the channels are swapped"
    )
    return [Finding("azimuth", ERROR, text, "give --clockwise", figures={"correlation": float(agrees)})]


def _two_microphones(measured: Measurements) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows (M,) of the first two channels with the same sources; None where there are none."""
    rows = [np.flatnonzero(measured.channels == channel) for channel in (0, 1)]
    if len(rows[0]) != len(rows[1]) or len(rows[0]) < LEAST_SOURCES:
        return None
    same = np.allclose(measured.sources[rows[0]], measured.sources[rows[1]], atol=1e-3)
    apart = np.linalg.norm(measured.receivers[rows[0]] - measured.receivers[rows[1]], axis=1).min()
    return (rows[0], rows[1]) if same and apart > 0.02 else None
