"""LoRA through peft, with explicit targets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from haa_peft.adaptation.keys import check_keys
from haa_peft.adaptation.low_rank import fast_forward
from haa_peft.backbone.checkpoint import fingerprint
from haa_peft.backbone.xrir import XRIR
from haa_peft.errors import InputError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig


LARGEST_RANK, LARGEST_ALPHA = 4096, 1e6
FREE = ("r", "lora_alpha", "target_modules", "inference_mode", "peft_version", "base_model_name_or_path", "revision")
"""Entries of ``adapter_config.json`` that may be anything."""
PLAIN = {"peft_type": "LORA", "bias": "none", "init_lora_weights": True, "megatron_core": "megatron.core",
         "qalora_group_size": 16}  # fmt: skip
"""Entries that a plain LoRA sets; all others are empty or off."""


def read_lora_config(config: dict) -> tuple[int, float, list[str]]:
    """Rank, alpha and targets of an ``adapter_config.json``, of plain LoRA alone.

    Any other option would change the base, the computation or what is trained, so it is an ``InputError``.
    """
    rank, alpha, targets = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    if (
        not (isinstance(rank, int) and not isinstance(rank, bool) and 0 < rank <= LARGEST_RANK)
        or not (isinstance(alpha, int | float) and 0 < alpha < LARGEST_ALPHA)
        or not (isinstance(targets, list) and all(isinstance(target, str) for target in targets))
    ):
        raise InputError(f"adapter_config.json: r {rank!r}, lora_alpha {alpha!r} or target_modules are not LoRA's")
    other = [key for key, value in config.items() if key not in FREE and value != PLAIN.get(key) and value]
    if other:
        raise InputError(f"adapter_config.json sets {', '.join(other)}; only plain LoRA on Linear layers is loaded")
    return rank, float(alpha), targets


def check_targets(backbone: XRIR, targets: list[str]) -> None:
    """Raise ``InputError`` unless targets are full names of Linear modules of the backbone."""
    linear = {name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)}
    unknown = sorted(set(targets) - linear)
    if not targets or unknown:
        raise InputError(f"the adapter does not fit this backbone: LoRA targets {unknown[:3]} are not in it")


def _plain_config(targets: list[str], rank: int, alpha: float) -> LoraConfig:
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)  # type: ignore[arg-type]


def _json_values(config: PeftConfig) -> dict:
    return {key: getattr(value, "value", value) for key, value in config.to_dict().items()}


class LoraAdapter:
    """A peft LoRA inside a backbone; the backbone object itself then computes with it."""

    method = "lora"

    def __init__(self, backbone: XRIR, config: LoraConfig) -> None:
        from peft import get_peft_model

        targets = set(config.target_modules or [])
        check_targets(backbone, sorted(targets))
        self._backbone = backbone
        backbone.base_fingerprint = fingerprint(backbone)
        self._peft = get_peft_model(backbone, config)
        if set(self._peft.targeted_module_names) != targets:
            extra = sorted(set(self._peft.targeted_module_names) ^ targets)
            self.detach()
            raise InputError(f"LoRA targets match other modules than they name: {extra[:3]}")
        for name in targets:  # peft's values in fewer passes
            layer = backbone.get_submodule(name)
            layer.forward = partial(fast_forward, layer)

    @classmethod
    def fresh(cls, backbone: XRIR, targets: list[str], rank: int, alpha: float) -> LoraAdapter:
        """LoRA of one rank on the Linear modules named; B starts at zero."""
        return cls(backbone, _plain_config(targets, rank, alpha))

    @classmethod
    def stored(cls, backbone: XRIR, config: dict, tensors: dict[str, Tensor]) -> LoraAdapter:
        """LoRA as ``adapter_config.json`` and ``adapter_model.safetensors`` describe it."""
        rank, alpha, targets = read_lora_config(config)
        adapter = cls(backbone, _plain_config(targets, rank, alpha))
        try:
            adapter.load(tensors)
        except InputError:
            adapter.detach()
            raise
        return adapter

    def parameters(self) -> list[nn.Parameter]:
        """What an optimiser trains."""
        return [parameter for parameter in self._peft.parameters() if parameter.requires_grad]

    def config(self) -> dict:
        """What peft writes to ``adapter_config.json``."""
        config = _json_values(self._peft.peft_config["default"])
        # peft shortens long lists to suffixes; full names say what is meant
        config["target_modules"] = sorted(self._peft.targeted_module_names)
        config["inference_mode"] = True
        return config

    def tensors(self) -> dict[str, Tensor]:
        """The A and B matrices under peft's names."""
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self._peft, save_embedding_layers=False)
        return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Set A and B; raises ``InputError`` unless ``tensors`` fit exactly."""
        from peft import set_peft_model_state_dict

        check_keys({name: tensor.shape for name, tensor in self.tensors().items()}, tensors)
        set_peft_model_state_dict(self._peft, dict(tensors))

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base inside the block."""
        with self._peft.disable_adapter():
            yield

    def detach(self) -> None:
        """Take the LoRA out of the backbone, which is then the base bit for bit, frozen."""
        self._peft.unload().requires_grad_(False)
        self._backbone.base_fingerprint = None
