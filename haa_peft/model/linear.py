"""A Linear that multiplies with oneDNN on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FEWEST = 2**22
"""Multiplications below which starting the kernel costs more than it gains."""


class Linear(nn.Linear):
    """``nn.Linear``, multiplied by :func:`product`; weights, names and values (to rounding) are the same."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return product(x, self.weight, self.bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``, (..., inputs) and (outputs, inputs) -> (..., outputs).

    In single precision on a CPU it is computed as a 1 x 1 convolution: torch multiplies matrices with MKL there, which
    on AMD's processors runs well below what they can do, and its convolutions are oneDNN's.
    """
    if not _as_convolution(x, weight):
        return functional.linear(x, weight, bias)
    image = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    y = functional.conv2d(image, weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


def _as_convolution(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * len(weight) >= FEWEST
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
