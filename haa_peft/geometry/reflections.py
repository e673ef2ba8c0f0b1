"""First reflections at what the receiver sees: when their energy arrives at a position, and how much it can be.

Nothing between a surface and the position is in the way here, and where a room is open, what the panorama shows
counts as a surface.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from haa_peft.acoustics.alignment import SPEED_OF_SOUND

SPANS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
"""Seconds after the direct sound that divide first reflections into eight spans."""
REFLECTION_LEVELS = 2 * (len(SPANS) + 1)
"""How many levels describe a position's first reflections."""
LOBE = 30.0
"""Concentration of a mirrored ray's lobe (von Mises-Fisher), 10 degrees wide where it leaves the surface."""
LEAST_ENERGY = 1e-3
"""Of a span without reflections, relative to the direct sound."""
LEAST_DISTANCE = 0.15
"""Metres; nearer surfaces count as this far."""


def first_reflections(panorama: Tensor, positions: Tensor) -> Tensor:
    """What each pixel's surface reflects from the receiver to positions, or back: (P, 3, h, w).

    The channels are the delay after the direct sound in seconds, and two energies relative to the direct sound's, of
    a surface that absorbs nothing: mirrored, whose sum over pixels is an image source's ``(direct / reflected path)^2``
    spread over ``LOBE``, and scattered after Lambert. In boxes the sum is right to 0.1 dB at 256 x 512 pixels. At
    32 x 64 edges are blunt, and the lobe is narrower than a pixel for surfaces near the position: it is about 1 dB
    too high, at single positions 5 dB.

    Parameters
    ----------
    panorama, positions : (3, h, w) and (P, 3) m from the receiver.
    """
    surface = panorama.permute(1, 2, 0)
    there = surface.norm(dim=-1, keepdim=True)
    ray = surface / there.clamp_min(1e-6)
    normal = normals_from_neighbours(surface, ray)
    height, width = panorama.shape[1:]
    elevation = (0.5 - (torch.arange(height, device=panorama.device) + 0.5) / height) * torch.pi
    solid_angle = (elevation.cos() * (np.pi / height) * (2 * np.pi / width))[:, None]
    mirrored = ray - 2 * (ray * normal).sum(-1, keepdim=True) * normal
    back = positions[:, None, None] - surface
    distance = back.norm(dim=-1).clamp_min(LEAST_DISTANCE)
    onwards = back / distance[..., None]
    direct = positions.norm(dim=-1)[:, None, None]
    received = solid_angle * (direct / distance) ** 2
    lobe = LOBE / (2 * np.pi) * torch.exp(LOBE * ((onwards * mirrored).sum(-1) - 1))
    cosine = (onwards * normal).sum(-1).clamp_min(0)
    delay = (there[..., 0] + distance - direct).clamp_min(0) / SPEED_OF_SOUND
    return torch.stack([delay, received * lobe, received * cosine / np.pi], dim=1)


def reflection_levels(panorama: Tensor, positions: Tensor) -> Tensor:
    """Levels (P, 16) in nepers of :func:`first_reflections`, mirrored in all spans and then scattered in all.

    Arguments as there, (3, h, w) and (P, 3) m.
    """
    reflections = first_reflections(panorama, positions)
    delay, energies = reflections[:, 0].flatten(1).contiguous(), reflections[:, 1:].flatten(2)
    span = torch.bucketize(delay, torch.tensor(SPANS, device=delay.device))
    sums = torch.stack([(energies * (span == i)[:, None]).sum(-1) for i in range(len(SPANS) + 1)], dim=-1)
    return sums.clamp_min(LEAST_ENERGY).log().flatten(1) / 2


def normals_from_neighbours(surface: Tensor, ray: Tensor) -> Tensor:
    """Unit normals (h, w, 3) towards the receiver, from neighbouring pixels on the nearer side.

    ``surface`` (h, w, 3) m are what pixels see, ``ray`` (h, w, 3) the unit vectors that they look along.
    """
    along = torch.roll(surface, -1, 1) - surface
    down = surface.diff(dim=0)
    across = _shorter(along, torch.roll(along, 1, 1))
    steep = _shorter(torch.cat([down, down[-1:]]), torch.cat([down[:1], down]))
    normal = torch.linalg.cross(across, steep)
    normal = normal / normal.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return torch.where((normal * ray).sum(-1, keepdim=True) > 0, -normal, normal)


def _shorter(one: Tensor, other: Tensor) -> Tensor:
    return torch.where(one.norm(dim=-1, keepdim=True) <= other.norm(dim=-1, keepdim=True), one, other)
