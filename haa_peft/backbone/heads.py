"""The small modules that join geometry, positions and audio."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from haa_peft.backbone.linear import Linear

DEPARTURE = 0.3
"""Largest relative departure of a bounded weight from its softmax value."""


class SinusoidalCode(nn.Module):
    """[v, sin(v f), cos(v f)] with ten frequencies from 1 to ``2 ** top``: (..., D) -> (..., 21 D)."""

    freqs: Tensor

    def __init__(self, top: float) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 ** torch.linspace(0, top, 10))

    def forward(self, values: Tensor) -> Tensor:
        """Encode the last dimension; each frequency's block holds all its coordinates."""
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


class BoundedWeighting(nn.Module):
    """Starts as a distance-weighted average and learns bounded departures from it over time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.distance_rate = nn.Parameter(torch.tensor(1.5))
        self.departure = Linear(2 * channels, channels)
        nn.init.zeros_(self.departure.weight)
        nn.init.zeros_(self.departure.bias)

    def forward(self, query: Tensor, keys: Tensor, distance: Tensor, time_code: Tensor) -> Tensor:
        """Query (B, C), keys (B, K, C), distance (B, K) m, time code (T, C) or (B, T, C) -> weights (B, K, T)."""
        scores = (keys @ query[..., None])[..., 0] / math.sqrt(query.shape[-1])
        weights = torch.softmax(scores - self.distance_rate * distance, dim=-1)
        departure = self.departure(torch.cat([keys, query[:, None].expand_as(keys)], dim=-1))
        delta = departure @ time_code.mT / math.sqrt(query.shape[-1])
        return weights[..., None] * (1 + DEPARTURE * torch.tanh(delta))


class FrameGain(nn.Module):
    """A correction of the level in every frame, at most 1 neper (8.7 dB); zero until it has learned.

    An average of log-spectrograms is too quiet where the references are noise-like, and no weighting of references
    knows how the level changes behind a directional source.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = Linear(2 * channels, channels)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, query: Tensor, keys: Tensor, weights: Tensor, time_code: Tensor) -> Tensor:
        """Query (B, C), keys (B, K, C), weights (B, K, T), time code (T, C) or (B, T, C) -> nepers (B, T)."""
        heard = (weights.mean(dim=-1, keepdim=True) * keys).sum(dim=1)
        state = self.proj(torch.cat([query, heard], dim=-1))
        return torch.tanh((state[:, None] @ time_code.mT)[:, 0] / math.sqrt(query.shape[-1]))
