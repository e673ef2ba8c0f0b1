"""What no trainable weight changes: computed once for a run, not in every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.spectrogram import N_BINS, N_FRAMES, log_magnitude
from haa_peft.backbone.xrir import XRIR

KEPT_BYTES = 2**30
"""Most memory for what is kept of aligned pairs, and of views; beyond it they are computed as they are needed."""
AT_ONCE = 32
"""Inputs encoded together while filling."""


def is_frozen(module: nn.Module) -> bool:
    """Whether a module gives the same at every step: nothing in it trains and nothing in it is random or counts."""
    moving = (nn.Dropout, nn.BatchNorm2d)
    return not any(p.requires_grad for p in module.parameters()) and not any(
        part.training for part in module.modules() if isinstance(part, moving)
    )


class FrozenParts:
    """Features of one configuration's positions and pairs of them, up to where weights train.

    Which parts are frozen is read from the parameters when this is made: the leading stages of the geometry chain
    without a trainable weight, and the audio encoder as a whole. Alignment never changes. Everything is computed in
    single precision, when first asked for.

    Parameters
    ----------
    panorama : (3, 256, 512) m. rirs : (R, 9600) references. positions : (P, 3) m from the receiver, the
        references' first.
    """

    def __init__(self, backbone: XRIR, panorama: Tensor, rirs: Tensor, positions: Tensor) -> None:
        self._backbone, self._rirs, self._positions = backbone, rirs, positions
        self._panorama = backbone.pool(panorama)
        frozen = [is_frozen(module) for module, _ in backbone.geometry_stages()]
        self.stages = frozen.index(False) if False in frozen else len(frozen)
        """Stages of the geometry chain that are frozen."""
        self.audio = is_frozen(backbone.audio_enc)
        """Whether the audio encoder is."""
        self._views: Tensor | None = None
        self._as_measured: Tensor | None = None
        self._places = torch.full((len(positions), len(rirs)), -1, dtype=torch.long, device=rirs.device)
        self._aligned = rirs.new_zeros(0, N_BINS, N_FRAMES)
        keeps_features = self.audio and backbone.config.align_before_encoding
        self._heard = rirs.new_zeros(0, 8 * backbone.config.resnet_width if keeps_features else 0)

    def views(self, rows: Tensor) -> Tensor:
        """Output of the frozen stages for rows: 0 is the receiver, 1 + i position i. Runs on from :attr:`stages`."""
        if self.stages == 0:
            return self._look(rows)
        if self._views is None:
            everywhere = torch.arange(1 + len(self._positions), device=rows.device)
            first = self._look(everywhere[:1])
            if first.nbytes * len(everywhere) > KEPT_BYTES:
                return self._look(rows)
            self._views = torch.cat([first, *(self._look(part) for part in everywhere[1:].split(AT_ONCE))])
        return self._views[rows]

    def _look(self, rows: Tensor) -> Tensor:
        seen_from = torch.cat([torch.zeros_like(self._positions[:1]), self._positions])[rows]
        with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
            return self._backbone.encode_views(self._backbone.views(self._panorama, seen_from), 0, self.stages)

    def pairs(self, targets: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Aligned log-spectrograms (B, K, 63, 310) and, where the audio encoder is frozen, their features.

        Otherwise the features come from the encoder as it is now, with gradients.
        """
        pairs = (targets[:, None].expand_as(references), references)
        missing = torch.zeros_like(self._places, dtype=torch.bool)
        missing[pairs] = self._places[pairs] < 0
        rows, columns = missing.nonzero(as_tuple=True)
        if len(rows) and (len(self._aligned) + len(rows)) * N_BINS * N_FRAMES * 4 > KEPT_BYTES:
            flat = [index.flatten() for index in pairs]
            aligned, heard = (part.unflatten(0, references.shape) for part in self._compute_pairs(*flat))
        else:
            if len(rows):
                self._places[rows, columns] = len(self._aligned) + torch.arange(len(rows), device=rows.device)
                found = self._compute_pairs(rows, columns)
                self._aligned = torch.cat([self._aligned, found[0]])
                self._heard = torch.cat([self._heard, found[1]])
            aligned, heard = self._aligned[self._places[pairs]], self._heard[self._places[pairs]]
        if self._backbone.config.align_before_encoding:
            return aligned, heard if self.audio else self._backbone.encode_audio(aligned)
        return aligned, self._measured(references)

    def _compute_pairs(self, targets: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Aligned log-spectrograms (N, 63, 310) and features (N, F) of pairs; no features where they train."""
        with torch.no_grad(), torch.autocast(targets.device.type, enabled=False):
            places = self._positions[references][:, None], self._positions[targets]
            aligned = log_magnitude(align(self._rirs[references][:, None], *places)[:, 0])
            if not self._heard.shape[1]:
                return aligned, aligned.new_zeros(len(aligned), 0)
            return aligned, torch.cat([self._backbone.encode_audio(part) for part in aligned.split(AT_ONCE)])

    def _measured(self, references: Tensor) -> Tensor:
        """Features of references as measured, (B, K, F)."""
        if not self.audio:
            rows, places = torch.unique(references, return_inverse=True)
            return self._backbone.encode_audio(log_magnitude(self._rirs[rows]))[places]
        if self._as_measured is None:
            with torch.no_grad(), torch.autocast(references.device.type, enabled=False):
                parts = [self._backbone.encode_audio(log_magnitude(part)) for part in self._rirs.split(AT_ONCE)]
                self._as_measured = torch.cat(parts)
        return self._as_measured[references]
