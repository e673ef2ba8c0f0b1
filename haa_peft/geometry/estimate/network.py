"""A coarse panorama from a room's measurements alone: a small network on :mod:`~haa_peft.geometry.estimate.echo_maps`.

It was trained on simulated rooms (``recipes/pretrain_panorama.py``) and says for each direction a distance and how far
that may be off.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from haa_peft.errors import InputError
from haa_peft.geometry.estimate.echo_maps import CHANNELS, HEIGHT, WIDTH, echo_maps
from haa_peft.geometry.panorama import PANORAMA_HEIGHT, PANORAMA_WIDTH, solid_angles

HIDDEN = 64
DILATIONS = (1, 2, 4, 8, 1, 2)
"""Of the blocks' convolutions along azimuth, which see all around together."""
WEIGHTS = "panorama.safetensors"


class Block(nn.Module):
    """Two convolutions that go round the panorama, and what all directions have in common, with a residual."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels) for _ in range(2))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, dilation=(1, step)) for step in (dilation, 1)
        )
        self.common = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 16, 32) -> (B, C, 16, 32)."""
        y = functional.gelu(self.norms[0](x))
        y = self.convolutions[0](around(y, self.dilation)) + self.common(y.mean(dim=(2, 3)))[..., None, None]
        return x + self.convolutions[1](around(functional.gelu(self.norms[1](y)), 1))


def around(x: Tensor, columns: int) -> Tensor:
    """Pad (B, C, H, W) as a sphere is: columns go on at the other side, the outermost rows are repeated."""
    return functional.pad(functional.pad(x, (columns, columns, 0, 0), mode="circular"), (0, 0, 1, 1), mode="replicate")


class PanoramaNetwork(nn.Module):
    """Echo maps to the logarithm of the distance (m) seen in each direction, and of its scale (Laplace)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, HIDDEN, 1)
        self.blocks = nn.ModuleList(Block(HIDDEN, dilation) for dilation in DILATIONS)
        self.norm = nn.GroupNorm(8, HIDDEN)
        self.last = nn.Conv2d(HIDDEN, 2, 1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(B, CHANNELS, 16, 32) -> (B, 16, 32) twice; an untrained network gives the box around the positions."""
        x = self.first(maps)
        for block in self.blocks:
            x = block(x)
        change, log_scale = self.last(functional.gelu(self.norm(x))).unbind(dim=1)
        return maps[:, -1] + change, log_scale.clamp(-5, 2)


def panorama_loss(log_depth: Tensor, log_scale: Tensor, true_log_depth: Tensor) -> Tensor:
    """Negative log likelihood (Laplace) of true log distances, three of (B, 16, 32) -> scalar mean over the sphere."""
    weight = torch.from_numpy(solid_angles(HEIGHT, WIDTH)).to(log_depth)
    wrong = (log_depth - true_log_depth).abs()
    return ((wrong * (-log_scale).exp() + log_scale) * weight).sum(dim=(1, 2)).mean()


@lru_cache(maxsize=1)
def bundled_network() -> PanoramaNetwork:
    """The trained network, frozen."""
    with resources.as_file(resources.files("haa_peft.geometry.estimate") / "weights" / WEIGHTS) as path:
        return load_network(path).eval().requires_grad_(False)


@lru_cache(maxsize=1)
def weights_fingerprint() -> str:
    """SHA-256 of the file of the bundled weights."""
    return hashlib.sha256(
        (resources.files("haa_peft.geometry.estimate") / "weights" / WEIGHTS).read_bytes()
    ).hexdigest()


def load_network(path: Path) -> PanoramaNetwork:
    """A network with the weights that pretraining wrote; raises ``InputError`` unless they are its."""
    network = PanoramaNetwork()
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or ["empty"])[0]
        raise InputError(f"{path}: cannot be read as a panorama network's weights ({reason:.100})") from None
    return network


@torch.no_grad()
def predict_depth(
    rirs: np.ndarray, positions: np.ndarray, receiver: np.ndarray, floor: float | None = 0.0
) -> tuple[np.ndarray, float]:
    """Distances (256, 512) m around the receiver, and the factor that they are off by on the mean, as it estimates.

    Parameters
    ----------
    rirs : (N, T) at 22 050 Hz with propagation delay, N at least 3 and better 12.
    positions, receiver : (N, 3) and (3,) m, z up.
    floor : z of the floor in m, None if it is not known.
    """
    log_depth, log_scale = bundled_network()(echo_maps(rirs, positions, receiver, floor)[None])
    factor = float(np.exp((log_scale[0].exp().numpy() * solid_angles(HEIGHT, WIDTH)).sum()))
    padded = around(log_depth[:, None], 1)
    fine = functional.interpolate(
        padded, scale_factor=(PANORAMA_HEIGHT / HEIGHT, PANORAMA_WIDTH / WIDTH), mode="bilinear", align_corners=False
    )
    rows, columns = PANORAMA_HEIGHT // HEIGHT, PANORAMA_WIDTH // WIDTH
    return fine[0, 0, rows:-rows, columns:-columns].exp().numpy(), factor
