"""Stored adapters as plain tensors, for serving many rooms from one backbone without touching it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from haa_peft.adapters.delta import PEFT_TYPE, read_delta_config
from haa_peft.adapters.layers import SURFACES
from haa_peft.adapters.lora import PEFT_PREFIX, LoraSettings, check_targets
from haa_peft.adapters.methods import merged
from haa_peft.model.stored_tensors import check_finite, check_shapes
from haa_peft.model.xrir import XRIR


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
        base = own_tensors(backbone)
        if config.get("peft_type") == PEFT_TYPE:
            _, names = read_delta_config(backbone, config)
            check_shapes({name: base[name].shape for name in names}, tensors)
            return cls(_by_layer({n: base[n] + tensors[n].to(base[n].device, base[n].dtype) for n in names}), {})
        settings = LoraSettings.read(config)
        check_targets(backbone, settings)
        if not all(isinstance(backbone.get_submodule(name), nn.Linear) for name in settings.ranks):
            found = own_tensors(merged(backbone, config, tensors))
            return cls(_by_layer({n: t for n, t in found.items() if not torch.equal(t, base[n])}), {})
        low_rank: dict[str, tuple[Tensor, Tensor]] = {}
        expected: dict[str, torch.Size] = {}
        for target, rank in settings.ranks.items():
            outputs, inputs = base[f"{target}.weight"].shape
            down, up = (f"{PEFT_PREFIX}{target}.lora_{side}.weight" for side in "AB")
            expected |= {down: torch.Size((rank, inputs)), up: torch.Size((outputs, rank))}
            if down in tensors and up in tensors:
                low_rank[target] = (_moved(backbone, tensors[down]), settings.scale * _moved(backbone, tensors[up]))
        check_shapes(expected, tensors)
        return cls({}, low_rank)

    def with_merged(self, backbone: XRIR) -> RoomWeights:
        """The same with merged weights: as large as the layers, and as fast as the backbone."""
        merged = {
            layer: torch.addmm(backbone.get_parameter(f"{layer}.weight").detach(), up, down)
            for layer, (down, up) in self.low_rank.items()
        }
        return RoomWeights(self.replaced, self.low_rank, merged)

    def complete(self, backbone: XRIR) -> RoomWeights:
        """All weights, merged or the backbone's own: every room then has the same structure."""
        whole = self.with_merged(backbone).merged
        replaced: dict[str, dict[str, Tensor | None]] = {}
        for name, layer in own_layers(backbone).items():
            own = self.replaced.get(name, {})
            values = {
                kind: own.get(kind, tensor) for kind, tensor in (*layer._parameters.items(), *layer._buffers.items())
            }
            if name in whole:
                values["weight"] = whole[name]
            replaced[name] = {
                kind: nn.Parameter(value.detach(), requires_grad=False)
                if value is not None and kind in layer._parameters
                else value
                for kind, value in values.items()
            }
        return RoomWeights(replaced, {})  # type: ignore[arg-type]


def own_tensors(backbone: XRIR) -> dict[str, Tensor]:
    """Parameters and stored buffers by full name, what reads extra channels included."""
    surfaces = f"{SURFACES}.weight"
    tensors = {**backbone.state_dict(), surfaces: backbone.get_parameter(surfaces)}
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _by_layer(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        found.setdefault(layer, {})[kind] = tensor
    return found


def _moved(backbone: XRIR, tensor: Tensor) -> Tensor:
    return tensor.to(backbone.device, torch.float32)


BASE = RoomWeights({}, {})
"""The backbone as it is."""


def own_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Modules that hold parameters themselves, by full name."""
    return {name: part for name, part in module.named_modules() if part._parameters}
