"""LoRA through peft, with explicit targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeGuard

from torch import Tensor, nn

from haa_peft.adapters.low_rank import fast_forward
from haa_peft.adapters.settings import LARGEST_RANK
from haa_peft.environment import broken_torchaudio_hidden, loading
from haa_peft.errors import InputError
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.stored_tensors import check_shapes
from haa_peft.model.xrir import XRIR

if TYPE_CHECKING:
    from peft import LoraConfig


@cache
def import_peft() -> ModuleType:
    """Peft, which takes seconds to import, when it is first needed."""
    with loading(), broken_torchaudio_hidden():
        import peft
    return peft


LARGEST_ALPHA = 1e6
PEFT_PREFIX = "base_model.model."
"""Before a module's name in peft's names of tensors."""
FREE = ("target_modules", "inference_mode", "peft_version", "base_model_name_or_path", "revision", "auto_mapping")
"""Entries of ``adapter_config.json`` that may be anything."""
DEFAULTS = {
    "peft_type": "LORA",
    "bias": "none",
    "init_lora_weights": True,
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
}
"""What peft writes there otherwise, if not empty: a stored adapter is then checked without peft, which takes longer to
import than everything else together."""


@dataclass(frozen=True)
class LoraSettings:
    """LoRA with the rank of every layer that it changes.

    ``ranks`` : by full name of a Linear or Conv2d.
    ``scale`` : alpha divided by rank, the same in all layers; an update is that times B A.
    """

    ranks: Mapping[str, int]
    scale: float = 2.0
    dropout: float = 0.0

    def config(self) -> LoraConfig:
        """Peft's own settings."""
        return import_peft().LoraConfig(**self.options())

    def options(self) -> dict[str, Any]:
        """What :meth:`config` sets: peft's names and values."""
        targets, ranks = sorted(self.ranks), list(self.ranks.values())
        usual = max(sorted(set(ranks)), key=ranks.count)
        own = {name: self.ranks[name] for name in targets if self.ranks[name] != usual}
        return {
            "target_modules": targets,
            "r": usual,
            "rank_pattern": own,
            "lora_alpha": self.scale * usual,
            "alpha_pattern": {name: self.scale * rank for name, rank in own.items()},
            "lora_dropout": self.dropout,
        }

    def to_json(self) -> dict[str, Any]:
        """An ``adapter_config.json`` that peft reads, and :meth:`read`, made without peft."""
        return {**DEFAULTS, **self.options(), "inference_mode": True}

    @classmethod
    def read(cls, config: dict) -> LoraSettings:
        """Read an ``adapter_config.json``.

        Raises
        ------
        InputError
            When it is not LoRA's, or sets anything but what ranks, alpha and dropout come to: other options change the
            base, the computation or what is trained.
        """
        if config.get("peft_type") != "LORA":
            raise InputError(f"adapter_config.json: peft_type is {config.get('peft_type')!r} but must be LORA")
        rank, alpha, dropout = config.get("r"), config.get("lora_alpha"), config.get("lora_dropout") or 0.0
        targets, own = config.get("target_modules"), config.get("rank_pattern") or {}
        if not (
            _is_rank(rank)
            and isinstance(alpha, int | float)
            and 0 < alpha < LARGEST_ALPHA
            and isinstance(targets, list)
            and all(isinstance(target, str) for target in targets)
            and isinstance(own, dict)
            and set(own) <= set(targets)
            and all(map(_is_rank, own.values()))
            and isinstance(dropout, int | float)
            and 0 <= dropout < 1
        ):
            raise InputError(
                f"adapter_config.json: r {rank!r}, lora_alpha {alpha!r}, rank_pattern, lora_dropout or target_modules "
                "are not lora's"
            )
        if not targets:
            raise InputError("the adapter does not fit this backbone: its targets are not in it, it names none")
        settings = cls({name: own.get(name, rank) for name in targets}, alpha / rank, float(dropout))
        other = _others(config, settings.to_json())
        if other and _others(config, _json_values(settings.config())):  # peft has defaults that are not in our table
            raise InputError(f"adapter_config.json sets {', '.join(other)}, which lora here does not")
        return settings


def _others(config: dict, expected: Mapping[str, Any]) -> list[str]:
    """What an ``adapter_config.json`` sets beside what is expected."""
    return [key for key, value in config.items() if key not in FREE and value and value != expected.get(key)]


def _is_rank(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_RANK


def _json_values(config: LoraConfig) -> dict:
    values = {key: getattr(value, "value", value) for key, value in config.to_dict().items()}
    return {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}


def check_targets(backbone: XRIR, settings: LoraSettings) -> None:
    """Raise ``InputError`` unless targets are full names of Linear or Conv2d modules of the backbone."""
    possible = {name for name, module in backbone.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    unknown = sorted(set(settings.ranks) - possible)
    if unknown:
        raise InputError(f"the adapter does not fit this backbone: lora targets {unknown[:3]} are not in it")


class LoraAdapter:
    """LoRA inside a backbone; the backbone object itself then computes with it."""

    def __init__(self, backbone: XRIR, settings: LoraSettings) -> None:
        check_targets(backbone, settings)
        self._backbone = backbone
        backbone.base_fingerprint = fingerprint(backbone)
        self._peft = import_peft().get_peft_model(backbone, settings.config())
        if set(self._peft.targeted_module_names) != set(settings.ranks):
            extra = sorted(set(self._peft.targeted_module_names) ^ set(settings.ranks))
            self.detach()
            raise InputError(f"lora targets match other modules than they name: {extra[:3]}")
        self._layers: list[Any] = [backbone.get_submodule(name) for name in settings.ranks]
        for layer in () if settings.dropout else self._layers:  # peft's values in fewer passes
            if isinstance(layer.base_layer, nn.Linear):
                layer.forward = partial(fast_forward, layer)
        self.train(False)

    def parameters(self) -> list[nn.Parameter]:
        """What an optimiser trains."""
        return [parameter for parameter in self._peft.parameters() if parameter.requires_grad]

    def has_statistics(self) -> bool:
        """Never: LoRA keeps none."""
        return False

    def size(self) -> int:
        """Scalars that may change."""
        return sum(parameter.numel() for parameter in self.parameters())

    def train(self, mode: bool) -> None:
        """Dropout on or off."""
        for layer in self._layers:
            layer.train(mode)

    def config(self) -> dict:
        """What peft writes to ``adapter_config.json``."""
        config = _json_values(self._peft.peft_config["default"])
        # peft shortens long lists to suffixes; full names say what is meant
        config["target_modules"] = sorted(self._peft.targeted_module_names)
        config["inference_mode"] = True
        return config

    def tensors(self) -> dict[str, Tensor]:
        """The adapter's tensors under peft's names."""
        state = import_peft().get_peft_model_state_dict(self._peft, save_embedding_layers=False)
        return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Set them; raises ``InputError`` unless ``tensors`` fit exactly."""
        check_shapes({name: tensor.shape for name, tensor in self.tensors().items()}, tensors)
        import_peft().set_peft_model_state_dict(self._peft, dict(tensors))

    def state(self) -> dict[str, Tensor]:
        """The tensors, from which :meth:`restore` goes on."""
        return self.tensors()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what :meth:`state` gave."""
        self.load(state)

    def detach(self) -> None:
        """Take the adapter out of the backbone, which is then the base bit for bit, frozen."""
        self._peft.unload().requires_grad_(False)
        self._backbone.base_fingerprint = None

    def merge(self) -> None:
        """Leave the adapted weights in the backbone, frozen."""
        self._peft.merge_and_unload().requires_grad_(False)
        self._backbone.base_fingerprint = None
