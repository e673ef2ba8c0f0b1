"""A room's references, encoded once: what a query then needs besides its own view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.spectrogram import log_magnitude
from haa_peft.backbone.xrir import XRIR


class PreparedRoom(NamedTuple):
    """References of a room as a backbone, adapted or not, sees them.

    ``panorama`` (3, h, w) m at the network's resolution; ``rirs`` (R, 9600) and ``positions`` (R, 3) m from the
    receiver, as measured; ``receiver`` (C,) and ``views`` (R, C) what is seen from receiver and references; ``audio``
    (R, F) what the references sound like, with F = 0 where they are encoded as aligned to each target.
    """

    panorama: Tensor
    rirs: Tensor
    positions: Tensor
    receiver: Tensor
    views: Tensor
    audio: Tensor


class Targets(NamedTuple):
    """Positions (B, 3) m from the receiver, and indices (B, K) of the references that each is predicted from."""

    positions: Tensor
    references: Tensor


@torch.no_grad()
def prepare_room(backbone: XRIR, panorama: Tensor, rirs: Tensor, positions: Tensor) -> PreparedRoom:
    """Encode a room's references: panorama (3, 256, 512) m, RIRs (R, 9600) at positions (R, 3) m from the receiver."""
    pooled = backbone.pool(panorama)
    seen_from = torch.cat([torch.zeros_like(positions[:1]), positions])
    vectors = torch.cat([backbone.encode_views(backbone.views(pooled, part)) for part in seen_from.split(16)])
    audio = vectors.new_zeros(len(rirs), 0)
    if not backbone.config.align_before_encoding:
        audio = backbone.encode_audio(log_magnitude(rirs))
    return PreparedRoom(pooled, rirs, positions, vectors[0], vectors[1:], audio)


@torch.no_grad()
def predict_prepared(
    backbone: XRIR,
    rooms: Sequence[tuple[PreparedRoom, Targets]],
    using: Callable[[Sequence[tuple[int, int]]], AbstractContextManager] = lambda _: nullcontext(),
) -> list[Tensor]:
    """Log-spectrograms (B, 63, 310) of each room's targets, encoded in one batch.

    ``using`` is told, as (room, rows) pairs in order, whose rows come next, for a backbone whose weights depend on
    the room.
    """
    counts = [len(targets.positions) for _, targets in rooms]
    images = torch.cat([backbone.views(room.panorama, targets.positions) for room, targets in rooms])
    with using(list(enumerate(counts))):
        seen = backbone.encode_views(images).split(counts)
    aligned = [
        log_magnitude(align(room.rirs[targets.references], room.positions[targets.references], targets.positions))
        for room, targets in rooms
    ]
    sounds: list[Tensor] = []
    if backbone.config.align_before_encoding:
        pairs = [targets.references.numel() for _, targets in rooms]
        with using(list(enumerate(pairs))):
            flat = backbone.encode_audio(torch.cat([part.flatten(0, 1) for part in aligned]))
        shapes = [targets.references.shape for _, targets in rooms]
        sounds = [part.unflatten(0, shape) for part, shape in zip(flat.split(pairs), shapes, strict=True)]
    else:
        sounds = [room.audio[targets.references] for room, targets in rooms]
    predicted = []
    for i, (room, targets) in enumerate(rooms):
        with using([(i, 1)]):
            predicted.append(
                backbone.combine(
                    room.receiver.expand(len(seen[i]), -1),
                    seen[i],
                    room.views[targets.references],
                    sounds[i],
                    aligned[i],
                    targets.positions,
                    room.positions[targets.references],
                )
            )
    return predicted
