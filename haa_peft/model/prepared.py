"""A room's references, encoded once: what a query then needs besides its own view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.spectrogram import log_magnitude
from haa_peft.model.xrir import XRIR, join_views


class PreparedRoom(NamedTuple):
    """References of a room as a backbone, adapted or not, sees them.

    ``panorama`` (3 or more, h, w) m at the network's resolution; ``rirs`` (R, 9600) and ``positions`` (R, 3) m from the
    receiver, as measured; ``receiver`` (C,) and ``views`` (R, C) what is seen from receiver and references; ``keys``
    (R, C) the references' vectors, or (R, 0) where references are encoded as aligned to each target.
    """

    panorama: Tensor
    rirs: Tensor
    positions: Tensor
    receiver: Tensor
    views: Tensor
    keys: Tensor


class Targets(NamedTuple):
    """Positions (B, 3) m from the receiver, and indices (B, K) of the references that each is predicted from."""

    positions: Tensor
    references: Tensor


@torch.no_grad()
def prepare_room(backbone: XRIR, panorama: Tensor, rirs: Tensor, positions: Tensor) -> PreparedRoom:
    """Encode a room's references.

    ``panorama`` (3 or more, 256, 512) m; ``rirs`` (R, 9600) at ``positions`` (R, 3) m from the receiver.
    """
    pooled = backbone.pool(panorama)
    seen_from = torch.cat([torch.zeros_like(positions[:1]), positions])
    vectors = torch.cat([backbone.encode_views(backbone.views(pooled, part)) for part in seen_from.split(16)])
    keys = vectors.new_zeros(len(rirs), 0)
    if not backbone.config.align_before_encoding:
        audio = torch.cat([backbone.encode_audio(log_magnitude(part)) for part in rirs.split(16)])
        with torch.autocast(backbone.device.type, enabled=False):
            keys = backbone.keys(backbone.describe(pooled, positions), vectors[:1], vectors[1:], audio)
    return PreparedRoom(pooled, rirs, positions, vectors[0], vectors[1:], keys)


@torch.no_grad()
def predict_prepared(
    backbone: XRIR,
    rooms: Sequence[tuple[PreparedRoom, Targets]],
    using: Callable[[Sequence[tuple[int, int]]], AbstractContextManager] = lambda _: nullcontext(),
) -> Tensor:
    """Log-spectrograms (B, 63, 310) of all rooms' targets, one room after the other, computed in one batch.

    All have the same K. ``using`` is told, as (room, rows) pairs in order, whose rows come next, for a backbone whose
    weights depend on the room.
    """
    counts = [len(targets.positions) for _, targets in rooms]
    rows = list(enumerate(counts))
    positions = torch.cat([targets.positions for _, targets in rooms])
    references = torch.cat([room.positions[targets.references] for room, targets in rooms])
    receiver = torch.cat([room.receiver.expand(count, -1) for (room, _), count in zip(rooms, counts, strict=True)])
    rirs = torch.cat([room.rirs[targets.references] for room, targets in rooms])
    aligned = log_magnitude(align(rirs, references, positions))
    images = join_views([backbone.views(room.panorama, targets.positions) for room, targets in rooms])
    with using(rows):
        seen = backbone.encode_views(images)
    if backbone.config.align_before_encoding:
        with using([(i, count * references.shape[1]) for i, count in rows]):
            audio = backbone.encode_audio(aligned)
    with using(rows), torch.autocast(backbone.device.type, enabled=False):
        described = torch.cat([backbone.describe(room.panorama, targets.positions) for room, targets in rooms])
        query = backbone.query(described, receiver, seen)
        if backbone.config.align_before_encoding:
            views = torch.cat([room.views[targets.references] for room, targets in rooms])
            every = [backbone.describe(room.panorama, room.positions)[targets.references] for room, targets in rooms]
            keys = backbone.keys(torch.cat(every), receiver[:, None], views, audio)
        else:
            keys = torch.cat([room.keys[targets.references] for room, targets in rooms])
        return backbone.blend(query, keys, backbone.summands(aligned), positions, references)
