"""Moving a reference RIR to where its direct sound would arrive at another position."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from haa_peft.acoustics.spectrogram import SAMPLE_RATE

SPEED_OF_SOUND = 343.0


def align(rirs: Tensor, reference_positions: Tensor, target_positions: Tensor) -> Tensor:
    """Shift and scale references so that their direct sound fits the target's distance.

    By whole samples, zeros moving in, and with the level of a spherical wave: |r| / |p|.

    Parameters
    ----------
    rirs : (..., K, T) reference RIRs at 22 050 Hz.
    reference_positions : (..., K, 3) metres from the receiver.
    target_positions : (..., 3) metres from the receiver.

    Returns
    -------
    (..., K, T) aligned RIRs. Source: published xRIR code.
    """
    reference_distance = reference_positions.norm(dim=-1)
    target_distance = target_positions.norm(dim=-1, keepdim=True)
    delay = torch.round((target_distance - reference_distance) / SPEED_OF_SOUND * SAMPLE_RATE).long()
    length = rirs.shape[-1]
    # every shift is a window on the RIR between zeros; one beyond its length shows zeros alone
    windows = pad(rirs.expand(*delay.shape, length).reshape(-1, length), (length, length)).unfold(-1, length, 1)
    start = (length - delay).clamp(0, 2 * length).flatten()
    shifted = windows[torch.arange(len(start), device=rirs.device), start].unflatten(0, delay.shape)
    return shifted * (reference_distance / (target_distance + 1e-7))[..., None]
