"""LoRA through peft, with explicit targets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor, nn

from haa_peft.adaptation.keys import check_keys
from haa_peft.backbone.xrir import XRIR
from haa_peft.errors import InputError

if TYPE_CHECKING:
    from peft import LoraConfig


class LoraAdapter:
    """A peft LoRA inside a backbone; the backbone object itself then computes with it."""

    method = "lora"

    def __init__(self, backbone: XRIR, config: LoraConfig) -> None:
        from peft import get_peft_model

        targets = set(config.target_modules or [])
        unknown = sorted(targets - {name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)})
        if not targets or unknown:
            raise InputError(f"the adapter does not fit this backbone: LoRA targets {unknown[:3]} are not in it")
        self._peft = get_peft_model(backbone, config)
        if set(self._peft.targeted_module_names) != targets:
            extra = sorted(set(self._peft.targeted_module_names) ^ targets)
            self.detach()
            raise InputError(f"LoRA targets match other modules than they name: {extra[:3]}")

    @classmethod
    def fresh(cls, backbone: XRIR, targets: list[str], rank: int, alpha: float) -> LoraAdapter:
        """LoRA of one rank on the Linear modules named; B starts at zero."""
        from peft import LoraConfig

        return cls(backbone, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets))  # type: ignore[arg-type]

    @classmethod
    def stored(cls, backbone: XRIR, config: dict, tensors: dict[str, Tensor]) -> LoraAdapter:
        """LoRA as ``adapter_config.json`` and ``adapter_model.safetensors`` describe it."""
        from peft import LoraConfig

        try:
            peft_config = LoraConfig.from_peft_type(**config)
        except (TypeError, ValueError) as error:
            raise InputError(f"adapter_config.json is not a LoRA configuration ({error})") from None
        if peft_config.use_dora or peft_config.bias != "none" or peft_config.modules_to_save:
            raise InputError("adapter_config.json asks for DoRA, biases or modules_to_save; plain LoRA only is loaded")
        adapter = cls(backbone, peft_config)
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
        config = self._peft.peft_config["default"].to_dict()
        # peft shortens long lists to suffixes; full names say what is meant
        config["target_modules"] = sorted(self._peft.targeted_module_names)
        config["inference_mode"] = True
        return {key: getattr(value, "value", value) for key, value in config.items()}

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
