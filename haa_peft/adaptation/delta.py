"""Adapters that are differences of named parameters: bias-only, and all weights.

peft has no bias-only method: its ``bias="all"`` cannot give the base back. Here the base values are kept, the file
holds what was added to them, and detaching restores them bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from haa_peft.adaptation.keys import check_keys
from haa_peft.backbone.checkpoint import fingerprint
from haa_peft.backbone.xrir import XRIR


class DeltaAdapter:
    """Trainable parameters of a backbone, stored as differences from it."""

    def __init__(self, backbone: XRIR, method: str, names: list[str]) -> None:
        self.method = method
        self._backbone = backbone
        backbone.base_fingerprint = fingerprint(backbone)
        parameters = dict(backbone.named_parameters())
        self._live: dict[str, nn.Parameter] = {name: parameters[name] for name in names}
        self._base = {name: parameter.detach().clone() for name, parameter in self._live.items()}
        for parameter in self._live.values():
            parameter.requires_grad_(True)

    def parameters(self) -> list[nn.Parameter]:
        """What an optimiser trains."""
        return list(self._live.values())

    def config(self) -> dict:
        """What ``adapter_config.json`` says."""
        return {"peft_type": "HAA_PEFT_DELTA", "method": self.method, "parameters": list(self._live)}

    def tensors(self) -> dict[str, Tensor]:
        """Difference of every trained parameter from the base, by its name."""
        return {
            name: (parameter.detach() - self._base[name].to(parameter.device)).cpu()
            for name, parameter in self._live.items()
        }

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Set the parameters to base plus ``tensors``; raises ``InputError`` unless they fit exactly."""
        check_keys({name: parameter.shape for name, parameter in self._live.items()}, tensors)
        for name, parameter in self._live.items():
            base = self._base[name].to(parameter.device)
            parameter.copy_(base + tensors[name].to(parameter.device, parameter.dtype))

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base inside the block, the adapted weights again after it."""
        adapted = {name: parameter.detach().clone() for name, parameter in self._live.items()}
        self._set(self._base)
        try:
            yield
        finally:
            self._set(adapted)

    def detach(self) -> None:
        """Give the base back, frozen, bit for bit."""
        self._set(self._base)
        for parameter in self._live.values():
            parameter.requires_grad_(False)
            parameter.grad = None
        self._backbone.base_fingerprint = None

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._live.items():
            parameter.copy_(values[name])
