"""Which weights a method changes, and attaching it to a backbone."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from haa_peft.adapters.delta import PEFT_TYPE, DeltaAdapter, read_delta_config
from haa_peft.adapters.layers import SURFACES, UNUSED, frozen_layers, layer_of
from haa_peft.adapters.lora import LoraAdapter, LoraSettings
from haa_peft.adapters.settings import MethodSettings
from haa_peft.errors import InputError
from haa_peft.geometry.channels import parse_channels
from haa_peft.model.stored_tensors import check_finite
from haa_peft.model.xrir import XRIR

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)
ENCODERS = ("source_network.", "audio_enc.")

Adapter = LoraAdapter | DeltaAdapter


def lora_settings(backbone: XRIR, settings: MethodSettings, frozen: Sequence[str] = ()) -> LoraSettings:
    """Ranks of all Linear, and Conv2d if asked for, that run and are not frozen.

    Raises
    ------
    InputError
        When ``--ranks`` names no layer, nothing is left to adapt, or the layer that reads ``--channels`` is left alone.
    """
    kinds = (nn.Linear, nn.Conv2d) if settings.convolutions else (nn.Linear,)
    targets = [name for name, module in backbone.named_modules() if isinstance(module, kinds)]
    channels = bool(parse_channels(settings.channels))
    targets = [name for name in targets if not name.startswith(_left_out(channels))]
    for prefix in settings.ranks:
        if not any(_begins(name, prefix) for name in targets):
            raise InputError(
                f"--ranks {prefix}=... fits no layer that lora changes; layers are {', '.join(targets[:4])}..."
            )
    ranks = {}
    for name in targets:
        own = sorted((prefix for prefix in settings.ranks if _begins(name, prefix)), key=len)
        rank = settings.ranks[own[-1]] if own else settings.rank
        if rank and layer_of(name) not in frozen:
            ranks[name] = rank
    if not ranks:
        raise InputError("--ranks and --freeze leave no layer to adapt; adapt at least one")
    if SURFACES in targets and SURFACES not in ranks:
        raise InputError(f"--ranks leaves {SURFACES} alone, which reads --channels {settings.channels}; give it a rank")
    return LoraSettings(ranks, settings.scale, settings.dropout)


def _begins(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _left_out(channels: bool) -> tuple[str, ...]:
    """Beginnings of the names of modules that do not run, or read channels that are not asked for."""
    return UNUSED if channels else (*UNUSED, SURFACES)


def changed_tensors(backbone: XRIR, method: str, frozen: Sequence[str] = (), *, channels: bool = False) -> list[str]:
    """Parameters and BatchNorm statistics that a method of differences changes, of modules that run.

    Parameters
    ----------
    backbone : with no adapter attached.
    method : one of those that store differences.
    frozen : names of the layers that are left alone.
    channels : whether what reads those behind the coordinates changes too.

    Raises
    ------
    InputError
        When nothing is left to change, or ``statistics`` meets a backbone without BatchNorm.
    """
    norms = [name for name, module in backbone.named_modules() if isinstance(module, NORMS)]
    of_norms = {name for name, _ in backbone.named_parameters() if name.rpartition(".")[0] in norms}
    statistics = [name for name, _ in backbone.named_buffers() if name.endswith((".running_mean", ".running_var"))]
    parameters = [name for name, _ in backbone.named_parameters() if not name.startswith(_left_out(channels))]
    names = {
        "bias": [name for name in parameters if name.endswith(".bias")],
        "norm": [name for name in parameters if name in of_norms] + statistics,
        "statistics": statistics,
        "heads": [name for name in parameters if not name.startswith(ENCODERS)],
        "full": parameters,
    }[method]
    if method == "statistics" and not names:
        raise InputError("method statistics needs a backbone with BatchNorm; this one has none (GroupNorm keeps none)")
    left = [name for name in names if layer_of(name) not in frozen]
    if not left:
        raise InputError(f"--freeze leaves nothing that {method} changes; freeze fewer layers")
    surfaces = f"{SURFACES}.weight"
    return [*left, surfaces] if channels and surfaces not in left else left


def attach(backbone: XRIR, settings: MethodSettings, seed: int, frozen: Sequence[str] | None = None) -> Adapter:
    """Put a fresh adapter, which changes nothing yet, on a frozen backbone and make its weights trainable.

    Parameters
    ----------
    backbone : with no adapter attached.
    settings : method, rank and what else an adapter is made of.
    seed : of the first weights.
    frozen : names of the layers that are left alone; as the settings say unless given, which ``auto`` needs.

    Raises
    ------
    InputError
        When ``--freeze auto`` comes without ``frozen``, or the settings fit no layer.
    """
    check_free(backbone)
    torch.manual_seed(seed)
    if frozen is None:
        if settings.freeze == "auto":
            raise InputError("--freeze auto needs measurements; see haa_peft.sensitivity")
        frozen = frozen_layers(backbone, settings.freeze)
    if settings.method == "lora":
        return LoraAdapter(backbone, lora_settings(backbone, settings, frozen))
    channels = bool(parse_channels(settings.channels))
    names = changed_tensors(backbone, settings.method, frozen, channels=channels)
    return DeltaAdapter(backbone, settings.method, names)


def check_free(backbone: XRIR) -> None:
    """Raise ``InputError`` if the backbone carries an adapter already."""
    if backbone.base_fingerprint is not None:
        raise InputError("the backbone carries an adapter already; detach it, or load another backbone")


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
    adapter: Adapter
    if config.get("peft_type") == PEFT_TYPE:
        adapter = DeltaAdapter(backbone, *read_delta_config(backbone, config))
    else:
        adapter = LoraAdapter(backbone, LoraSettings.read(config))
    try:
        adapter.load(tensors)
    except InputError:
        adapter.detach()
        raise
    return adapter


def merged(backbone: XRIR, config: dict, tensors: dict[str, Tensor]) -> XRIR:
    """A frozen copy of the backbone whose own weights are the adapted ones."""
    whole = copy.deepcopy(backbone)
    attach_stored(whole, config, tensors).merge()
    return whole
