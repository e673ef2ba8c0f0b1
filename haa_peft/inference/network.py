"""One backbone that computes every row of a batch with the weights of the row's room."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from haa_peft.adaptation.weights import BASE, RoomWeights, own_layers
from haa_peft.backbone.linear import product
from haa_peft.backbone.xrir import XRIR


OF_IMAGES = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm)
"""Layers whose channels are the second dimension."""


class Rows:
    """Whose rows the next batch has: (weights, number of rows) in order."""

    def __init__(self) -> None:
        self.parts: list[tuple[RoomWeights, int]] = [(BASE, 1)]


class PerRoom(nn.Module):
    """A layer whose weights depend on the room of each row."""

    def __init__(self, layer: nn.Module, name: str, rows: Rows) -> None:
        super().__init__()
        self.layer, self._name, self._rows = layer, name, rows

    def forward(self, *inputs: Tensor) -> Tensor:
        """As the layer; the first dimension of the first input is the batch."""
        parts = self._rows.parts
        if len(parts) == 1:
            return self._run(parts[0][0], *inputs)
        low_rank = [weights.low_rank.get(self._name) for weights, _ in parts]
        replaced = [weights.replaced.get(self._name) for weights, _ in parts]
        (x,) = inputs  # layers of more inputs are small and run room by room
        counts = [count for _, count in parts]
        if any(values is not None and set(values) != {"bias"} for values in replaced):
            pieces = zip(parts, x.split(counts), strict=True)
            return torch.cat([self._run(weights, piece) for (weights, _), piece in pieces])
        y = self.layer(x)
        pieces_of = zip(low_rank, replaced, x.split(counts), y.split(counts), strict=True)
        for factors, values, piece, out in pieces_of:
            if values is not None:
                change = values["bias"] - self.layer.bias  # type: ignore[operator]
                out.add_(change[:, None, None] if isinstance(self.layer, OF_IMAGES) else change)
            if factors is not None:
                add_low_rank(out, piece, *factors)
        return y

    def _run(self, weights: RoomWeights, *inputs: Tensor) -> Tensor:
        values = weights.replaced.get(self._name)
        if isinstance(self.layer, nn.Linear):
            own = values or {}
            y = product(inputs[0], own.get("weight", self.layer.weight), own.get("bias", self.layer.bias))
        else:
            y = self.layer(*inputs) if values is None else functional_call(self.layer, values, inputs)
        factors = weights.low_rank.get(self._name)
        return y if factors is None else add_low_rank(y, inputs[0], *factors)


def add_low_rank(y: Tensor, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """``y + x @ down.T @ up.T``, in place."""
    rows = y.view(-1, y.shape[-1])
    rows.addmm_((x.flatten(0, -2) @ down.T).to(y.dtype), up.T.to(y.dtype))
    return y


class RoomNetwork:
    """A backbone's copy that serves any number of rooms.

    ``network`` is an :class:`XRIR`; what it computes depends on :meth:`using`.
    """

    def __init__(self, backbone: XRIR) -> None:
        self.base = copy.deepcopy(backbone).eval().requires_grad_(False)
        for module in self.base.modules():
            if isinstance(module, nn.Conv2d) and self.base.device.type == "cpu":
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  what oneDNN wants
        self._rows = Rows()
        self.network = _wrapped(self.base, self._rows)

    def compile(self) -> None:
        """Compile the transformer's blocks; all of them, in all rooms, share what is compiled."""
        for layer in self.network.source_network.transformer.layers:
            for block in layer.children():
                block.compile(dynamic=True)

    @contextmanager
    def using(self, parts: Sequence[tuple[RoomWeights, int]]) -> Iterator[None]:
        """Inside the block, batches are made of these rooms' rows, in order."""
        before = self._rows.parts
        self._rows.parts = list(parts)
        try:
            yield
        finally:
            self._rows.parts = before


def _wrapped(base: XRIR, rows: Rows) -> XRIR:
    """The same modules around the same tensors, with every layer that has weights under :class:`PerRoom`."""
    tensors = [*base.parameters(), *base.buffers()]
    network = copy.deepcopy(base, {id(tensor): tensor for tensor in tensors})
    for name, layer in reversed(own_layers(network).items()):  # inner ones first
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, PerRoom(layer, name, rows))
    return network
