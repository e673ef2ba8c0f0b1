"""Adapters that are differences of named tensors: biases, norms, heads, all weights.

peft has no bias-only method: its ``bias="all"`` cannot give the base back. Here the base values are kept, the file
holds what was added to them, and detaching restores them bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from haa_peft.adapters.settings import METHODS
from haa_peft.errors import InputError
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.stored_tensors import check_shapes
from haa_peft.model.xrir import XRIR

PEFT_TYPE = "HAA_PEFT_DELTA"
DELTA_METHODS = tuple(method for method in METHODS if method != "lora")


class DeltaAdapter:
    """Parameters, and statistics of BatchNorm, of a backbone that change, stored as differences from it."""

    def __init__(self, backbone: XRIR, method: str, names: list[str]) -> None:
        self.method = method
        self._backbone = backbone
        backbone.base_fingerprint = fingerprint(backbone)
        self._names = list(names)
        self._base = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        for parameter in self.parameters():
            parameter.requires_grad_(True)

    @property
    def _live(self) -> dict[str, Tensor]:
        """The tensors by name, looked up anew: DDP puts other buffers into a network."""
        modules = {name: self._backbone.get_submodule(name.rpartition(".")[0]) for name in self._names}
        return {name: getattr(module, name.rpartition(".")[2]) for name, module in modules.items()}

    def parameters(self) -> list[nn.Parameter]:
        """What an optimiser trains."""
        return [tensor for tensor in self._live.values() if isinstance(tensor, nn.Parameter)]

    def has_statistics(self) -> bool:
        """Whether statistics of BatchNorm are among the tensors."""
        return len(self.parameters()) < len(self._live)

    def size(self) -> int:
        """Scalars that may change."""
        return sum(tensor.numel() for tensor in self._live.values())

    def train(self, mode: bool) -> None:
        """Nothing in it is random."""

    def config(self) -> dict:
        """What ``adapter_config.json`` says."""
        return {"peft_type": PEFT_TYPE, "method": self.method, "parameters": list(self._live)}

    def tensors(self) -> dict[str, Tensor]:
        """Difference of every tensor from the base, by its name."""
        return {
            name: (tensor.detach() - self._base[name].to(tensor.device)).cpu() for name, tensor in self._live.items()
        }

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Set the tensors to base plus ``tensors``; raises ``InputError`` unless they fit exactly."""
        check_shapes({name: tensor.shape for name, tensor in self._live.items()}, tensors)
        for name, tensor in self._live.items():
            base = self._base[name].to(tensor.device)
            tensor.copy_(base + tensors[name].to(tensor.device, tensor.dtype))

    def state(self) -> dict[str, Tensor]:
        """The tensors themselves, from which :meth:`restore` goes on with the same bits."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what :meth:`state` gave."""
        for name, tensor in self._live.items():
            tensor.copy_(state[name])

    def detach(self) -> None:
        """Give the base back, frozen, bit for bit."""
        self.restore(self._base)
        self.merge()

    def merge(self) -> None:
        """Leave the adapted weights in the backbone, frozen."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        self._backbone.base_fingerprint = None


def read_delta_config(backbone: XRIR, config: dict) -> tuple[str, list[str]]:
    """Method and names of an ``adapter_config.json`` of this kind; ``InputError`` for names of other networks."""
    method, names = config.get("method"), config.get("parameters")
    if config.get("peft_type") != PEFT_TYPE or method not in DELTA_METHODS:
        raise InputError(f"adapter method is {method!r} but must be one of {', '.join(DELTA_METHODS)}")
    known = {name for name, _ in (*backbone.named_parameters(), *backbone.named_buffers())}
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError("adapter_config.json names no parameters")
    unknown = sorted(set(names) - known)
    if unknown or len(set(names)) < len(names):
        raise InputError(f"the adapter does not fit this backbone: parameters {unknown[:2]} are not in it")
    return method, names
