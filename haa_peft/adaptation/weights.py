"""Stored adapters as plain tensors, for serving many rooms from one backbone without touching it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from haa_peft.adaptation.keys import check_finite, check_keys
from haa_peft.adaptation.lora import check_targets, read_lora_config
from haa_peft.adaptation.methods import delta_method, parameter_names
from haa_peft.backbone.xrir import XRIR

PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class RoomWeights:
    """What makes a backbone the predictor of one room.

    Attributes
    ----------
    replaced : per layer the parameters that take the place of the backbone's, by name.
    low_rank : per Linear the factors down (r, inputs) and up (outputs, r) of what is added to its weight.
    merged : of these Linear layers, the weights with that added, for batches of this room alone; may be empty.
    """

    replaced: dict[str, dict[str, Tensor]]
    low_rank: dict[str, tuple[Tensor, Tensor]]
    merged: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of_adapter(cls, backbone: XRIR, config: dict, tensors: dict[str, Tensor]) -> RoomWeights:
        """Read a stored adapter; raises ``InputError`` unless it fits the backbone exactly and is finite."""
        check_finite(tensors)
        parameters = dict(backbone.named_parameters())
        device = backbone.device
        if config.get("peft_type") == "LORA":
            rank, alpha, targets = read_lora_config(config)
            check_targets(backbone, targets)
            names = {target: [f"{PEFT_PREFIX}{target}.lora_{side}.weight" for side in "AB"] for target in targets}
            expected: dict[str, torch.Size] = {}
            for target, (down, up) in names.items():
                outputs, inputs = parameters[f"{target}.weight"].shape
                expected |= {down: torch.Size((rank, inputs)), up: torch.Size((outputs, rank))}
            check_keys(expected, tensors)
            moved = {name: tensor.to(device, torch.float32) for name, tensor in tensors.items()}
            return cls({}, {target: (moved[d], alpha / rank * moved[u]) for target, (d, u) in names.items()})
        trained = parameter_names(backbone, delta_method(config))
        check_keys({name: parameters[name].shape for name in trained}, tensors)
        replaced: dict[str, dict[str, Tensor]] = {}
        for name in trained:
            layer, _, kind = name.rpartition(".")
            base = parameters[name].detach()
            replaced.setdefault(layer, {})[kind] = base + tensors[name].to(device, base.dtype)
        return cls(replaced, {})

    def with_merged(self, backbone: XRIR) -> RoomWeights:
        """The same with merged weights: as large as the layers, and as fast as the backbone."""
        merged = {
            layer: torch.addmm(backbone.get_parameter(f"{layer}.weight").detach(), up, down)
            for layer, (down, up) in self.low_rank.items()
        }
        return RoomWeights(self.replaced, self.low_rank, merged)

    def complete(self, backbone: XRIR) -> RoomWeights:
        """All parameters, merged or the backbone's own: every room then has the same structure."""
        merged = self.with_merged(backbone).merged
        replaced: dict[str, dict[str, Tensor]] = {}
        for name, parameter in backbone.named_parameters():
            layer, _, kind = name.rpartition(".")
            value = self.replaced.get(layer, {}).get(kind, parameter.detach())
            if kind == "weight":
                value = merged.get(layer, value)
            replaced.setdefault(layer, {})[kind] = nn.Parameter(value, requires_grad=False)
        return RoomWeights(replaced, {})


BASE = RoomWeights({}, {})
"""The backbone as it is."""


def own_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Modules that hold parameters themselves, by full name."""
    return {name: part for name, part in module.named_modules() if part._parameters}
