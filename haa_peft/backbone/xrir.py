"""xRIR: a room's impulse response from references, geometry and a position (arXiv 2504.10746)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.spectrogram import N_FRAMES, log_magnitude
from haa_peft.backbone.config import XRIRConfig
from haa_peft.backbone.resnet import ResNet18
from haa_peft.backbone.vit import GeometryEncoder
from haa_peft.geometry.panorama import PANORAMA_WIDTH

LENGTH_SCALE = 5.0
"""Metres; coordinates enter the network divided by it."""
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
        self.proj = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return self.proj(x)


class AudioEncoder(nn.Module):
    """The ResNet under the name that it has in the published checkpoint."""

    def __init__(self, config: XRIRConfig) -> None:
        super().__init__()
        self.cnn = ResNet18(config)


class BoundedWeighting(nn.Module):
    """Starts as a distance-weighted average and learns bounded departures from it over time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.distance_rate = nn.Parameter(torch.tensor(1.5))
        self.departure = nn.Linear(2 * channels, channels)
        nn.init.zeros_(self.departure.weight)
        nn.init.zeros_(self.departure.bias)

    def forward(self, query: Tensor, keys: Tensor, distance: Tensor, time_code: Tensor) -> Tensor:
        """Query (B, C), keys (B, K, C), distance (B, K) m, time code (T, C) -> weights (B, K, T)."""
        scores = (keys @ query[..., None])[..., 0] / math.sqrt(query.shape[-1])
        weights = torch.softmax(scores - self.distance_rate * distance, dim=-1)
        departure = self.departure(torch.cat([keys, query[:, None].expand_as(keys)], dim=-1))
        delta = departure @ time_code.T / math.sqrt(query.shape[-1])
        return weights[..., None] * (1 + DEPARTURE * torch.tanh(delta))


class FrameGain(nn.Module):
    """A correction of the level in every frame, at most 1 neper (8.7 dB); zero until it has learned.

    An average of log-spectrograms is too quiet where the references are noise-like, and no weighting of references
    knows how the level changes behind a directional source.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(2 * channels, channels)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, query: Tensor, keys: Tensor, weights: Tensor, time_code: Tensor) -> Tensor:
        """Query (B, C), keys (B, K, C), weights (B, K, T), time code (T, C) -> nepers (B, T)."""
        heard = (weights.mean(dim=-1, keepdim=True) * keys).sum(dim=1)
        state = self.proj(torch.cat([query, heard], dim=-1))
        return torch.tanh(state @ time_code.T / math.sqrt(query.shape[-1]))


class XRIR(nn.Module):
    """Predicts the log-spectrogram of the RIR at a position.

    ``XRIR(XRIRConfig())`` is the published network and has its state dict. It is fully batched and differentiable
    and runs where its weights are. ``origin`` says where its weights came from.
    """

    def __init__(self, config: XRIRConfig | None = None) -> None:
        super().__init__()
        self.origin = "untrained"
        self.base_fingerprint: str | None = None  # kept while an adapter is attached
        config = config or XRIRConfig()
        self.config = config
        channels = config.channels
        rows, columns = config.token_grid
        self.source_network = GeometryEncoder(config)
        self.src_proj = Projection(config.width, channels)
        self.dist_embedder = SinusoidalCode(7)
        self.src_coord_proj = Projection(63, channels)
        if config.unused_modules:
            self.source_proj = Projection(42, channels)
        self.lin_proj_0 = Projection(rows * columns, 1)
        self.lin_proj_1 = Projection(3 * channels, channels)
        self.lin_proj_2 = Projection(3 * channels + 8 * config.resnet_width, channels)
        self.audio_enc = AudioEncoder(config)
        self.time_embedder = SinusoidalCode(10)
        self.time_proj = Projection(21, channels)
        if config.weighting == "bounded":
            self.bounded_weighting = BoundedWeighting(channels)
        if config.frame_gain:
            self.frame_gain = FrameGain(channels)

    def encode_geometry(self, panorama: Tensor, positions: Tensor) -> Tensor:
        """What the room looks like from positions: (B, 3, 256, 512) m, (B, P, 3) m -> (B, P, C).

        The panorama may be pooled already.
        """
        if panorama.shape[-1] == PANORAMA_WIDTH:
            panorama = functional.avg_pool2d(panorama, self.config.panorama_pooling)
        images = (positions[..., None, None] - panorama[:, None]) / LENGTH_SCALE
        tokens = self.src_proj(self.source_network(images.flatten(0, 1)))
        vectors = self.lin_proj_0(tokens.transpose(1, 2))[..., 0]
        return vectors.unflatten(0, positions.shape[:2])

    def encode_position(self, positions: Tensor) -> Tensor:
        """(..., 3) m from the receiver -> (..., C)."""
        return self.src_coord_proj(self.dist_embedder(positions / LENGTH_SCALE))

    def encode_audio(self, log_spectrograms: Tensor) -> Tensor:
        """(..., 63, 310) -> (..., 8 * resnet_width)."""
        shape = log_spectrograms.shape
        return self.audio_enc.cnn(log_spectrograms.reshape(-1, *shape[-2:])).reshape(*shape[:-2], -1)

    def time_code(self) -> Tensor:
        """Code of every frame, (310, C)."""
        device = self.time_embedder.freqs.device
        time = 2 * torch.arange(N_FRAMES, device=device) / N_FRAMES - 1
        return self.time_proj(self.time_embedder(time[:, None]))

    def weigh(self, query: Tensor, keys: Tensor, target: Tensor, references: Tensor) -> Tensor:
        """Weight of every reference in every frame, (B, K, 310).

        Parameters
        ----------
        query : (B, C) the target's vector. keys : (B, K, C) the references' vectors.
        target, references : (B, 3) and (B, K, 3) metres from the receiver.
        """
        if self.config.weighting == "bounded":
            distance = (references - target[:, None]).norm(dim=-1)
            return self.bounded_weighting(query, keys, distance, self.time_code())
        channels = query.shape[-1]
        scores = torch.softmax((keys @ query[..., None])[..., 0] / channels, dim=-1)
        return (scores[..., None] * keys) @ self.time_code().T / channels

    def forward(
        self, panorama: Tensor, reference_rirs: Tensor, target_position: Tensor, reference_positions: Tensor
    ) -> Tensor:
        """Log-spectrogram at the target, (B, 63, 310).

        Parameters
        ----------
        panorama : (B, 3, 256, 512) coordinates in metres seen from the receiver, which is the origin.
        reference_rirs : (B, K, 9600) at 22 050 Hz.
        target_position : (B, 3) metres from the receiver.
        reference_positions : (B, K, 3) metres from the receiver.
        """
        origin = torch.zeros_like(target_position)[:, None]
        seen_from = torch.cat([origin, target_position[:, None], reference_positions], dim=1)
        geometry = self.encode_geometry(panorama, seen_from)
        aligned = log_magnitude(align(reference_rirs, reference_positions, target_position))
        audio = self.encode_audio(aligned if self.config.align_before_encoding else log_magnitude(reference_rirs))
        return self.combine(
            geometry[:, 0],
            geometry[:, 1],
            geometry[:, 2:],
            audio,
            aligned,
            target_position,
            reference_positions,
        )

    def forward_room(
        self, panorama: Tensor, rirs: Tensor, positions: Tensor, targets: Tensor, references: Tensor
    ) -> Tensor:
        """The same as :meth:`forward` for targets of one room, each distinct input encoded once.

        Parameters
        ----------
        panorama : (3, 256, 512) m. positions : (P, 3) m from the receiver.
        rirs : (R, 9600) measured RIRs of the first R positions.
        targets : (B,) indices of positions. references : (B, K) indices below R.

        Returns
        -------
        (B, 63, 310) log-spectrograms.
        """
        used, places = torch.unique(torch.cat([targets[:, None], references], dim=1), return_inverse=True)
        seen_from = torch.cat([torch.zeros_like(positions[:1]), positions[used]])
        geometry = self.encode_geometry(panorama[None], seen_from[None])[0]
        at_target, at_references = geometry[1 + places[:, 0]], geometry[1 + places[:, 1:]]
        target_positions, reference_positions = positions[targets], positions[references]
        aligned = log_magnitude(align(rirs[references], reference_positions, target_positions))
        if self.config.align_before_encoding:
            audio = self.encode_audio(aligned)
        else:
            heard, rows = torch.unique(references, return_inverse=True)
            audio = self.encode_audio(log_magnitude(rirs[heard]))[rows]
        at_receiver = geometry[:1].expand_as(at_target)
        return self.combine(
            at_receiver, at_target, at_references, audio, aligned, target_positions, reference_positions
        )

    def combine(
        self,
        at_receiver: Tensor,
        at_target: Tensor,
        at_references: Tensor,
        audio: Tensor,
        aligned: Tensor,
        target: Tensor,
        references: Tensor,
    ) -> Tensor:
        """Weighted sum of the aligned log-spectrograms (B, K, 63, 310), from all encoded inputs."""
        query = self.lin_proj_1(torch.cat([self.encode_position(target), at_receiver, at_target], dim=-1))
        receiver = at_receiver[:, None].expand_as(at_references)
        keys = self.lin_proj_2(torch.cat([self.encode_position(references), receiver, at_references, audio], dim=-1))
        weights = self.weigh(query, keys, target, references)
        output = torch.einsum("bkt,bkft->bft", weights, aligned)
        if self.config.frame_gain:
            output = output + self.frame_gain(query, keys, weights, self.time_code())[:, None]
        return output
