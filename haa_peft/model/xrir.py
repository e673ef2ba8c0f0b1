"""xRIR: a room's impulse response from references, geometry and a position (arXiv 2504.10746)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.spectrogram import N_FRAMES, energy_above_floor, log_magnitude, magnitude_from_log
from haa_peft.checks import check_kind
from haa_peft.errors import InputError
from haa_peft.geometry.panorama import PANORAMA_WIDTH
from haa_peft.geometry.reflections import REFLECTION_LEVELS, reflection_levels
from haa_peft.model.config import XRIRConfig
from haa_peft.model.heads import EnergyBlend, Projection, SinusoidalCode
from haa_peft.model.resnet import ResNet18
from haa_peft.model.tensors import Asked, EncodedRoom, RoomTensors
from haa_peft.model.vit import GeometryEncoder, Stage

LENGTH_SCALE = 5.0
"""Metres; coordinates enter the network divided by it."""
INPUTS = {
    "panorama": ("B", "C", "height", "width"), "reference_rirs": ("B", "K", "9600"), "target_position": ("B", "3"),
    "reference_positions": ("B", "K", "3"),
}  # fmt: skip
"""Shapes of what :meth:`XRIR.forward` takes; C is 3 or more."""
AT_ONCE = 32
"""Inputs encoded together where no gradients are asked for."""


class AudioEncoder(nn.Module):
    """The ResNet under the name that it has in the published checkpoint."""

    def __init__(self, config: XRIRConfig) -> None:
        super().__init__()
        self.cnn = ResNet18(config)


class XRIR(nn.Module):
    """Predicts the log-spectrogram of the RIR at a position.

    ``XRIR(XRIRConfig())`` is the published network and has its state dict. It is fully batched and differentiable
    and runs where its weights are. Encoders follow autocast; alignment, spectrograms and the heads stay in single
    precision. ``origin`` says where the weights came from; with
    ``gradient_checkpointing``, activations inside the encoders are
    computed again for the backward pass instead of kept.
    """

    def __init__(self, config: XRIRConfig | None = None) -> None:
        super().__init__()
        self.origin = "untrained"
        self.base_fingerprint: str | None = None  # kept while an adapter is attached
        self.gradient_checkpointing = False
        check_kind("config", config, XRIRConfig | None, "an XRIRConfig")
        config = config or XRIRConfig()
        self.config = config
        channels = config.channels
        rows, columns = config.token_grid
        self.source_network = GeometryEncoder(config)
        self.src_proj = Projection(config.width, channels)
        self.dist_embedder = SinusoidalCode(7)
        self.src_coord_proj = Projection(63, channels)
        self.reflection_proj = Projection(REFLECTION_LEVELS, channels) if config.reflections else None
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

        Coordinates are in units of 5 m; channels of the panorama (3 or more, 256, 512) behind them are the same for all
        positions.
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
        """Run the geometry chain, (P, 3 or more, h, w) -> (P, C), or its stages from ``first`` to before ``last``."""
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
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(stage, x, use_reentrant=False)
        return stage(x)

    def position_features(self, panorama: Tensor, positions: Tensor) -> Tensor:
        """Positions (P, 3) m in one room, with ``reflections`` their 16 reflection levels behind: (P, 3 or 19).

        See :func:`~haa_peft.geometry.reflections.reflection_levels`.
        """
        if not self.config.reflections:
            return positions
        return torch.cat([positions, reflection_levels(self.pool(panorama)[:3], positions)], dim=-1)

    def encode_position(self, features: Tensor) -> Tensor:
        """What :meth:`position_features` gives, (..., 3 or 19) -> (..., C)."""
        code = self.src_coord_proj(self.dist_embedder(features[..., :3] / LENGTH_SCALE))
        return code if self.reflection_proj is None else code + self.reflection_proj(features[..., 3:])

    def query(self, features: Tensor, at_receiver: Tensor, at_target: Tensor) -> Tensor:
        """Targets' vectors (B, C) from their features (B, 3 or 19) and what receiver and target see, (B, C) each."""
        return self.lin_proj_1(torch.cat([self.encode_position(features), at_receiver, at_target], dim=-1))

    def keys(self, features: Tensor, at_receiver: Tensor, at_references: Tensor, audio: Tensor) -> Tensor:
        """References' vectors (..., C).

        Parameters
        ----------
        features : (..., 3 or 19) :meth:`position_features`.
        at_receiver, at_references : (..., C) what is seen from there.
        audio : (..., 8 * resnet_width) what the audio encoder hears.
        """
        receiver = at_receiver.expand_as(at_references)
        return self.lin_proj_2(torch.cat([self.encode_position(features), receiver, at_references, audio], dim=-1))

    def values(self, aligned: Tensor) -> Tensor:
        """What :meth:`blend` sums of aligned log-spectrograms (..., 63, 310): themselves, or their energies."""
        if self.config.weighting != "energy":
            return aligned
        return energy_above_floor(magnitude_from_log(aligned).square())

    def hear(self, aligned: Tensor) -> tuple[Tensor, Tensor | None]:
        """:meth:`values` of aligned log-spectrograms (..., 63, 310), and their features (..., F), if encoded so."""
        return self.values(aligned), self.encode_audio(aligned) if self.config.align_before_encoding else None

    def blend(self, query: Tensor, keys: Tensor, values: Tensor, target: Tensor, references: Tensor) -> Tensor:
        """Log-spectrograms (B, 63, 310), weighted sums of the references'.

        Parameters
        ----------
        query, keys : (B, C) and (B, K, C) vectors of targets and references.
        values : (B, K, 63, 310) :meth:`values`. Energies may come summed over frequency, (B, K, 1, 310), as the result
            then is.
        target, references : (B, 3) and (B, K, 3) m from the receiver.
        """
        if self.config.weighting == "energy":
            return self.energy_blend(query, keys, values, target, references)
        channels = query.shape[-1]
        time = 2 * torch.arange(N_FRAMES, device=self.device) / N_FRAMES - 1
        time_code = self.time_proj(self.time_embedder(time[:, None]).expand(len(query), -1, -1))
        scores = torch.softmax((keys @ query[..., None])[..., 0] / channels, dim=-1)
        weights = (scores[..., None] * keys) @ time_code.mT / channels
        return (weights[:, :, None] * values).sum(dim=1)

    def forward(
        self, panorama: Tensor, reference_rirs: Tensor, target_position: Tensor, reference_positions: Tensor
    ) -> Tensor:
        """Log-spectrogram at the target, (B, 63, 310): :meth:`encode` and :meth:`predict` for rooms of one target.

        Parameters
        ----------
        panorama : (B, 3, 256, 512) coordinates in metres seen from the receiver, which is the origin; for an adapter
            that reads them, :func:`~haa_peft.geometry.panorama.surface_channels` behind.
        reference_rirs : (B, K, 9600) at 22 050 Hz.
        target_position : (B, 3) metres from the receiver.
        reference_positions : (B, K, 3) metres from the receiver.

        Raises
        ------
        InputError
            For what are no tensors of these shapes.
        """
        _check_inputs(panorama, reference_rirs, target_position, reference_positions)
        count = reference_rirs.shape[1]
        positions = torch.cat([reference_positions, target_position[:, None]], dim=1)
        rows = torch.arange(count + 1, device=positions.device)
        rooms = self.encode([RoomTensors(*room) for room in zip(panorama, reference_rirs, positions, strict=True)])
        return self.predict([(room, room.targets(rows[-1:], rows[None, :-1])) for room in rooms])

    def encode(self, rooms: Sequence[RoomTensors]) -> list[EncodedRoom]:
        """See rooms from all their positions and hear their references: once a room, but for what they bring along.

        All rooms go through the encoders together; without gradients, some of their inputs at a time.
        """
        found = []
        for room, seen, heard in zip(rooms, self._see(rooms), self._hear(rooms), strict=True):
            count, pooled = len(room.rirs), self.pool(room.panorama)
            keys, features = seen.new_zeros(count, 0), room.features
            with torch.autocast(self.device.type, enabled=False):
                if features is None:
                    features = self.position_features(pooled, room.positions)
                if heard is not None:
                    keys = self.keys(features[:count], seen[:1], seen[1 : 1 + count], heard)
            found.append(EncodedRoom(pooled, room.rirs, room.positions, seen[0], seen[1:], keys, features))
        return found

    def predict(
        self,
        asked: Sequence[Asked],
        using: Callable[[Sequence[tuple[EncodedRoom, int]]], AbstractContextManager] = lambda _: nullcontext(),
    ) -> Tensor:
        """Log-spectrograms (B, 63, 310) of all rooms' targets, one room after the other, in one batch.

        Parameters
        ----------
        asked : rooms as :meth:`encode` gives them, with their targets; all have the same K.
        using : is told, as (room, rows) pairs in order, whose rows come next, for a backbone whose weights depend on
            the room (:class:`~haa_peft.inference.network.RoomNetwork`).
        """
        rows = [(room, len(targets.positions)) for room, targets in asked]
        positions = torch.cat([targets.positions for _, targets in asked])
        places = torch.cat([room.positions[targets.references] for room, targets in asked])
        receiver = torch.cat([room.receiver.expand(len(targets.positions), -1) for room, targets in asked])
        with using(rows):
            seen = self._see_targets(asked)
        with using([(room, count * places.shape[1]) for room, count in rows]):
            values, audio = self._hear_pairs(asked, places, positions)
        with using(rows), torch.autocast(self.device.type, enabled=False):
            features = [self._features(room, t.positions, t.features) for room, t in asked]
            query = self.query(torch.cat(features), receiver, seen)
            if audio is None:
                keys = torch.cat([room.keys[targets.references] for room, targets in asked])
            else:
                views = torch.cat([room.views[targets.references] for room, targets in asked])
                features = [self._features(room, room.positions, room.features)[t.references] for room, t in asked]
                keys = self.keys(torch.cat(features), receiver[:, None], views, audio)
            return self.blend(query, keys, values, positions, places)

    def _features(self, room: EncodedRoom, positions: Tensor, known: Tensor | None) -> Tensor:
        return self.position_features(room.panorama, positions) if known is None else known

    def _see(self, rooms: Sequence[RoomTensors]) -> list[Tensor]:
        """What is seen from receiver and positions of every room, (1 + P, C)."""
        if all(room.views is not None for room in rooms):
            return [in_parts(partial(self.encode_views, first=room.stages), room.views) for room in rooms]  # type: ignore[arg-type]
        asked = [(self.pool(room.seen), functional.pad(room.positions, (0, 0, 1, 0))) for room in rooms]
        if torch.is_grad_enabled() or sum(len(where) for _, where in asked) <= AT_ONCE:
            images = join_views([self.views(*one) for one in asked])
            return list(self.encode_views(images).split([len(where) for _, where in asked]))
        return [in_parts(lambda part, p=p: self.encode_views(self.views(p, part)), where) for p, where in asked]  # type: ignore[misc]

    def _hear(self, rooms: Sequence[RoomTensors]) -> Sequence[Tensor | None]:
        """Features (R, F) of every room's references as measured; None where they are encoded as aligned."""
        if self.config.align_before_encoding or all(room.audio is not None for room in rooms):
            return [room.audio for room in rooms]
        rirs = torch.cat([room.rirs for room in rooms])
        heard = in_parts(lambda part: self.encode_audio(log_magnitude(part)), rirs)
        return heard.split([len(room.rirs) for room in rooms])

    def _see_targets(self, asked: Sequence[Asked]) -> Tensor:
        """What is seen from the targets, (B, C)."""
        views = [targets.views for _, targets in asked if targets.views is not None]
        if len(views) == len(asked):
            return torch.cat(views)
        return self.encode_views(join_views([self.views(room.panorama, t.positions) for room, t in asked]))

    def _hear_pairs(self, asked: Sequence[Asked], places: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Values (B, K, 63, 310) of the aligned references, and their features (B, K, F) if they are encoded so."""
        values = [targets.values for _, targets in asked if targets.values is not None]
        audio = [targets.audio for _, targets in asked if targets.audio is not None]
        if len(values) == len(asked):
            return torch.cat(values), torch.cat(audio) if audio else None
        rirs = torch.cat([room.rirs[targets.references] for room, targets in asked])
        return self.hear(log_magnitude(align(rirs, places, positions)))


def _check_inputs(*inputs: object) -> None:
    """Raise ``InputError`` unless these are what :meth:`XRIR.forward` takes."""
    sizes: dict[str, int] = {}
    for (what, axes), value in zip(INPUTS.items(), inputs, strict=True):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            given = f"of {value.dtype}" if isinstance(value, Tensor) else f"{value!r:.60}"
            raise InputError(f"{what} is {given} but must be a tensor ({', '.join(axes)}) of real numbers")
        named = dict(zip(axes, value.shape, strict=False))
        expected = {axis: int(axis) if axis.isdigit() else sizes.setdefault(axis, size) for axis, size in named.items()}
        if value.ndim != len(axes) or named != expected or sizes.get("C", 3) < 3:
            known = "".join(f", {axis} = {size}" for axis, size in sizes.items() if axis in "BK")
            raise InputError(f"{what} is {tuple(value.shape)} but must be ({', '.join(axes)}) with C > 2{known}")


def join_views(views: Sequence[Tensor]) -> Tensor:
    """Views of several rooms, (P, 3 or more, h, w) each, as one batch; channels that a room does not have are zero."""
    most = max(view.shape[1] for view in views)
    return torch.cat([functional.pad(view, (0, 0, 0, 0, 0, most - view.shape[1])) for view in views])


def in_parts(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function(x)`` of x (N, ...), ``AT_ONCE`` rows at a time unless gradients are asked for: bounds memory."""
    return function(x) if torch.is_grad_enabled() else torch.cat([function(part) for part in x.split(AT_ONCE)])
