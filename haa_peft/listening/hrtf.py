"""Heads: HRTFs of a SOFA file, and what two ears hear of a diffuse field.

Every head is equalised by its own diffuse field: one filter for both ears makes the mean of their powers one, averaged
over all directions. Differences between ears stay, and a room's octaves keep their energies. Headphones that are
equalised for a diffuse field need just that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy import fft
from scipy.signal import resample_poly
from scipy.spatial import cKDTree

from haa_peft.errors import InputError
from haa_peft.satellites import satellite

FEWEST = 8
"""Directions of a head."""
LONGEST_S = 0.1
"""Of an HRIR; what is longer is a room's."""
POINTS = 20_000
"""Directions all around that a mean over the sphere is taken of."""
BOOST_DB = 20.0
"""By which a diffuse field is equalised at most."""
LEAD_S = 0.002
"""Before each HRIR, for filters that begin before it."""
ASIDE = 0.99
"""Cosine between the axis of the ears and y, at least."""


@dataclass(frozen=True, eq=False)
class Hrtf:
    """Head-related impulse responses.

    Attributes
    ----------
    hrirs : (M, 2, N) of the left and the right ear.
    directions : (M, 3) unit vectors of the sources; x is in front, y left, z above.
    rate : Hz.
    """

    hrirs: np.ndarray
    directions: np.ndarray
    rate: int


def read_hrtf(file: str | Path) -> Hrtf:
    """HRTFs of a SOFA file with two receivers (SimpleFreeFieldHRIR).

    Raises
    ------
    InputError
        When it cannot be read, or is no head's.
    """
    satellite("importing", f"HRTFs of {file}")
    from haa_peft.importing.sofa import read_sofa

    found = read_sofa(Path(file))
    if found.channels.max() != 1 or found.views is not None:
        raise InputError(
            f"{file}: has {found.channels.max() + 1} receivers and must be of one head with two that stays"
        )
    left, right = (found.channels == channel for channel in range(2))
    ears = found.receivers[left] - found.receivers[right]
    width = np.linalg.norm(ears, axis=1)
    if (width > 0.01).all():
        side = ears[:, 1] / width
        if (np.abs(side) < ASIDE).any():
            raise InputError(f"{file}: the head looks elsewhere than along x; HRTFs of a SOFA file look there")
        left, right = (left, right) if (side > 0).all() else (right, left)
    away = found.sources[left] - (found.receivers[left] + found.receivers[right]) / 2
    distance = np.linalg.norm(away, axis=1, keepdims=True)
    if (distance <= 0).any() or len(np.unique((away / np.maximum(distance, 1e-9)).round(3), axis=0)) < FEWEST:
        raise InputError(f"{file}: has sources in fewer than {FEWEST} directions around its head")
    if found.rirs.shape[1] > LONGEST_S * found.rate:
        seconds = found.rirs.shape[1] / found.rate
        raise InputError(f"{file}: responses last {seconds:.2f} s, as a room's; a head's last {LONGEST_S:g} s at most")
    return Hrtf(np.stack([found.rirs[left], found.rirs[right]], axis=1), away / distance, found.rate)


@dataclass(frozen=True, eq=False)
class Head:
    """A head at a sample rate, equalised.

    Attributes
    ----------
    hrirs : (M, 2, N), later by ``lead`` samples than the set's.
    late : (2, 2, N) for each ear what it hears of a diffuse field's own channel, and of one that is independent.
    lead : samples.
    """

    hrirs: np.ndarray
    late: np.ndarray
    lead: int
    _tree: cKDTree

    def towards(self, directions: np.ndarray) -> np.ndarray:
        """HRIRs (E, 2, N) measured nearest to directions (E, 3) from the head."""
        return self.hrirs[self._tree.query(directions)[1]]


@lru_cache(maxsize=4)
def head_of(hrtf: Hrtf, rate: int) -> Head:
    """A head of HRTFs at a rate in Hz."""
    divisor = np.gcd(rate, hrtf.rate)
    hrirs = np.pad(hrtf.hrirs, ((0, 0), (0, 0), (round(LEAD_S * hrtf.rate), 0)))
    if rate != hrtf.rate:
        hrirs = resample_poly(hrirs, rate // divisor, hrtf.rate // divisor, axis=-1) * (hrtf.rate / rate)
    tree = cKDTree(hrtf.directions)
    weights = sphere_weights(tree)
    size = fft.next_fast_len(4 * hrirs.shape[-1], real=True)
    spectra = fft.rfft(hrirs, size)
    power = np.einsum("m,mef->f", weights, np.abs(spectra) ** 2) / 2
    spectra = spectra * _minimum_phase(_limited(power) ** -0.5, size)
    length = size // 2
    equalised = fft.irfft(spectra, size)[..., :length]
    peaks = np.abs(equalised).argmax(axis=-1).mean(axis=-1)
    late = _diffuse_filters(fft.rfft(equalised, size), weights, size, round(float(weights @ peaks)))[..., :length]
    return Head(equalised, late, round(LEAD_S * hrtf.rate) * rate // hrtf.rate, tree)


def sphere_weights(tree: cKDTree) -> np.ndarray:
    """Share (M,) of the sphere that is nearest to each of a tree's directions (M, 3)."""
    order = np.arange(POINTS) + 0.5
    height, angle = 1 - 2 * order / POINTS, np.pi * (1 + 5**0.5) * order
    flat = np.sqrt(1 - height**2)
    points = np.stack([flat * np.cos(angle), flat * np.sin(angle), height], axis=1)
    return np.bincount(tree.query(points)[1], minlength=tree.n) / POINTS


def diffuse_coherence(spectra: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Powers (2, F) of the ears in a diffuse field, and their coherence (F,), whose imaginary part is left out.

    Parameters
    ----------
    spectra : (M, 2, F) HRTFs.
    weights : (M,) of directions.
    """
    power = np.einsum("m,mef->ef", weights, np.abs(spectra) ** 2)
    cross = np.einsum("m,mf->f", weights, (spectra[:, 0] * spectra[:, 1].conj()).real)
    return power, cross / np.maximum(np.sqrt(power.prod(axis=0)), 1e-30)


def _diffuse_filters(spectra: np.ndarray, weights: np.ndarray, size: int, delay: int) -> np.ndarray:
    """Filters (2, 2, size) by which two independent signals of power one get the ears' powers and coherence.

    The first goes to both ears alike and the second with opposite signs, by the cosine and sine of half an angle whose
    cosine is the coherence (after Borss and Martin, AES 35th Conference, 2009).
    """
    power, coherence = diffuse_coherence(spectra, weights)
    half = np.arccos(coherence.clip(-1, 1)) / 2
    gains = np.sqrt(power)[:, None] * np.stack([np.cos(half), np.sin(half)])
    gains[1, 1] *= -1
    return np.roll(fft.irfft(gains, size), delay, axis=-1)


def _limited(power: np.ndarray) -> np.ndarray:
    """Power (F,) no less than ``BOOST_DB`` below its median."""
    return np.maximum(power, np.median(power) * 10 ** (-BOOST_DB / 10))


def _minimum_phase(magnitude: np.ndarray, size: int) -> np.ndarray:
    """Spectrum (F,) of a filter that does not begin before it must, by the real cepstrum."""
    cepstrum = fft.irfft(np.log(magnitude), size)
    fold = np.zeros(size)
    fold[0], fold[1 : (size + 1) // 2], fold[size // 2] = 1, 2, 1 if size % 2 == 0 else 2
    return np.exp(fft.rfft(cepstrum * fold, size))
