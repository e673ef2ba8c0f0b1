"""What no trainable weight changes: computed once for a run, not in every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.spectrogram import N_BINS, N_FRAMES, log_magnitude
from haa_peft.model.xrir import XRIR

KEPT_BYTES = 2**30
"""Most memory for what is kept of views, and of aligned pairs; larger ones are computed as they are needed."""
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
    single precision, descriptions at once and the rest when first asked for, always in the same order, so that a
    resumed run has the same bits.

    Parameters
    ----------
    panorama : (3 or more, 256, 512) m. rirs : (R, 9600) references. positions : (P, 3) m from the receiver, the
        references' first. view : what the geometry encoder sees if not the panorama, in the same coordinates.
    """

    def __init__(
        self, backbone: XRIR, panorama: Tensor, rirs: Tensor, positions: Tensor, view: Tensor | None = None
    ) -> None:
        self._backbone, self._rirs, self._positions = backbone, rirs, positions
        self._view = backbone.pool(panorama if view is None else view)
        self.descriptions = backbone.describe(backbone.pool(panorama), positions)
        """(P, 3 or more) of the positions, :meth:`XRIR.describe`."""
        frozen = [is_frozen(module) for module, _ in backbone.geometry_stages()]
        self.stages = frozen.index(False) if False in frozen else len(frozen)
        """Stages of the geometry chain that are frozen."""
        self.audio = is_frozen(backbone.audio_enc)
        """Whether the audio encoder is."""
        self._views: Tensor | None = None
        self._as_measured: Tensor | None = None
        self._pairs: tuple[Tensor, Tensor] | None = None
        self.keeps_pairs = len(positions) * len(rirs) * N_BINS * N_FRAMES * 4 <= KEPT_BYTES
        """Whether all pairs of position and reference fit in the memory that may be kept."""

    def views(self, rows: Tensor) -> Tensor:
        """Output of the frozen stages for rows: 0 is the receiver, 1 + i position i. Runs on from :attr:`stages`."""
        if self.stages == 0:
            return self._look(rows)
        if self._views is None:
            everywhere = torch.arange(1 + len(self._positions), device=rows.device)
            if self._width() * len(everywhere) > KEPT_BYTES:
                return torch.cat([self._look(part) for part in rows.split(AT_ONCE)])
            self._views = torch.cat([self._look(part) for part in everywhere.split(AT_ONCE)])
        return self._views[rows]

    def _width(self) -> int:
        """Bytes of one position's output of the frozen stages, at most."""
        config = self._backbone.config
        rows, columns = config.token_grid
        is_whole = self.stages == len(self._backbone.geometry_stages())
        return 4 * (config.channels if is_whole else rows * columns * max(config.width, config.channels))

    def _look(self, rows: Tensor) -> Tensor:
        seen_from = torch.cat([torch.zeros_like(self._positions[:1]), self._positions])[rows]
        with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
            return self._backbone.encode_views(self._backbone.views(self._view, seen_from), 0, self.stages)

    def pairs(self, targets: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Summands (B, K, 63, 310) of targets (B,) and references (B, K), and audio features (B, K, F).

        Summands are aligned log-spectrograms or their energies (:meth:`XRIR.summands`). The features come with
        gradients where the audio encoder trains.
        """
        places = (targets[:, None].expand_as(references), references)
        if self.keeps_pairs:
            if self._pairs is None:
                every = torch.cartesian_prod(*(torch.arange(n, device=targets.device) for n in self._counts()))
                kept = self._compute_pairs(every[:, 0], every[:, 1])
                self._pairs = (kept[0].unflatten(0, self._counts()), kept[1].unflatten(0, self._counts()))
            found, heard = self._pairs[0][places], self._pairs[1][places]
        else:
            computed = self._compute_pairs(places[0].flatten(), places[1].flatten())
            found, heard = (part.unflatten(0, references.shape) for part in computed)
        if not self._backbone.config.align_before_encoding:
            return found, self._measured(references)
        return (found, heard) if self.audio else (self._backbone.summands(found), self._backbone.encode_audio(found))

    def _counts(self) -> tuple[int, int]:
        return len(self._positions), len(self._rirs)

    def _compute_pairs(self, targets: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Summands (N, 63, 310) of pairs, and features (N, F): none unless kept ones are of use.

        Where aligned log-spectrograms are to be encoded with trained weights, themselves.
        """
        spectra, features = [], []
        align_first = self._backbone.config.align_before_encoding
        encoded, to_encode = align_first and self.audio, align_first and not self.audio
        with torch.no_grad(), torch.autocast(targets.device.type, enabled=False):
            for target, reference in zip(targets.split(AT_ONCE), references.split(AT_ONCE), strict=True):
                places = self._positions[reference][:, None], self._positions[target]
                aligned = log_magnitude(align(self._rirs[reference][:, None], *places)[:, 0])
                spectra.append(aligned if to_encode else self._backbone.summands(aligned))
                features.append(self._backbone.encode_audio(aligned) if encoded else aligned.new_zeros(len(aligned), 0))
        return torch.cat(spectra), torch.cat(features)

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
