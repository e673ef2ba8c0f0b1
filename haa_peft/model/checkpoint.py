"""Loading backbones: the bundled ones, published checkpoints, and what pretraining writes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from haa_peft.checks import check_kind
from haa_peft.errors import InputError
from haa_peft.model.config import XRIRConfig
from haa_peft.model.stored_tensors import check_shapes
from haa_peft.model.xrir import XRIR

BUNDLED = ("small", "xrir-mini")
CONFIG_KEY = "xrir_config"


def load_backbone(source: str | Path = "small") -> XRIR:
    """Load a frozen backbone in evaluation mode.

    Parameters
    ----------
    source : ``"small"`` or ``"xrir-mini"`` (bundled), a published xRIR checkpoint (``.pth`` or ``.pt``, with or without
        ``module.`` prefix or ``{"model": ...}``; other sizes of the network are read from its shapes), or a
        ``.safetensors`` file; one that pretraining wrote carries its configuration in its header, any other is taken
        as the published network.

    Raises
    ------
    InputError
        When the file is missing, damaged, or not exactly this network's tensors.
    """
    check_single_precision()
    check_kind("backbone", source, (str, Path), f"a file's path or one of {', '.join(BUNDLED)}")
    if str(source) in BUNDLED:
        with resources.as_file(resources.files("haa_peft.model") / "weights" / f"{source}.safetensors") as path:
            return _build(path, str(source))
    path = Path(source)
    if "\0" in str(source) or not is_file(path):
        raise InputError(f"backbone {str(source)!r}: no such file, nor a bundled one ({', '.join(BUNDLED)})")
    return _build(path, path.name)


def is_file(path: Path) -> bool:
    """Whether there is such a file; there is none of a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def check_single_precision() -> None:
    """Raise ``InputError`` where torch makes tensors of another type than float32, in which the networks compute."""
    if torch.get_default_dtype() != torch.float32:
        raise InputError(
            f"torch's default type is {torch.get_default_dtype()} but must be torch.float32 here; "
            "call torch.set_default_dtype(torch.float32)"
        )


def check_device(device: str | torch.device | None) -> None:
    """Raise ``InputError`` unless tensors can be made on a device; None is any."""
    if device is None:
        return
    try:
        found = torch.empty(1, device=device).device
        reason = "it computes nothing" if found.type == "meta" else ""
    except Exception as error:  # each device has errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    if reason:
        raise InputError(
            f"device is {device!r:.60} but it cannot be used ({reason:.120}); give cpu, or another that is there"
        )


def _build(path: Path, origin: str) -> XRIR:
    state, config = _read(path)
    complaint = f"{path}: not this xRIR network"
    if config.depth > len(state):
        raise InputError(f"{complaint}: it has {len(state)} tensors, too few for {config.depth} layers")
    with torch.device("meta"):  # so that sizes that a file claims take no memory
        expected = {name: tensor.shape for name, tensor in XRIR(config).state_dict().items()}
    check_shapes(expected, state, complaint)
    for name, tensor in state.items():
        if tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise InputError(f"{path}: tensor {name} is larger than what the file holds of it; the file is damaged")
        if not torch.isfinite(tensor).all():
            raise InputError(f"{path}: tensor {name} holds NaN or infinity; the file is damaged")
    backbone = XRIR(config)
    backbone.load_state_dict(state, strict=True)
    backbone.requires_grad_(False)
    backbone.origin = origin
    return backbone.eval()


def _read(path: Path) -> tuple[dict[str, Tensor], XRIRConfig]:
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
            values = json.loads(header.get(CONFIG_KEY, "{}"))
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as safetensors ({error})") from None
        return state, XRIRConfig.from_dict(values, str(path))
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of the unpickler
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read as a checkpoint of tensors alone ({reason:.120})") from None
    if isinstance(loaded, dict) and isinstance(loaded.get("model"), dict):
        loaded = loaded["model"]
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise InputError(f'{path}: holds no state dict of tensors, plain or as {{"model": ...}}')
    state = {name.removeprefix("module."): tensor for name, tensor in loaded.items()}
    return state, published_sizes(state)


def published_sizes(state: Mapping[str, Tensor]) -> XRIRConfig:
    """Configuration of a checkpoint in the published layout: the published network, or one trained at other sizes.

    Heads are 64 wide as in the published one, which no shape tells.
    """
    first = "source_network.transformer.layers.0."
    shapes = {name: tensor.shape for name, tensor in state.items()}
    try:
        heads, more = divmod(shapes[f"{first}0.to_out.weight"][1], XRIRConfig.head_width)
        if more:
            return XRIRConfig()
        return XRIRConfig(
            width=shapes[f"{first}0.to_out.weight"][0],
            depth=sum(name.endswith("0.to_out.weight") for name in shapes),
            heads=heads,
            feedforward=shapes[f"{first}1.net.1.weight"][0],
            channels=shapes["src_proj.proj.weight"][0],
            resnet_width=shapes["audio_enc.cnn.conv1.weight"][0],
            unused_modules="source_proj.proj.weight" in shapes,
        )
    except (KeyError, IndexError, InputError):  # the tensors that are missing or odd are named where shapes are checked
        return XRIRConfig()


def fingerprint(backbone: XRIR) -> str:
    """SHA-256 of the backbone's configuration and tensors (names, types, shapes, values), without any adapter.

    What the extra channels add counts where an adapter that reads them was merged in; it is nothing in a backbone.
    While an adapter is attached, the base underneath is what counts: attaching keeps :attr:`XRIR.base_fingerprint`.
    """
    if backbone.base_fingerprint is not None:
        return backbone.base_fingerprint
    usual = dataclasses.asdict(XRIRConfig())
    special = {key: value for key, value in dataclasses.asdict(backbone.config).items() if value != usual[key]}
    digest = hashlib.sha256(json.dumps(special, sort_keys=True).encode())  # so that later options change nothing
    tensors = backbone.state_dict()
    surfaces = backbone.source_network.surface_embedding.weight
    if surfaces.any():
        tensors["source_network.surface_embedding.weight"] = surfaces
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
