"""The small modules that join geometry, positions and audio."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.acoustics.spectrogram import (
    HOP,
    MAGNITUDE_FLOOR_SQUARED,
    N_FRAMES,
    RIR_LENGTH,
    SAMPLE_RATE,
)
from haa_peft.model.linear import Linear
from haa_peft.model.vit import Attention, FeedForward

KNOTS = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
"""Seconds after the direct sound where weights and levels are given; linear in between, constant outside."""
LARGEST_LEVEL, LARGEST_SCORE = 2.0, 3.0
"""Bounds of what is learned: nepers of a reference's level, and of the logarithm of its weight."""
LEAST_ENERGY = 1e-9
"""Of a silent span, in which rounding leaves 2e-10."""
START_RATE, START_SPREADING = 2.0, (0.0, *[0.7] * (len(KNOTS) - 1))
"""Where learning starts: how scores fall with distance (softplus of it, per metre), and how much of the level that
alignment gave to a reference is taken back at ``KNOTS``; of 0.5, 0.7, 0.85 and 1, 0.7 was best in 120 rooms."""


class SinusoidalCode(nn.Module):
    """[v, sin(v f), cos(v f)] with ten frequencies from 1 to ``2 ** top``: (..., D) -> (..., 21 D)."""

    freqs: Tensor

    def __init__(self, top: float) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 ** torch.linspace(0, top, 10))

    def forward(self, values: Tensor) -> Tensor:
        """Encode the last dimension, (..., D) -> (..., 21 * D); each frequency's block holds all its coordinates."""
        phase = (values[..., None, :] * self.freqs[:, None]).flatten(-2)
        return torch.cat([values, phase.sin(), phase.cos()], dim=-1)


class Projection(nn.Module):
    """A Linear under the name that it has in the published checkpoint."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return self.proj(x)


class EnergyBlend(nn.Module):
    """Average of the references' energies, with weights and levels that depend on the time after the direct sound.

    It starts as an average weighted by distance, in which an aligned reference keeps its direct sound and loses most
    of the level that alignment gave to what comes later: a direct sound falls with distance, reverberation hardly.
    From there it learns, departures of single references being bounded: these are described by their vectors, their
    places and their energy in spans of time, compared with each other by attention, and given a weight and a level at
    each of ``KNOTS``.
    Energies are averaged, not logarithms, since decay curves are sums of energies.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.distance_rate = nn.Parameter(torch.tensor(START_RATE))
        self.spreading = nn.Parameter(torch.tensor(START_SPREADING))
        self.pair = nn.Sequential(
            Linear(2 * channels + 5 + len(KNOTS), 2 * channels), nn.GELU(), Linear(2 * channels, channels)
        )
        self.mixing = nn.Sequential()
        for _ in range(depth):
            self.mixing.append(Attention(channels, 4, channels // 4)).append(FeedForward(channels, 2 * channels))
        self.norm = nn.LayerNorm(channels)
        self.departure = Linear(channels, 2 * len(KNOTS))
        nn.init.zeros_(self.departure.weight)
        nn.init.zeros_(self.departure.bias)

    def forward(self, query: Tensor, keys: Tensor, energy: Tensor, target: Tensor, references: Tensor) -> Tensor:
        """Log-spectrograms (B, 63, 310), or (B, 1, 310) from energies that are summed over frequency.

        Parameters
        ----------
        query, keys : (B, C) and (B, K, C) vectors of target and references.
        energy : (B, K, 63, 310) or (B, K, 1, 310) of the references, aligned to the target.
        target, references : (B, 3) and (B, K, 3) metres from the receiver.
        """
        gains = self.gains(query, keys, energy.sum(dim=2), target, references)
        return (gains[:, :, None] * energy).sum(dim=1).add(MAGNITUDE_FLOOR_SQUARED).log() / 2

    def gains(self, query: Tensor, keys: Tensor, energy: Tensor, target: Tensor, references: Tensor) -> Tensor:
        """What each reference's energy is multiplied with in every frame before they are summed, (B, K, 310).

        Parameters
        ----------
        query, keys : (B, C) and (B, K, C) vectors of target and references.
        energy : (B, K, 310) of the aligned references, summed over frequencies.
        target, references : (B, 3) and (B, K, 3) metres from the receiver.
        """
        far, near = target.norm(dim=-1, keepdim=True), references.norm(dim=-1)
        apart = (references - target[:, None]).norm(dim=-1)
        spreading = torch.log((far + 1e-3) / (near + 1e-3))
        along = (references * target[:, None]).sum(-1) / (far * near + 1e-3)
        places = torch.stack(
            [spreading, (far + 0.1).log().expand_as(near), (near + 0.1).log(), apart / 5, along], dim=-1
        )
        spans = self._spans(energy, far)
        pairs = torch.cat([query[:, None].expand_as(keys), keys, places, spans], dim=-1)
        departure = self.departure(self.norm(self.mixing(self.pair(pairs))))
        score, level = departure.chunk(2, dim=-1)
        score = LARGEST_SCORE * torch.tanh(score / LARGEST_SCORE)
        level = LARGEST_LEVEL * torch.tanh(level / LARGEST_LEVEL)
        return energy_gains(score, level, self.distance_rate, self.spreading, target, references)

    def _spans(self, energy: Tensor, far: Tensor) -> Tensor:
        """Levels (B, K, spans) of an aligned reference up to each of ``KNOTS``, from the one before it, in two nepers.

        The first is the direct sound's, as it would be at 1 m; the others are relative to it.
        """
        edges = far / SPEED_OF_SOUND + torch.tensor([-KNOTS[0], *KNOTS], device=far.device)
        rows = (edges * SAMPLE_RATE / HOP).round().long().clamp(0, N_FRAMES)
        until = functional.pad(energy.cumsum(dim=-1), (1, 0))
        spans = until.gather(-1, rows[:, None].expand(-1, energy.shape[1], -1)).diff(dim=-1)
        levels = (spans + LEAST_ENERGY).log() / 2
        direct = levels[..., :1]
        return torch.cat([direct + (far[:, None] + 1e-3).log(), levels[..., 1:] - direct], dim=-1) / 2


def energy_gains(
    score: Tensor, level: Tensor, rate: Tensor, spreading: Tensor, target: Tensor, references: Tensor
) -> Tensor:
    """What each reference's energy is multiplied with in every frame, (B, K, 310).

    Parameters
    ----------
    score, level : (B, K, knots) at ``KNOTS``: logarithm of a reference's weight, and its level in nepers, beside
    rate : how the score falls with distance, softplus of it per metre, and
    spreading : (knots,) how much of the level that alignment gave is taken back.
    target, references : (B, 3) and (B, K, 3) metres from the receiver.
    """
    far, near = target.norm(dim=-1, keepdim=True), references.norm(dim=-1)
    given = torch.log((far + 1e-3) / (near + 1e-3))
    score = over_frames(score, far) - functional.softplus(rate) * (references - target[:, None]).norm(dim=-1)[..., None]
    level = over_frames(level + spreading * given[..., None], far)
    # a reference that was moved to an earlier time ends earlier
    end = RIR_LENGTH + ((far - near) / SPEED_OF_SOUND * SAMPLE_RATE).clamp(max=0)
    heard = (torch.arange(N_FRAMES, device=far.device) + 1) * HOP <= end[..., None]
    score = score.masked_fill(~heard & heard.any(dim=1, keepdim=True), -torch.inf)
    return torch.softmax(score, dim=1) * torch.exp(2 * level)


def over_frames(values: Tensor, far: Tensor) -> Tensor:
    """Values at ``KNOTS`` after the direct sound from ``far`` (B, 1) m, (B, K, knots), in every frame: (B, K, 310)."""
    knots = torch.tensor(KNOTS, device=values.device, dtype=values.dtype)
    time = torch.arange(N_FRAMES, device=far.device, dtype=far.dtype) * HOP / SAMPLE_RATE - far / SPEED_OF_SOUND
    time = time.clamp(knots[0], knots[-1])
    right = torch.bucketize(time, knots).clamp(1, len(KNOTS) - 1)
    share = ((time - knots[right - 1]) / (knots[right] - knots[right - 1]))[:, None]
    left_values, right_values = (
        values.gather(-1, rows[:, None].expand(-1, values.shape[1], -1)) for rows in (right - 1, right)
    )
    return left_values + share * (right_values - left_values)
