"""Levels over directions and places: a Gaussian process whose mean is a device with an axis and a shape.

A span of time (:mod:`haa_peft.levels.cells`) has one process, whose hyperparameters all octaves share. Its mean falls
from the device's axis backwards, more so at high frequencies, as loudspeakers and heads do; how much is fitted, and an
omnidirectional device costs nothing. Around the mean: departures of the shape that are the same all around the axis,
departures smooth over directions, departures smooth over places, what lies behind an obstacle, and chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from haa_peft.levels.cells import OCTAVES
from haa_peft.rooms.splits import farthest_points

BEAM_DB = (1.0, 2.5, 5.0, 9.0, 14.0, 19.0, 24.0)
"""Level behind a device of strength one below that before it, in the octaves: loudspeakers of some 20 cm."""
NAMES = ("shape", "smooth", "width", "obstacle", "place", "reach", "chance")
PRIOR = {"shape": 0.5, "smooth": 0.15, "width": 0.8, "obstacle": 3.0, "place": 2.0, "reach": 1.0, "chance": 1.0}
"""Medians: of departures of the shape and over directions relative to the beam, radians that these reach, dB of an
obstacle, of departures over places and metres that these reach, and dB of chance."""
PRIOR_SD = 0.5
"""Standard deviation of the logarithms of these."""
STRENGTH_SD, TILT_SD = 0.8, 0.4
"""Of the device's strength (half-normal), and radians of its axis above or below the horizontal."""
LEVEL_SD, DISTANCE_SD = 20.0, 6.0
"""dB: how little is known of a cell's level, and of how it falls with distance, per factor of ten."""
DIRECTIONS, STRENGTHS, STARTS = 150, (0.15, 0.4, 0.8, 1.3), 3
"""Axes and strengths that are tried, and how many of the best are followed."""
STARTED_BY, FITTED_BY = 24, 64
"""Measurements that these are chosen by, and hyperparameters fitted by, at most; all are used to predict."""
STEPS, RATE = 80, 0.08
LEFT_OUT_DB = 1e4
"""Chance at a measurement that is left out."""


@dataclass(frozen=True)
class Places:
    """Where levels are measured or asked for: (N, 3) m from the receiver, and which lie behind an obstacle, (N,)."""

    positions: Tensor
    hidden: Tensor

    @classmethod
    def of(cls, positions: np.ndarray, hidden: np.ndarray) -> Places:
        """From arrays (N, 3) m from the receiver and (N,)."""
        return cls(torch.from_numpy(np.asarray(positions)).double(), torch.from_numpy(np.asarray(hidden)).double())

    @property
    def directions(self) -> Tensor:
        """Unit vectors (N, 3)."""
        return self.positions / self.positions.norm(dim=-1, keepdim=True)

    @property
    def distances(self) -> Tensor:
        """Logarithm to base ten of metres from the receiver, (N,)."""
        return self.positions.norm(dim=-1).log10()


def shape(behind: Tensor) -> Tensor:
    """How far a beam has fallen, 0 to 1, at ``behind`` = (1 - cosine to the axis) / 2, (..., N) -> (..., N)."""
    step = (behind / 0.8).clamp(0, 1)
    return 0.5 * behind * (2 - behind) + 0.5 * step * step * (3 - 2 * step)


class Parameters:
    """Hyperparameters of a batch (...) of processes: ``axis`` (..., 3), ``strength`` (...), logarithms of ``NAMES``."""

    def __init__(self, axis: Tensor, strength: Tensor, logs: Tensor | None = None) -> None:
        self.axis, self.strength = axis.clone(), strength.clone()
        self.logs = torch.zeros(*strength.shape, len(NAMES), dtype=torch.float64) if logs is None else logs

    def free(self) -> list[Tensor]:
        """What is fitted, with gradients: (..., 3), (...) and (..., 7)."""
        return [tensor.requires_grad_(True) for tensor in (self.axis, self.strength, self.logs)]

    def value(self, name: str) -> Tensor:
        """A positive hyperparameter of ``NAMES``, (G,) or (G, S) as ``strength``."""
        return PRIOR[name] * (PRIOR_SD * self.logs[..., NAMES.index(name)]).exp()

    @property
    def beam(self) -> Tensor:
        """DB from front to back in the octaves, (..., 7)."""
        return self.strength.abs()[..., None] * torch.tensor(BEAM_DB, dtype=torch.float64)

    @property
    def unit_axis(self) -> Tensor:
        """The axis as unit vectors (..., 3)."""
        return self.axis / self.axis.norm(dim=-1, keepdim=True)

    def prior(self) -> Tensor:
        """Negative logarithm of the prior, (G,) or (G, S) as ``strength``, but for a constant."""
        tilt = self.unit_axis[..., 2].clamp(-0.999, 0.999).asin()
        return (self.logs**2).sum(-1) / 2 + (self.strength / STRENGTH_SD) ** 2 / 2 + (tilt / TILT_SD) ** 2 / 2

    def mean(self, places: Places) -> Tensor:
        """Of the levels but for a constant, (..., 7, N) dB."""
        return -self.beam[..., None] * shape(self.behind(places))[..., None, :]

    def behind(self, places: Places) -> Tensor:
        """(1 - cosine to the axis) / 2 of places, (..., N): 0 before the device, 1 behind it."""
        return (1 - (places.directions @ self.unit_axis[..., None])[..., 0]) / 2

    def covariance(self, one: Places, other: Places) -> Tensor:
        """Of levels at two sets of places but for chance, (..., 7, N, M) dB squared."""
        cosine = one.directions @ other.directions.T
        apart = torch.cdist(one.positions, other.positions)
        beam = self.beam[..., None, None]

        def of(name: str) -> Tensor:
            return self.value(name)[..., None, None, None]

        smooth = (of("smooth") * beam) ** 2 * torch.exp(-(1 - cosine) / of("width") ** 2)
        place = of("place") ** 2 * torch.exp(-apart / of("reach"))
        rising = torch.linspace(1, 3, len(OCTAVES), dtype=torch.float64)[:, None, None]
        obstacle = (of("obstacle") * rising) ** 2 * one.hidden[:, None] * other.hidden
        h, g = self.behind(one)[..., :, None], self.behind(other)[..., None, :]
        around = (of("shape") * beam) ** 2 * (h * g * (1 + (1 - h) * (1 - g)))[..., None, :, :]
        unknown = LEVEL_SD**2 + DISTANCE_SD**2 * one.distances[:, None] * other.distances
        return unknown + around + smooth + place + obstacle

    def chosen(self, rows: Tensor) -> Parameters:
        """Of starts (..., S) those with numbers ``rows`` (...)."""
        axis, logs = (
            t.detach().gather(-2, rows[..., None, None].expand(*rows.shape, 1, t.shape[-1]))[..., 0, :]
            for t in (self.axis, self.logs)
        )
        return Parameters(axis, self.strength.detach().gather(-1, rows[..., None])[..., 0], logs)


def solve(parameters: Parameters, places: Places, levels: Tensor, left_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Negative logarithm of posterior (...), Cholesky factors (..., 7, R, R) and solved residuals (..., 7, R, 1).

    Parameters
    ----------
    parameters, places : of the processes, (...), and of the R measurements.
    levels : (..., 7, R) dB.
    left_out : (..., R) one for measurements that are not to be seen.
    """
    chance = parameters.value("chance")[..., None, None] ** 2 + LEFT_OUT_DB**2 * left_out[..., None, :]
    covariance = parameters.covariance(places, places) + torch.diag_embed(chance.expand(levels.shape))
    factor = torch.linalg.cholesky(covariance)
    residual = (levels - parameters.mean(places))[..., None]
    solved = torch.cholesky_solve(residual, factor)
    fit = (residual * solved).sum((-3, -2, -1)) / 2
    return fit + factor.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1)) + parameters.prior(), factor, solved


@dataclass(frozen=True)
class Process:
    """Processes of every span, (G,), with the measurements that they know; see :func:`fit`."""

    parameters: Parameters
    places: Places
    levels: Tensor

    def predict(self, asked: Places, left_out: np.ndarray | None = None) -> np.ndarray:
        """Mean of the levels at N places, (N, G, 7) dB.

        ``left_out`` (R,) says which measurements are not to be seen; none unless given.
        """
        _, solved = self._seen if left_out is None else self._solved(torch.from_numpy(np.asarray(left_out)).double())
        with torch.no_grad():
            cross = self.parameters.covariance(asked, self.places)
            return (self.parameters.mean(asked) + (cross @ solved)[..., 0]).permute(2, 0, 1).numpy()

    def covariance(self, asked: Places) -> Tensor:
        """Of the levels at N places, chance not among it, (G, 7, N, N) dB squared."""
        factor, _ = self._seen
        with torch.no_grad():
            root = torch.linalg.solve_triangular(factor, self.parameters.covariance(asked, self.places).mT, upper=False)
            return self.parameters.covariance(asked, asked) - root.mT @ root

    def deviation(self, asked: Places) -> np.ndarray:
        """Standard deviation of the levels at N places, chance not among it, (N, G, 7) dB."""
        factor, _ = self._seen
        with torch.no_grad():
            root = torch.linalg.solve_triangular(factor, self.parameters.covariance(asked, self.places).mT, upper=False)
            own = self.parameters.covariance(asked, asked).diagonal(dim1=-2, dim2=-1)
            return (own - (root**2).sum(-2)).clamp_min(0).sqrt().permute(2, 0, 1).numpy()

    @cached_property
    def _seen(self) -> tuple[Tensor, Tensor]:
        """What all measurements give: solved once, however many predictions follow."""
        return self._solved(torch.zeros(len(self.places.positions), dtype=torch.float64))

    def _solved(self, left_out: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return solve(self.parameters, self.places, self.levels, left_out)[1:]


def fit(levels: np.ndarray, places: Places) -> Process:
    """Processes of maximal posterior density, by gradient from the best of some axes and strengths.

    Parameters
    ----------
    levels : (R, G, 7) dB in G spans.
    places : of the R measurements.
    """
    measured = torch.from_numpy(np.asarray(levels)).double().permute(1, 2, 0)
    y, some = _some(measured, places, FITTED_BY)
    parameters = Parameters(*_starts(*_some(measured, places, STARTED_BY)))
    every = y[:, None].expand(-1, parameters.strength.shape[1], -1, -1)
    seen = torch.zeros(y.shape[-1], dtype=torch.float64)
    optimizer = torch.optim.Adam(parameters.free(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        solve(parameters, some, every, seen)[0].sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        best = solve(parameters, some, every, seen)[0].argmin(-1)
    return Process(parameters.chosen(best), places, measured)


def _some(levels: Tensor, places: Places, most: int) -> tuple[Tensor, Places]:
    """Levels (G, 7, R) and places of ``most`` measurements, well spread; of all where they are no more."""
    if levels.shape[-1] <= most:
        return levels, places
    rows = torch.from_numpy(farthest_points(places.positions.numpy(), most))
    return levels[..., rows], Places(places.positions[rows], places.hidden[rows])


@torch.no_grad()
def _starts(y: Tensor, places: Places) -> tuple[Tensor, Tensor]:
    """The best axes (G, S, 3) and strengths (G, S) of those that are tried, for levels (G, 7, R)."""
    axes, strengths = sphere(DIRECTIONS), torch.tensor(STRENGTHS, dtype=torch.float64)
    costs = []
    for strength in strengths:
        tried = Parameters(axes, strength.expand(len(axes)))
        seen = torch.zeros(y.shape[-1], dtype=torch.float64)
        costs.append(torch.stack([solve(tried, places, levels.expand(len(axes), -1, -1), seen)[0] for levels in y]))
    cost, which = torch.stack(costs).min(0)
    best = cost.topk(STARTS, largest=False).indices
    return axes[best], strengths[which.gather(-1, best)]


def sphere(count: int) -> Tensor:
    """Unit vectors (count, 3) spread evenly: Fibonacci's spiral."""
    z = 1 - (2 * torch.arange(count, dtype=torch.float64) + 1) / count
    angle = math.pi * (3 - math.sqrt(5)) * torch.arange(count, dtype=torch.float64)
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=-1)
