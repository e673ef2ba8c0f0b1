"""Moving a reference RIR to where its direct sound would arrive at another position."""

import torch
from torch import Tensor

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
    index = torch.arange(length, device=rirs.device) - delay[..., None]
    inside = (index >= 0) & (index < length)
    shape = index.shape
    shifted = torch.gather(rirs.expand(shape), -1, index.clamp(0, length - 1)) * inside
    return shifted * (reference_distance / (target_distance + 1e-7))[..., None]
