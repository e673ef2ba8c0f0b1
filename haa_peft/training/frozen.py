"""What no trainable weight changes: computed once for a run, not in every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.spectrogram import N_BINS, N_FRAMES, log_magnitude
from haa_peft.model.tensors import Known, RoomTensors
from haa_peft.model.xrir import AT_ONCE, XRIR

KEPT_BYTES = 2**30
"""Most memory for what is kept of views, and of aligned pairs; larger ones are computed as they are needed."""


def is_frozen(module: nn.Module) -> bool:
    """Whether a module gives the same at every step: nothing in it trains and nothing in it is random or counts."""
    moving = (nn.Dropout, nn.BatchNorm2d)
    return not any(p.requires_grad for p in module.parameters()) and not any(
        part.training for part in module.modules() if isinstance(part, moving)
    )


class FrozenParts:
    """What :meth:`XRIR.encode` and :meth:`XRIR.predict` need not compute again while a room is trained in.

    Which parts are frozen is read from the parameters when this is made: the leading stages of the geometry chain
    without a trainable weight, and the audio encoder as a whole. Alignment never changes. Everything is computed in
    single precision, features of positions at once and the rest when first asked for, always in the same order, so that
    a resumed run has the same bits.

    Attributes
    ----------
    room : its tensors, the panorama at the network's resolution.
    features : (P, 3 or 19) of the positions.
    stages : stages of the geometry chain that are frozen.
    audio : whether the audio encoder is.
    keeps_pairs : whether all pairs of position and reference fit in the memory that may be kept.

    Parameters
    ----------
    keep : with False, nothing is known and all is computed in every step.
    """

    def __init__(self, backbone: XRIR, room: RoomTensors, *, keep: bool = True) -> None:
        self._backbone, self._keep = backbone, keep
        self.room = RoomTensors(backbone.pool(room.panorama), room.rirs, room.positions, backbone.pool(room.seen))
        self.features = backbone.position_features(self.room.panorama, room.positions)
        frozen = [is_frozen(module) for module, _ in backbone.geometry_stages()]
        self.stages = frozen.index(False) if False in frozen else len(frozen)
        self.audio = is_frozen(backbone.audio_enc)
        self._views: Tensor | None = None
        self._as_measured: Tensor | None = None
        self._pairs: tuple[Tensor, Tensor] | None = None
        self.keeps_pairs = len(room.positions) * len(room.rirs) * N_BINS * N_FRAMES * 4 <= KEPT_BYTES

    def known(self, rows: Tensor, references: int) -> Known:
        """What is known of positions, ``rows`` (P,) of the room, of which the first ``references`` are references."""
        if not self._keep:
            return Known()
        views = audio = None
        if self.stages and self._bytes_of_views() <= KEPT_BYTES:
            views = self._all_views()[torch.cat([rows.new_zeros(1), 1 + rows])]
        if self.audio and not self._backbone.config.align_before_encoding:
            audio = self._all_audio()[rows[:references]]
        return Known(self.stages, views, audio, self.features[rows])

    def _bytes_of_views(self) -> int:
        """Bytes of all positions' output of the frozen stages, at most."""
        config = self._backbone.config
        rows, columns = config.token_grid
        is_whole = self.stages == len(self._backbone.geometry_stages())
        width = config.channels if is_whole else rows * columns * max(config.width, config.channels)
        return 4 * width * (1 + len(self.room.positions))

    def _all_views(self) -> Tensor:
        """Output of the frozen stages for the receiver and all positions."""
        if self._views is None:
            seen_from = pad(self.room.positions, (0, 0, 1, 0))  # the receiver is the origin
            backbone = self._backbone
            with torch.no_grad(), torch.autocast(seen_from.device.type, enabled=False):
                images = (backbone.views(self.room.seen, part) for part in seen_from.split(AT_ONCE))
                self._views = torch.cat([backbone.encode_views(image, 0, self.stages) for image in images])
        return self._views

    def _all_audio(self) -> Tensor:
        """Features of all references as measured, (R, F)."""
        if self._as_measured is None:
            with torch.no_grad(), torch.autocast(self.room.rirs.device.type, enabled=False):
                parts = self.room.rirs.split(AT_ONCE)
                self._as_measured = torch.cat([self._backbone.encode_audio(log_magnitude(part)) for part in parts])
        return self._as_measured

    def pairs(self, targets: Tensor, references: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Values and features of references aligned to targets, as :class:`~haa_peft.model.tensors.Targets` has them.

        The features come with gradients where the audio encoder trains.

        Parameters
        ----------
        targets, references : (B,) rows of the room's positions, and (B, K) of its references.
        """
        if not self._keep:
            return None, None
        places = (targets[:, None].expand_as(references), references)
        if self.keeps_pairs:
            if self._pairs is None:
                counts = len(self.room.positions), len(self.room.rirs)
                every = torch.cartesian_prod(*(torch.arange(n, device=targets.device) for n in counts))
                kept = self._compute_pairs(every[:, 0], every[:, 1])
                self._pairs = (kept[0].unflatten(0, counts), kept[1].unflatten(0, counts))
            found, heard = self._pairs[0][places], self._pairs[1][places]
        else:
            computed = self._compute_pairs(places[0].flatten(), places[1].flatten())
            found, heard = (part.unflatten(0, references.shape) for part in computed)
        if not self._backbone.config.align_before_encoding:
            return found, None
        return (found, heard) if self.audio else (self._backbone.values(found), self._backbone.encode_audio(found))

    def _compute_pairs(self, targets: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Values (N, 63, 310) of pairs, and features (N, F): none unless kept ones are of use.

        Where aligned log-spectrograms are to be encoded with trained weights, themselves.
        """
        values, features = [], []
        align_first = self._backbone.config.align_before_encoding
        encoded, to_encode = align_first and self.audio, align_first and not self.audio
        with torch.no_grad(), torch.autocast(targets.device.type, enabled=False):
            for target, reference in zip(targets.split(AT_ONCE), references.split(AT_ONCE), strict=True):
                places = self.room.positions[reference][:, None], self.room.positions[target]
                aligned = log_magnitude(align(self.room.rirs[reference][:, None], *places)[:, 0])
                values.append(aligned if to_encode else self._backbone.values(aligned))
                features.append(self._backbone.encode_audio(aligned) if encoded else aligned.new_zeros(len(aligned), 0))
        return torch.cat(values), torch.cat(features)
