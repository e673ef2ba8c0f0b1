"""Tensors of an adapter against what a backbone expects."""

from collections.abc import Mapping

import torch
from torch import Tensor

from haa_peft.errors import InputError


def check_keys(expected: Mapping[str, torch.Size], found: Mapping[str, Tensor]) -> None:
    """Raise ``InputError`` unless names and shapes are the same both ways."""
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unexpected:
        raise InputError(
            f"the adapter does not fit this backbone: {len(missing)} tensors missing {missing[:2]}, "
            f"{len(unexpected)} unexpected {unexpected[:2]}"
        )
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise InputError(
                f"the adapter does not fit this backbone: tensor {name} is {tuple(found[name].shape)} "
                f"but must be {tuple(shape)}"
            )


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise ``InputError`` if a tensor is not of floating point or holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise InputError(f"adapter tensor {name} is of {tensor.dtype}, not of floating point; the file is damaged")
        if not torch.isfinite(tensor.float()).all():
            raise InputError(f"adapter tensor {name} holds NaN or infinity; the file is damaged")
