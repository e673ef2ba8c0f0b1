"""Which weights a method trains, and attaching them to a backbone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from haa_peft.adaptation.delta import DeltaAdapter
from haa_peft.adaptation.keys import check_finite
from haa_peft.adaptation.lora import LARGEST_RANK, LoraAdapter
from haa_peft.backbone.xrir import XRIR
from haa_peft.errors import InputError

METHODS = ("lora", "bias", "full")
UNUSED = ("source_proj.", "audio_enc.cnn.fc_backup.")
"""Modules of the published checkpoint that never run."""

Adapter = LoraAdapter | DeltaAdapter


@dataclass(frozen=True)
class MethodSettings:
    """How a backbone is adapted.

    Attributes
    ----------
    method : ``lora``, ``bias`` (the biases that exist) or ``full``.
    rank, alpha : of LoRA; its update is ``alpha / rank`` times B A.
    """

    method: str = "lora"
    rank: int = 4
    alpha: float = 8.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method is {self.method!r} but must be one of {', '.join(METHODS)}")
        if self.rank < 1:
            raise InputError(f"--rank is {self.rank} but must be at least 1")
        if self.rank > LARGEST_RANK:
            raise InputError(f"--rank is {self.rank} but must be at most {LARGEST_RANK}")
        if not 0 < self.alpha < float("inf"):
            raise InputError(f"--alpha is {self.alpha} but must be a positive number")


def lora_targets(backbone: XRIR) -> list[str]:
    """Full names of all Linear modules that run."""
    return [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and not f"{name}.".startswith(UNUSED)
    ]


def parameter_names(backbone: XRIR, method: str) -> list[str]:
    """Parameters that ``bias`` or ``full`` trains: those of modules that run."""
    names = [name for name, _ in backbone.named_parameters() if not name.startswith(UNUSED)]
    return [name for name in names if name.endswith(".bias")] if method == "bias" else names


def attach(backbone: XRIR, settings: MethodSettings, seed: int) -> Adapter:
    """Put a fresh adapter, which changes nothing yet, on a frozen backbone and make its weights trainable."""
    check_free(backbone)
    torch.manual_seed(seed)
    if settings.method == "lora":
        return LoraAdapter.fresh(backbone, lora_targets(backbone), settings.rank, settings.alpha)
    return DeltaAdapter(backbone, settings.method, parameter_names(backbone, settings.method))


def check_free(backbone: XRIR) -> None:
    """Raise ``InputError`` if the backbone carries an adapter already."""
    if backbone.base_fingerprint is not None:
        raise InputError("the backbone carries an adapter already; detach it, or load another backbone")


def delta_method(config: dict) -> str:
    """Method of an ``adapter_config.json`` that is not LoRA's: ``bias`` or ``full``, or an ``InputError``."""
    if config.get("method") not in ("bias", "full"):
        raise InputError(f"adapter method is {config.get('method')!r} but must be bias or full")
    return config["method"]


def attach_stored(backbone: XRIR, config: dict, tensors: dict[str, Tensor]) -> Adapter:
    """Put a stored adapter on a backbone.

    Raises
    ------
    InputError
        When the configuration or the tensors do not fit this backbone exactly: missing, unexpected, of another
        shape, or not finite.
    """
    check_free(backbone)
    check_finite(tensors)
    if config.get("peft_type") == "LORA":
        return LoraAdapter.stored(backbone, config, tensors)
    method = delta_method(config)
    adapter = DeltaAdapter(backbone, method, parameter_names(backbone, method))
    try:
        adapter.load(tensors)
    except InputError:
        adapter.detach()
        raise
    return adapter
