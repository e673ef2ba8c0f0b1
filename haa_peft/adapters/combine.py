"""Several adapters as one: one on top of another, or something between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from haa_peft.adapters.delta import PEFT_TYPE
from haa_peft.adapters.lora import PEFT_PREFIX, LoraSettings
from haa_peft.adapters.methods import merged
from haa_peft.adapters.weights import RoomWeights, own_tensors
from haa_peft.errors import InputError
from haa_peft.model.xrir import XRIR

Stored = tuple[dict, dict[str, Tensor]]
"""An adapter as its configuration and its tensors."""


def stack(backbone: XRIR, parent: Stored, child: Stored) -> Stored:
    """The adapter of ``backbone`` that equals ``child`` on a backbone with ``parent`` merged in."""
    if _are_lora([parent, child]):
        return _sum_of_lora(backbone, [parent, child], [1.0, 1.0])
    return _difference(backbone, own_tensors(merged(merged(backbone, *parent), *child)))


def blend_adapters(backbone: XRIR, adapters: Sequence[Stored], shares: Sequence[float]) -> Stored:
    """What lies between adapters: the sum of their changes of the weights, times ``shares``.

    LoRA stays LoRA, of the ranks' sum; all else becomes differences of the weights that change.

    Raises
    ------
    InputError
        When there are not as many shares as adapters, at least one, or an adapter does not fit the backbone.
    """
    if not adapters or len(shares) != len(adapters):
        raise InputError(f"{len(adapters)} adapters have {len(shares)} shares; give as many, at least one")
    if _are_lora(adapters):
        return _sum_of_lora(backbone, adapters, shares)
    base = own_tensors(backbone)
    total = {name: tensor.clone() for name, tensor in base.items()}
    for adapter, share in zip(adapters, shares, strict=True):
        whole = own_tensors(merged(backbone, *adapter))
        for name, tensor in whole.items():
            if tensor.is_floating_point():
                total[name] += share * (tensor - base[name])
    return _difference(backbone, total)


def _are_lora(adapters: Sequence[Stored]) -> bool:
    return all(config.get("peft_type") != PEFT_TYPE for config, _ in adapters)


def _sum_of_lora(backbone: XRIR, adapters: Sequence[Stored], shares: Sequence[float]) -> Stored:
    """One LoRA whose factors are those of all, side by side; convolutions too."""
    sides: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    for (config, tensors), share in zip(adapters, shares, strict=True):
        RoomWeights.of_adapter(backbone, config, tensors)  # checks that it fits
        settings = LoraSettings.read(config)
        for name in settings.ranks:
            downs, ups = sides.setdefault(name, ([], []))
            downs.append(tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"])
            ups.append(share * settings.scale * tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"])
    found = {}
    for name, (downs, ups) in sides.items():
        found[f"{PEFT_PREFIX}{name}.lora_A.weight"] = torch.cat(downs, dim=0)
        found[f"{PEFT_PREFIX}{name}.lora_B.weight"] = torch.cat(ups, dim=1)
    ranks = {name: sum(len(down) for down in downs) for name, (downs, _) in sides.items()}
    return LoraSettings(ranks, scale=1.0).to_json(), found


def _difference(backbone: XRIR, whole: dict[str, Tensor]) -> Stored:
    """What changes the backbone's tensors to ``whole``."""
    base = own_tensors(backbone)
    names = [name for name, tensor in base.items() if not torch.equal(tensor, whole[name])]
    names = names or [name for name, _ in backbone.named_parameters()][:1]
    config = {"peft_type": PEFT_TYPE, "method": "full", "parameters": names}
    return config, {name: (whole[name] - base[name]).cpu() for name in names}
