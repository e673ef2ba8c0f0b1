"""What tests of adapters share."""

import pytest
import torch


@pytest.fixture
def inputs():
    """What a network reads: panorama, references, target and the references' positions."""
    generator = torch.Generator().manual_seed(2)
    panorama = torch.randn(1, 3, 256, 512, generator=generator)
    rirs = torch.randn(1, 4, 9600, generator=generator) * torch.exp(-torch.arange(9600) / 900)
    return panorama, rirs, torch.randn(1, 3, generator=generator), torch.randn(1, 4, 3, generator=generator)
