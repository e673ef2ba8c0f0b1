"""Adapters through peft, with explicit targets."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from haa_peft.adapters.keys import check_keys
from haa_peft.adapters.kinds import KINDS, LARGEST_RANK
from haa_peft.adapters.low_rank import fast_forward
from haa_peft.environment import broken_torchaudio_hidden, loading
from haa_peft.errors import InputError
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.xrir import XRIR

if TYPE_CHECKING:
    from peft import PeftConfig


@cache
def import_peft() -> ModuleType:
    """Peft, which takes seconds to import, when it is first needed."""
    with loading(), broken_torchaudio_hidden():
        import peft
    return peft


LARGEST_ALPHA = 1e6
FREE = ("target_modules", "inference_mode", "peft_version", "base_model_name_or_path", "revision", "auto_mapping")
"""Entries of ``adapter_config.json`` that may be anything."""


@dataclass(frozen=True)
class PeftSettings:
    """A method with the rank of every layer that it changes.

    ``ranks`` : by full name of a Linear or Conv2d; of methods without ranks the values do not matter.
    ``scale`` : alpha divided by rank, the same in all layers; an update is that times B A (rsLoRA: times the root of
    the rank).
    """

    method: str
    ranks: Mapping[str, int]
    scale: float = 2.0
    dropout: float = 0.0

    def config(self) -> PeftConfig:
        """Peft's own settings."""
        return getattr(import_peft(), KINDS[self.method].config)(**self.options())

    def options(self) -> dict[str, Any]:
        """What :meth:`config` sets: peft's names and values."""
        kind, targets = KINDS[self.method], sorted(self.ranks)
        options: dict[str, Any] = {**kind.options, "target_modules": targets}
        if kind.ranked:
            ranks = list(self.ranks.values())
            usual = max(sorted(set(ranks)), key=ranks.count)
            own = {name: self.ranks[name] for name in targets if self.ranks[name] != usual}
            options |= {"r": usual, "rank_pattern": own, kind.alpha: self.scale * usual}
            options["alpha_pattern"] = {name: self.scale * rank for name, rank in own.items()}
        if kind.dropout:
            options[kind.dropout] = self.dropout
        return options

    def to_json(self) -> dict[str, Any]:
        """An ``adapter_config.json`` that peft reads, and :meth:`read`, made without peft."""
        return {**KINDS[self.method].defaults, **self.options(), "inference_mode": True}

    @classmethod
    def read(cls, config: dict) -> PeftSettings:
        """Read an ``adapter_config.json``.

        Raises
        ------
        InputError
            When it sets anything but what a method's ranks, alpha and dropout come to: other options change the base,
            the computation or what is trained.
        """
        method = _method_of(config)
        kind = KINDS[method]
        rank, alpha = (config.get("r"), config.get(kind.alpha)) if kind.ranked else (1, 1.0)
        targets, own = config.get("target_modules"), config.get("rank_pattern") or {}
        dropout = (config.get(kind.dropout) or 0.0) if kind.dropout else 0.0
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
                f"adapter_config.json: r {rank!r}, {kind.alpha} {alpha!r}, rank_pattern, dropout or target_modules "
                f"are not {method}'s"
            )
        if not targets:
            raise InputError("the adapter does not fit this backbone: its targets are not in it, it names none")
        usual, largest = int(rank or 1), float(alpha or 1.0)
        settings = cls(method, {name: own.get(name, usual) for name in targets}, largest / usual, float(dropout))
        other = _others(config, settings.to_json())
        if other and _others(config, _json_values(settings.config())):  # peft has defaults that are not in our table
            raise InputError(f"adapter_config.json sets {', '.join(other)}, which {method} here does not")
        return settings


def _others(config: dict, expected: Mapping[str, Any]) -> list[str]:
    """What an ``adapter_config.json`` sets beside what is expected."""
    return [key for key, value in config.items() if key not in FREE and value and value != expected.get(key)]


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_RANK


def _method_of(config: dict) -> str:
    kind = str(config.get("peft_type"))
    for method in ("dora", "rslora"):
        if kind == "LORA" and any(config.get(option) for option in KINDS[method].options):
            return method
    if kind.lower() not in KINDS:
        raise InputError(f"adapter_config.json: peft_type is {kind!r} but must be one of LORA, LOHA, LOKR, IA3, BEFT")
    return kind.lower()


def _json_values(config: PeftConfig) -> dict:
    values = {key: getattr(value, "value", value) for key, value in config.to_dict().items()}
    return {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}


def check_targets(backbone: XRIR, settings: PeftSettings) -> None:
    """Raise ``InputError`` unless targets are full names of modules of the backbone that the method can change."""
    kinds = (nn.Linear, nn.Conv2d) if KINDS[settings.method].convolutions else (nn.Linear,)
    possible = {name for name, module in backbone.named_modules() if isinstance(module, kinds)}
    unknown = sorted(set(settings.ranks) - possible)
    if unknown:
        raise InputError(
            f"the adapter does not fit this backbone: {settings.method} targets {unknown[:3]} are not in it"
        )


class PeftAdapter:
    """A peft adapter inside a backbone; the backbone object itself then computes with it."""

    def __init__(self, backbone: XRIR, settings: PeftSettings) -> None:
        check_targets(backbone, settings)
        self.method = settings.method
        self._backbone = backbone
        backbone.base_fingerprint = fingerprint(backbone)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected that the base layer has no bias")  # merge() handles it
            self._peft = import_peft().get_peft_model(backbone, settings.config())
        if set(self._peft.targeted_module_names) != set(settings.ranks):
            extra = sorted(set(self._peft.targeted_module_names) ^ set(settings.ranks))
            self.detach()
            raise InputError(f"{self.method} targets match other modules than they name: {extra[:3]}")
        self._layers: list[Any] = [backbone.get_submodule(name) for name in settings.ranks]
        if settings.method in ("lora", "rslora") and not settings.dropout:
            for layer in self._layers:  # peft's values in fewer passes
                if isinstance(layer.base_layer, nn.Linear):
                    layer.forward = partial(fast_forward, layer)
        self.train(False)

    def parameters(self) -> list[nn.Parameter]:
        """What an optimiser trains."""
        return [parameter for parameter in self._peft.parameters() if parameter.requires_grad]

    def has_statistics(self) -> bool:
        """Never: peft's layers keep none."""
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
        check_keys({name: tensor.shape for name, tensor in self.tensors().items()}, tensors)
        import_peft().set_peft_model_state_dict(self._peft, dict(tensors))

    def state(self) -> dict[str, Tensor]:
        """The tensors, from which :meth:`restore` goes on."""
        return self.tensors()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what :meth:`state` gave."""
        self.load(state)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base inside the block."""
        with self._peft.disable_adapter():
            yield

    def detach(self) -> None:
        """Take the adapter out of the backbone, which is then the base bit for bit, frozen."""
        self._peft.unload().requires_grad_(False)
        self._backbone.base_fingerprint = None

    def merge(self) -> None:
        """Leave the adapted weights in the backbone, frozen."""
        if self.method == "beft":  # peft cannot merge where there is no bias
            for layer in self._layers:
                added, base = layer.beft_bias["default"].detach().flatten(), layer.base_layer
                base.bias = nn.Parameter(added if base.bias is None else base.bias + added)
            self.detach()
            return
        self._peft.merge_and_unload().requires_grad_(False)
        self._backbone.base_fingerprint = None
