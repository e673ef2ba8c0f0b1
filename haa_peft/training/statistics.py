"""BatchNorm's statistics, taken anew in a room."""

from __future__ import annotations

import torch
from torch import nn

from haa_peft.acoustics.spectrogram import log_magnitude
from haa_peft.model.xrir import AT_ONCE
from haa_peft.training.frozen import aligned_spectrograms
from haa_peft.training.objective import RoomObjective


@torch.no_grad()
def refresh_statistics(objectives: list[RoomObjective]) -> None:
    """Running means and variances of BatchNorm become those of what the audio encoder hears in the rooms.

    That is every training measurement, aligned to every other where references are encoded as aligned. After Li et al.
    2016 (arXiv 1603.04779); computed layer by layer in one pass, as averages over batches of ``AT_ONCE``.
    """
    backbone = objectives[0].backbone
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms if norm.num_batches_tracked is not None]
    heard = torch.cat([_spectrograms(objective) for objective in objectives])
    # shuffled, so that every batch holds all rooms and positions; the average of batches' variances is then close
    order = torch.randperm(len(heard), generator=torch.Generator().manual_seed(0))
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the average over all batches
            norm.train()
        for rows in order.tensor_split(-(-len(order) // AT_ONCE)):
            backbone.encode_audio(heard[rows.to(heard.device)])
    finally:
        for norm, (momentum, counted) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counted
            norm.eval()
    for objective in objectives:
        objective.forget()


def _spectrograms(objective: RoomObjective) -> torch.Tensor:
    """Log-spectrograms (N, 63, 310) that the audio encoder gets while training."""
    rirs, shots = objective.rirs, objective.shots
    if not objective.backbone.config.align_before_encoding:
        return log_magnitude(rirs)
    pairs = [(i, j) for i in range(shots) for j in range(shots) if i != j]
    return aligned_spectrograms(rirs, objective.positions, *torch.tensor(pairs, device=rirs.device).T)
