"""xRIR: a room's impulse response from references, geometry and a position (arXiv 2504.10746)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.spectrogram import N_FRAMES, energy_above_floor, log_magnitude, magnitude_from_log
from haa_peft.geometry.panorama import PANORAMA_WIDTH
from haa_peft.geometry.reflections import LEVELS, reflection_levels
from haa_peft.model.config import XRIRConfig
from haa_peft.model.heads import EnergyBlend, Projection, SinusoidalCode
from haa_peft.model.resnet import ResNet18
from haa_peft.model.vit import GeometryEncoder, Stage

LENGTH_SCALE = 5.0
"""Metres; coordinates enter the network divided by it."""


class AudioEncoder(nn.Module):
    """The ResNet under the name that it has in the published checkpoint."""

    def __init__(self, config: XRIRConfig) -> None:
        super().__init__()
        self.cnn = ResNet18(config)


class RoomQueries(NamedTuple):
    """Targets of one configuration, each with its references.

    ``panorama`` (3 or more, 256, 512) m, or pooled already; ``rirs`` (R, 9600) measured RIRs of the first R
    ``positions`` (P, 3) m from the receiver; ``targets`` (B,) indices of positions; ``references`` (B, K) indices
    below R. ``view`` is what the geometry encoder sees if not the panorama: the same surfaces from another viewpoint.
    """

    panorama: Tensor
    rirs: Tensor
    positions: Tensor
    targets: Tensor
    references: Tensor
    view: Tensor | None = None


class XRIR(nn.Module):
    """Predicts the log-spectrogram of the RIR at a position.

    ``XRIR(XRIRConfig())`` is the published network and has its state dict. It is fully batched and differentiable
    and runs where its weights are. Encoders follow autocast; alignment, spectrograms and the heads stay in single
    precision. ``origin`` says where the weights came from; with ``checkpointing``, activations inside the encoders are
    computed again for the backward pass instead of kept.
    """

    def __init__(self, config: XRIRConfig | None = None) -> None:
        super().__init__()
        self.origin = "untrained"
        self.base_fingerprint: str | None = None  # kept while an adapter is attached
        self.checkpointing = False
        config = config or XRIRConfig()
        self.config = config
        channels = config.channels
        rows, columns = config.token_grid
        self.source_network = GeometryEncoder(config)
        self.src_proj = Projection(config.width, channels)
        self.dist_embedder = SinusoidalCode(7)
        self.src_coord_proj = Projection(63, channels)
        self.reflection_proj = Projection(LEVELS, channels) if config.reflections else None
        if config.unused_modules:
            self.source_proj = Projection(42, channels)
        self.lin_proj_0 = Projection(rows * columns, 1)
        self.lin_proj_1 = Projection(3 * channels, channels)
        self.lin_proj_2 = Projection(3 * channels + 8 * config.resnet_width, channels)
        self.audio_enc = AudioEncoder(config)
        if config.weighting == "energy":
            self.energy_blend = EnergyBlend(channels, config.mixing)
        else:
            self.time_embedder = SinusoidalCode(10)
            self.time_proj = Projection(21, channels)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.dist_embedder.freqs.device

    def pool(self, panorama: Tensor) -> Tensor:
        """Panorama at the network's resolution, (..., C, 256, 512) -> (..., C, h, w); a pooled one stays."""
        if panorama.shape[-1] != PANORAMA_WIDTH or self.config.panorama_pooling == 1:
            return panorama
        return functional.avg_pool2d(panorama, self.config.panorama_pooling)

    def views(self, panorama: Tensor, positions: Tensor) -> Tensor:
        """What the geometry encoder reads for positions (P, 3) m in one room: (P, 3 or more, h, w).

        Coordinates are in units of 5 m; channels of the panorama behind them are the same for all positions.
        """
        pooled = self.pool(panorama)
        images = (positions[..., None, None] - pooled[:3]) / LENGTH_SCALE
        return images if len(pooled) == 3 else torch.cat([images, pooled[3:].expand(len(positions), -1, -1, -1)], dim=1)

    def geometry_stages(self) -> list[Stage]:
        """The chain from views (P, 3 or more, h, w) to vectors (P, C)."""
        return [
            *self.source_network.stages(),
            (self.src_proj, self.src_proj),
            (self.lin_proj_0, lambda tokens: self.lin_proj_0(tokens.transpose(1, 2))[..., 0]),
        ]

    def encode_views(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Run the geometry chain, or the stages from ``first`` to before ``last`` of it."""
        for _, stage in self.geometry_stages()[first:last]:
            x = self._run(stage, x)
        return x.to(self.dist_embedder.freqs.dtype)

    def encode_audio(self, log_spectrograms: Tensor) -> Tensor:
        """(..., 63, 310) -> (..., 8 * resnet_width)."""
        x = log_spectrograms.flatten(0, -3)
        if self.config.audio_pooling > 1:
            x = functional.avg_pool1d(x, self.config.audio_pooling)
        for stage in self.audio_enc.cnn.stages():
            x = self._run(stage, x)
        return x.to(self.dist_embedder.freqs.dtype).unflatten(0, log_spectrograms.shape[:-2])

    def _run(self, stage: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(stage, x, use_reentrant=False)
        return stage(x)

    def describe(self, panorama: Tensor, positions: Tensor) -> Tensor:
        """Positions (P, 3) m in one room, with ``reflections`` their 16 reflection levels behind: (P, 3 or 19).

        See :func:`~haa_peft.geometry.reflections.reflection_levels`.
        """
        if not self.config.reflections:
            return positions
        return torch.cat([positions, reflection_levels(self.pool(panorama)[:3], positions)], dim=-1)

    def encode_description(self, description: Tensor) -> Tensor:
        """What :meth:`describe` gives, (..., 3 or more) -> (..., C)."""
        code = self.src_coord_proj(self.dist_embedder(description[..., :3] / LENGTH_SCALE))
        return code if self.reflection_proj is None else code + self.reflection_proj(description[..., 3:])

    def query(self, target: Tensor, at_receiver: Tensor, at_target: Tensor) -> Tensor:
        """A target's vector (B, C) from its description and what is seen from receiver and target, (B, C)."""
        return self.lin_proj_1(torch.cat([self.encode_description(target), at_receiver, at_target], dim=-1))

    def keys(self, references: Tensor, at_receiver: Tensor, at_references: Tensor, audio: Tensor) -> Tensor:
        """References' vectors (..., C) from descriptions, views (..., C) and audio features (..., 8 resnet_width)."""
        receiver = at_receiver.expand_as(at_references)
        return self.lin_proj_2(torch.cat([self.encode_description(references), receiver, at_references, audio], dim=-1))

    def summands(self, aligned: Tensor) -> Tensor:
        """What :meth:`blend` sums of aligned log-spectrograms (..., 63, 310): themselves, or their energies."""
        if self.config.weighting != "energy":
            return aligned
        return energy_above_floor(magnitude_from_log(aligned).square())

    def blend(self, query: Tensor, keys: Tensor, summands: Tensor, target: Tensor, references: Tensor) -> Tensor:
        """Log-spectrograms (B, 63, 310), weighted sums of the references' :meth:`summands` (B, K, 63, 310)."""
        if self.config.weighting == "energy":
            return self.energy_blend(query, keys, summands, target, references)
        channels = query.shape[-1]
        time = 2 * torch.arange(N_FRAMES, device=self.device) / N_FRAMES - 1
        time_code = self.time_proj(self.time_embedder(time[:, None]).expand(len(query), -1, -1))
        scores = torch.softmax((keys @ query[..., None])[..., 0] / channels, dim=-1)
        weights = (scores[..., None] * keys) @ time_code.mT / channels
        return (weights[:, :, None] * summands).sum(dim=1)

    def combine(
        self,
        at_receiver: Tensor,
        at_target: Tensor,
        at_references: Tensor,
        audio: Tensor,
        summands: Tensor,
        target: Tensor,
        references: Tensor,
    ) -> Tensor:
        """Log-spectrograms (B, 63, 310) from all encoded inputs; ``target`` and ``references`` are :meth:`describe`."""
        with torch.autocast(self.device.type, enabled=False):
            query = self.query(target, at_receiver, at_target)
            keys = self.keys(references, at_receiver[:, None], at_references, audio)
            return self.blend(query, keys, summands, target[..., :3], references[..., :3])

    def forward(
        self, panorama: Tensor, reference_rirs: Tensor, target_position: Tensor, reference_positions: Tensor
    ) -> Tensor:
        """Log-spectrogram at the target, (B, 63, 310).

        Parameters
        ----------
        panorama : (B, 3, 256, 512) coordinates in metres seen from the receiver, which is the origin; for an adapter
            that reads them, :func:`~haa_peft.geometry.panorama.surface_channels` behind.
        reference_rirs : (B, K, 9600) at 22 050 Hz.
        target_position : (B, 3) metres from the receiver.
        reference_positions : (B, K, 3) metres from the receiver.
        """
        origin = torch.zeros_like(target_position)[:, None]
        seen_from = torch.cat([origin, target_position[:, None], reference_positions], dim=1)
        images = torch.stack([self.views(*room) for room in zip(panorama, seen_from, strict=True)])
        described = torch.stack([self.describe(*room) for room in zip(panorama, seen_from[:, 1:], strict=True)])
        geometry = self.encode_views(images.flatten(0, 1)).unflatten(0, seen_from.shape[:2])
        aligned = log_magnitude(align(reference_rirs, reference_positions, target_position))
        audio = self.encode_audio(aligned if self.config.align_before_encoding else log_magnitude(reference_rirs))
        return self.combine(
            geometry[:, 0],
            geometry[:, 1],
            geometry[:, 2:],
            audio,
            self.summands(aligned),
            described[:, 0],
            described[:, 1:],
        )

    def forward_rooms(self, rooms: Sequence[RoomQueries]) -> list[Tensor]:
        """Log-spectrograms (B, 63, 310) for each room's targets.

        Every distinct input is encoded once: a position seen in one geometry, which configurations of a room may
        share; an aligned pair; or a reference, where references are encoded as measured.
        """
        vectors = self._encode_distinct_views(rooms)
        aligned = [
            log_magnitude(
                align(room.rirs[room.references], room.positions[room.references], room.positions[room.targets])
            )
            for room in rooms
        ]
        if self.config.align_before_encoding:
            flat = self.encode_audio(torch.cat([part.flatten(0, 1) for part in aligned]))
            counts = [part.shape[0] * part.shape[1] for part in aligned]
            audio = [
                part.unflatten(0, whole.shape[:2]) for part, whole in zip(flat.split(counts), aligned, strict=True)
            ]
        else:
            audio = self._encode_references(rooms)
        described = self._descriptions(rooms)
        summands = [self.summands(part) for part in aligned]
        return [self.combine(*vectors[i], audio[i], summands[i], *described[i]) for i in range(len(rooms))]

    def frame_energies(self, rooms: Sequence[RoomQueries], aligned: Sequence[Tensor]) -> list[Tensor]:
        """Energy (B, 310) in every frame of what :meth:`forward_rooms` predicts, at a fraction of its cost.

        For ``weighting="energy"`` with references encoded as measured: there a reference's spectrum only matters by its
        sum. ``aligned`` are those sums, (P, R, 310) for each room: of every reference aligned to every position.
        """
        found = []
        vectors, audio = self._encode_distinct_views(rooms), self._encode_references(rooms)
        for room, pairs, seen, heard, described in zip(
            rooms, aligned, vectors, audio, self._descriptions(rooms), strict=True
        ):
            energy = pairs[room.targets[:, None], room.references]
            with torch.autocast(self.device.type, enabled=False):
                at_receiver, at_target, at_references = seen
                query = self.query(described[0], at_receiver, at_target)
                keys = self.keys(described[1], at_receiver[:, None], at_references, heard)
                positions = room.positions[room.targets], room.positions[room.references]
                found.append((self.energy_blend.gains(query, keys, energy, *positions) * energy).sum(dim=1))
        return found

    def _descriptions(self, rooms: Sequence[RoomQueries]) -> list[tuple[Tensor, Tensor]]:
        """Descriptions of targets (B, 3 or more) and references (B, K, 3 or more) of every room."""
        every = [self.describe(room.panorama, room.positions) for room in rooms]
        return [(part[room.targets], part[room.references]) for part, room in zip(every, rooms, strict=True)]

    def _encode_references(self, rooms: Sequence[RoomQueries]) -> list[Tensor]:
        """Features (B, K, F) of every room's references as measured, each encoded once."""
        heard = [torch.unique(room.references, return_inverse=True) for room in rooms]
        spectra = [log_magnitude(room.rirs[rows]) for room, (rows, _) in zip(rooms, heard, strict=True)]
        parts = self.encode_audio(torch.cat(spectra)).split([len(rows) for rows, _ in heard])
        return [part[rows] for part, (_, rows) in zip(parts, heard, strict=True)]

    def _encode_distinct_views(self, rooms: Sequence[RoomQueries]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """What is seen from receiver (B, C), targets (B, C) and references (B, K, C) of every room."""
        panoramas: list[Tensor] = []
        members: list[list[int]] = []
        for i, room in enumerate(rooms):
            view = room.panorama if room.view is None else room.view
            same = [j for j, p in enumerate(panoramas) if p is view or torch.equal(p, view)]
            if same:
                members[same[0]].append(i)
            else:
                panoramas.append(view)
                members.append([i])
        views, positions = [], []
        for panorama, group in zip(panoramas, members, strict=True):
            asked = [rooms[i].positions[torch.cat([rooms[i].targets, rooms[i].references.flatten()])] for i in group]
            distinct, rows = torch.unique(
                torch.cat([torch.zeros_like(asked[0][:1]), *asked]), dim=0, return_inverse=True
            )
            views.append(self.views(panorama, distinct))
            positions.append(rows)
        found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        encoded = self.encode_views(join_views(views)).split([len(part) for part in views])
        for vectors, rows, group in zip(encoded, positions, members, strict=True):
            counts = [1, *(rooms[i].targets.numel() + rooms[i].references.numel() for i in group)]
            receiver, *parts = vectors[rows].split(counts)
            for i, part in zip(group, parts, strict=True):
                count = len(rooms[i].targets)
                references = part[count:].unflatten(0, rooms[i].references.shape)
                found[i] = (receiver.expand(count, -1), part[:count], references)
        return [found[i] for i in range(len(rooms))]


def join_views(views: Sequence[Tensor]) -> Tensor:
    """Views of several rooms, (P, 3 or more, h, w) each, as one batch; channels that a room does not have are zero."""
    most = max(view.shape[1] for view in views)
    return torch.cat([functional.pad(view, (0, 0, 0, 0, 0, most - view.shape[1])) for view in views])
