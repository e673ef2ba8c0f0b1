"""Tensors of a file against what a network or an adapter of it expects."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from haa_peft.errors import InputError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST = 1e3
"""Of an adapter's tensors, in magnitude; trained ones are below one."""
MISFIT = "the adapter does not fit this backbone"


def check_shapes(expected: Mapping[str, torch.Size], found: Mapping[str, Tensor], complaint: str = MISFIT) -> None:
    """Raise ``InputError``, which begins with ``complaint``, unless names and shapes are the same both ways."""
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unexpected:
        raise InputError(
            f"{complaint}: {len(missing)} tensors missing {missing[:3]}, {len(unexpected)} unexpected {unexpected[:3]}"
        )
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise InputError(f"{complaint}: tensor {name} is {tuple(found[name].shape)} but must be {tuple(shape)}")


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise ``InputError`` if a tensor of an adapter is not of floating point, or not finite and within ``LARGEST``."""
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise InputError(f"adapter tensor {name} is of {tensor.dtype}, not of floating point; the file is damaged")
        if not torch.isfinite(tensor.float()).all():
            raise InputError(f"adapter tensor {name} holds NaN or infinity; the file is damaged")
        largest = float(tensor.abs().max()) if tensor.numel() else 0.0
        if largest > LARGEST:
            raise InputError(
                f"adapter tensor {name} has {largest:.3g} but must be within {LARGEST:g}; the file is damaged"
            )
