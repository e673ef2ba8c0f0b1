"""Levels over directions and places: a Gaussian process whose mean is a device with an axis and a shape.

A span of time (:mod:`haa_peft.device.cells`) has one process, whose hyperparameters all octaves share. Its mean falls
from the device's axis backwards, more so at high frequencies, as loudspeakers and heads do; how much is fitted, and an
omnidirectional device costs nothing. Around the mean: departures of the shape that are the same all around the axis,
departures smooth over directions, departures smooth over places, what lies behind an obstacle, and chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from haa_peft.device.cells import OCTAVES

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
DIRECTIONS, STRENGTHS, STARTS = 150, (0.15, 0.4, 0.8, 1.3), 2
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
        """From arrays."""
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
    """How far a beam has fallen, 0 to 1, at ``behind`` = (1 - cosine to the axis) / 2, any shape."""
    step = (behind / 0.8).clamp(0, 1)
    return 0.5 * behind * (2 - behind) + 0.5 * step * step * (3 - 2 * step)


class Parameters:
    """Hyperparameters of a batch (...) of processes: ``axis`` (..., 3), ``strength`` (...) and the logarithms of ``NAMES``."""

    def __init__(self, axis: Tensor, strength: Tensor, directional: bool) -> None:
        self.axis, self.strength, self.directional = axis.clone(), strength.clone(), directional
        self.logs = torch.zeros(*strength.shape, len(NAMES), dtype=torch.float64)

    def free(self) -> list[Tensor]:
        """What is fitted."""
        free = [self.axis, self.strength, self.logs] if self.directional else [self.logs]
        for tensor in free:
            tensor.requires_grad_(True)
        return free

    def value(self, name: str) -> Tensor:
        """A positive hyperparameter, (...)."""
        return PRIOR[name] * (PRIOR_SD * self.logs[..., NAMES.index(name)]).exp()

    @property
    def beam(self) -> Tensor:
        """dB from front to back in the octaves, (..., 7)."""
        strength = self.strength.abs() if self.directional else torch.ones_like(self.strength)
        return strength[..., None] * torch.tensor(BEAM_DB, dtype=torch.float64)

    @property
    def unit_axis(self) -> Tensor:
        """The axis as unit vectors (..., 3)."""
        return self.axis / self.axis.norm(dim=-1, keepdim=True)

    def prior(self) -> Tensor:
        """Negative logarithm of the prior, (...), but for a constant."""
        found = (self.logs**2).sum(-1) / 2
        if self.directional:
            tilt = self.unit_axis[..., 2].clamp(-0.999, 0.999).asin()
            found = found + (self.strength / STRENGTH_SD) ** 2 / 2 + (tilt / TILT_SD) ** 2 / 2
        return found

    def mean(self, places: Places) -> Tensor:
        """Of the levels but for a constant, (..., 7, N) dB."""
        if not self.directional:
            return torch.zeros(*self.strength.shape, len(OCTAVES), len(places.positions), dtype=torch.float64)
        behind = (1 - places.directions @ self.unit_axis[..., None])[..., 0] / 2
        return -self.beam[..., None] * shape(behind)[..., None, :]

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
        found = LEVEL_SD**2 + DISTANCE_SD**2 * one.distances[:, None] * other.distances + smooth + place + obstacle
        if self.directional:
            h, g = ((1 - p.directions @ self.unit_axis[..., None])[..., 0] / 2 for p in (one, other))
            line = h[..., :, None] * g[..., None, :] * (1 + (1 - h)[..., :, None] * (1 - g)[..., None, :])
            found = found + (of("shape") * beam) ** 2 * line[..., None, :, :]
        return found

    def chosen(self, rows: Tensor) -> Parameters:
        """Of starts (..., S) those with numbers ``rows`` (...)."""
        found = Parameters.__new__(Parameters)
        found.directional = self.directional
        found.strength = self.strength.detach().gather(-1, rows[..., None])[..., 0]
        for name in ("axis", "logs"):
            tensor = getattr(self, name).detach()
            setattr(found, name, tensor.gather(-2, rows[..., None, None].expand(*rows.shape, 1, tensor.shape[-1]))[..., 0, :])
        return found


def solve(parameters: Parameters, places: Places, levels: Tensor, left_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Negative logarithm of posterior (...), Cholesky factors (..., 7, R, R) and solved residuals (..., 7, R, 1).

    Parameters
    ----------
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
    """A batch of fitted processes; see :func:`fit`."""

    parameters: Parameters
    places: Places
    factor: Tensor
    solved: Tensor

    def levels(self, asked: Places) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of levels at places (N), (..., 7, N) dB each."""
        cross = self.parameters.covariance(asked, self.places)
        mean = self.parameters.mean(asked) + (cross @ self.solved)[..., 0]
        root = torch.linalg.solve_triangular(self.factor, cross.mT, upper=False)
        own = torch.stack([self.parameters.covariance(one, one)[..., 0, 0] for one in _each(asked)], dim=-1)
        return mean, (own - (root**2).sum(-2)).clamp_min(0).sqrt()


def _each(places: Places) -> list[Places]:
    return [Places(p[None], h[None]) for p, h in zip(places.positions, places.hidden, strict=True)]


def fit(levels: np.ndarray, places: Places, left_out: np.ndarray, *, directional: bool = True) -> Process:
    """Processes of every span, fitted to measurements once for each row of ``left_out``.

    Parameters
    ----------
    levels : (R, G, 7) dB in G spans.
    places : of the R measurements.
    left_out : (F, R) which measurements are not to be seen.
    directional : whether there is a device; without it, levels vary with direction and place alone.

    Returns
    -------
    A batch of (F, G) processes: of maximal posterior density, by gradient from the best of some axes and strengths.
    """
    y = torch.from_numpy(np.asarray(levels)).double().permute(1, 2, 0)[None, :, None]
    hidden = torch.from_numpy(np.asarray(left_out)).double()[:, None, None]
    folds, spans = len(hidden), y.shape[1]
    axis, strength = _starts(y, places, hidden, directional)
    parameters = Parameters(axis, strength, directional)
    y, hidden = (t.expand(folds, spans, axis.shape[2], *t.shape[3:]) for t in (y, hidden))
    optimizer = torch.optim.Adam(parameters.free(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        solve(parameters, places, y, hidden)[0].sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        best = solve(parameters, places, y, hidden)[0].argmin(-1)
        chosen = parameters.chosen(best)
        _, factor, solved = solve(chosen, places, y[:, :, 0], hidden[:, :, 0])
    return Process(chosen, places, factor, solved)


@torch.no_grad()
def _starts(y: Tensor, places: Places, hidden: Tensor, directional: bool) -> tuple[Tensor, Tensor]:
    """The best axes (F, G, S, 3) and strengths (F, G, S) among those that are tried."""
    folds, spans = len(hidden), y.shape[1]
    if not directional:
        return torch.zeros(folds, spans, 1, 3, dtype=torch.float64), torch.zeros(folds, spans, 1, dtype=torch.float64)
    grid = sphere(DIRECTIONS)
    axes = grid.repeat(len(STRENGTHS), 1)
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64).repeat_interleave(len(grid))
    tried = Parameters(axes[None, None], strengths[None, None], True)
    chance = tried.value("chance")[..., None, None] ** 2
    costs = []
    shared = tried.covariance(places, places)[0, 0]
    mean = tried.mean(places)[0, 0]
    for out in hidden:
        covariance = shared + torch.diag_embed((chance[0, 0] + LEFT_OUT_DB**2 * out[0]).expand(mean.shape))
        factor = torch.linalg.cholesky(covariance)
        residual = y[0, :, 0, None] - mean  # (G, C, 7, R)
        root = torch.linalg.solve_triangular(factor, residual.permute(1, 2, 3, 0), upper=False)
        cost = (root**2).sum((1, 2)).T / 2 + factor.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1))
        costs.append(cost + tried.prior()[0, 0])
    cost = torch.stack(costs)  # (F, G, C)
    per_axis, which = cost.unflatten(-1, (len(STRENGTHS), len(grid))).min(-2)
    best = per_axis.topk(STARTS, largest=False).indices
    return grid[best], torch.tensor(STRENGTHS, dtype=torch.float64)[which.gather(-1, best)]


def sphere(count: int) -> Tensor:
    """Unit vectors (count, 3) spread evenly: Fibonacci's spiral."""
    z = 1 - (2 * torch.arange(count, dtype=torch.float64) + 1) / count
    angle = math.pi * (3 - math.sqrt(5)) * torch.arange(count, dtype=torch.float64)
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=-1)
