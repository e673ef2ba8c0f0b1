"""Audio encoder: a ResNet-18 on log-spectrograms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from haa_peft.model.config import XRIRConfig


def normalisation(config: XRIRConfig, channels: int) -> nn.Module:
    """BatchNorm as published, or GroupNorm with at least four channels a group."""
    if config.normalisation == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(min(8, max(1, channels // 4)), channels)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a residual."""

    def __init__(self, config: XRIRConfig, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = normalisation(config, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = normalisation(config, channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), normalisation(config, channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, F, T) -> (B, C, F / stride, T / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(y)) + self.downsample(x), inplace=True)


class ResNet18(nn.Module):
    """One-channel ResNet-18 without classifier; ``fc_backup`` only exists in the published checkpoint."""

    def __init__(self, config: XRIRConfig) -> None:
        super().__init__()
        width = config.resnet_width
        self._fast_last = config.normalisation == "batch" and width >= 8
        self.conv1 = nn.Conv2d(1, width, 7, 2, 3, bias=False)
        self.bn1 = normalisation(config, width)
        self.layer1 = self._stage(config, width, width, 1)
        self.layer2 = self._stage(config, width, 2 * width, 2)
        self.layer3 = self._stage(config, 2 * width, 4 * width, 2)
        self.layer4 = self._stage(config, 4 * width, 8 * width, 2)
        if config.unused_modules:
            self.fc_backup = nn.Linear(8 * width, 1000)

    @staticmethod
    def _stage(config: XRIRConfig, channels_in: int, channels: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            BasicBlock(config, channels_in, channels, stride), BasicBlock(config, channels, channels, 1)
        )

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """The encoder as a chain, (B, 63, 310) -> (B, 8 * resnet_width)."""
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        blocks = [block for stage in stages for block in stage.children()]
        return [self._stem, *blocks, lambda x: x.mean(dim=(2, 3))]

    def channels_last(self, device: torch.device) -> bool:
        """Whether to compute with channels last: oneDNN is faster so.

        Not where it writes past its memory in this format's backward pass: GroupNorm (torch 2.11), and BatchNorm of
        fewer than 8 channels (torch 2.13).
        """
        return device.type == "cpu" and self._fast_last

    def _stem(self, log_spectrogram: Tensor) -> Tensor:
        x = self.conv1(log_spectrogram[:, None])
        if self.channels_last(x.device):
            x = x.contiguous(memory_format=torch.channels_last)
        return functional.max_pool2d(functional.relu(self.bn1(x), inplace=True), 3, 2, 1)
