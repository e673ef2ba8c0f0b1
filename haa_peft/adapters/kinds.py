"""The methods by name, as words and as what peft calls them; needs neither peft nor torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DELTA_METHODS = {
    "bias": "the biases that exist",
    "norm": "scales and shifts of all norms, and BatchNorm's statistics",
    "statistics": "BatchNorm's statistics alone, taken anew in the room (Li et al. 2016, arXiv 1603.04779)",
    "heads": "everything but the two encoders",
    "full": "all weights",
    "l2sp": "all weights, pulled towards the backbone's by weight decay (Li et al. 2018, arXiv 1802.01483)",
}
PEFT_METHODS = {
    "lora": "low-rank updates (Hu et al. 2021, arXiv 2106.09685)",
    "rslora": "LoRA scaled by the root of the rank (Kalajdzievski 2023, arXiv 2312.03732)",
    "dora": "LoRA with the weights' magnitudes apart (Liu et al. 2024, arXiv 2402.09353)",
    "loha": "Hadamard products of low-rank updates (Hyeon-Woo et al. 2021, arXiv 2108.06098)",
    "lokr": "Kronecker products with a low-rank factor (Yeh et al. 2023, arXiv 2309.14859)",
    "ia3": "a factor on every output (Liu et al. 2022, arXiv 2205.05638)",
    "beft": "a bias behind every Linear, there before or not",
}
METHODS = (*PEFT_METHODS, *DELTA_METHODS)
LARGEST_RANK = 4096


@dataclass(frozen=True)
class Kind:
    """A method of peft.

    Attributes
    ----------
    config : name of peft's class of its settings.
    options : settings that make it this method.
    defaults : what an ``adapter_config.json`` of peft says of it otherwise, as far as that is not empty: a stored
        adapter is then checked without peft, which takes longer to import than everything else together.
    ranked : whether layers have a rank, which ``alpha`` goes with.
    alpha, dropout : what peft calls these; no dropout if empty.
    convolutions : whether it is right on Conv2d.
    """

    config: str
    options: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    ranked: bool = True
    alpha: str = "alpha"
    dropout: str = "rank_dropout"
    convolutions: bool = True


def _lora(**options: bool) -> Kind:
    defaults = {
        "peft_type": "LORA",
        "bias": "none",
        "init_lora_weights": True,
        "megatron_core": "megatron.core",
        "qalora_group_size": 16,
    }
    return Kind("LoraConfig", options, defaults, alpha="lora_alpha", dropout="lora_dropout")


KINDS = {
    "lora": _lora(),
    "rslora": _lora(use_rslora=True),
    "dora": _lora(use_dora=True),
    "loha": Kind("LoHaConfig", defaults={"peft_type": "LOHA", "init_weights": True}),
    "lokr": Kind("LoKrConfig", defaults={"peft_type": "LOKR", "init_weights": True, "decompose_factor": -1}),
    "ia3": Kind(
        "IA3Config",
        {"feedforward_modules": []},
        {"peft_type": "IA3", "init_ia3_weights": True},
        ranked=False,
        dropout="",
    ),
    "beft": Kind(
        "BeftConfig",
        defaults={"peft_type": "BEFT", "init_weights": True},
        ranked=False,
        dropout="",
        convolutions=False,
    ),
}
