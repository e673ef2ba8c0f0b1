"""What no trainable weight changes: computed once for a run, not in every step.

Which parts are frozen is read from the parameters: the leading stages of the geometry chain without a trainable
weight, and the audio encoder as a whole. Alignment never changes. Everything is computed in single precision and in the
same order, so that a resumed run has the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.spectrogram import N_BINS, N_FRAMES, log_magnitude
from haa_peft.model.tensors import RoomTensors
from haa_peft.model.xrir import AT_ONCE, XRIR, in_parts

KEPT_BYTES = 2**30
"""Most memory for what is kept of views, and of aligned pairs; larger ones are computed as they are needed."""

Pairs = tuple[Tensor, Tensor | None]
"""Of positions with references: values (..., 63, 310), and features (..., F) where frozen weights give any."""


def is_frozen(module: nn.Module) -> bool:
    """Whether a module gives the same at every step: nothing in it trains and nothing in it is random or counts."""
    moving = (nn.Dropout, nn.BatchNorm2d)
    return not any(p.requires_grad for p in module.parameters()) and not any(
        part.training for part in module.modules() if isinstance(part, moving)
    )


def with_frozen(backbone: XRIR, room: RoomTensors) -> RoomTensors:
    """The room with what :meth:`XRIR.encode` need not compute again, as far as it may be kept."""
    frozen = [is_frozen(module) for module, _ in backbone.geometry_stages()]
    stages = frozen.index(False) if False in frozen else len(frozen)
    seen_from = pad(room.positions, (0, 0, 1, 0))  # the receiver is the origin
    views = audio = None
    with torch.no_grad(), torch.autocast(seen_from.device.type, enabled=False):
        features = backbone.position_features(room.panorama, room.positions)
        if stages and _bytes_of_views(backbone, stages, len(seen_from)) <= KEPT_BYTES:
            views = in_parts(lambda part: backbone.encode_views(backbone.views(room.seen, part), 0, stages), seen_from)
        if is_frozen(backbone.audio_enc) and not backbone.config.align_before_encoding:
            audio = in_parts(lambda part: backbone.encode_audio(log_magnitude(part)), room.rirs)
    return room._replace(stages=stages, views=views, audio=audio, features=features)


def _bytes_of_views(backbone: XRIR, stages: int, count: int) -> int:
    """Bytes of the frozen stages' output for ``count`` views, at most."""
    config = backbone.config
    rows, columns = config.token_grid
    is_whole = stages == len(backbone.geometry_stages())
    return 4 * count * (config.channels if is_whole else rows * columns * max(config.width, config.channels))


def all_pairs(backbone: XRIR, room: RoomTensors) -> Pairs | None:
    """:func:`align_pairs` of all positions with all references, (P, R, ...); None if that is too much to keep."""
    counts = len(room.positions), len(room.rirs)
    if counts[0] * counts[1] * N_BINS * N_FRAMES * 4 > KEPT_BYTES:
        return None
    every = torch.cartesian_prod(*(torch.arange(n, device=room.rirs.device) for n in counts))
    values, features = align_pairs(backbone, room, every[:, 0], every[:, 1])
    return values.unflatten(0, counts), None if features is None else features.unflatten(0, counts)


def aligned_spectrograms(rirs: Tensor, positions: Tensor, targets: Tensor, references: Tensor) -> Tensor:
    """Log-spectrograms (N, 63, 310) of references aligned to targets.

    Parameters
    ----------
    rirs, positions : (R, 9600) and (P, 3) m, of a room.
    targets, references : (N,) rows of the positions, and of the RIRs.
    """
    places = positions[references][:, None], positions[targets]
    return log_magnitude(align(rirs[references][:, None], *places)[:, 0])


@torch.no_grad()
def align_pairs(backbone: XRIR, room: RoomTensors, targets: Tensor, references: Tensor) -> Pairs:
    """What the network hears of references aligned to targets, as :meth:`XRIR.hear` gives it.

    Where they are to be encoded with trained weights it is their log-spectrograms, and no features.

    Parameters
    ----------
    backbone, room : whose parts are frozen, and where.
    targets, references : (N,) rows of the room's positions and of its references.
    """
    values, features = [], []
    trains = backbone.config.align_before_encoding and not is_frozen(backbone.audio_enc)
    with torch.autocast(targets.device.type, enabled=False):
        for target, reference in zip(targets.split(AT_ONCE), references.split(AT_ONCE), strict=True):
            aligned = aligned_spectrograms(room.rirs, room.positions, target, reference)
            value, feature = (aligned, None) if trains else backbone.hear(aligned)
            values.append(value)
            features += [] if feature is None else [feature]
    return torch.cat(values), torch.cat(features) if features else None
