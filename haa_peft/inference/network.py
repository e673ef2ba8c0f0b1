"""One backbone that computes every row of a batch with the weights of the row's room."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from haa_peft.adapters.weights import BASE, RoomWeights, own_layers
from haa_peft.model.linear import product
from haa_peft.model.xrir import XRIR

OF_IMAGES = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm)
"""Layers whose channels are the second dimension."""


class Rows:
    """Whose rows the next batch has: (weights, number of rows) in order."""

    def __init__(self) -> None:
        self.parts: list[tuple[RoomWeights, int]] = [(BASE, 1)]

    @contextmanager
    def of(self, parts: Sequence[tuple[RoomWeights, int]]) -> Iterator[None]:
        """Inside the block, batches are made of these."""
        before, self.parts = self.parts, list(parts)
        try:
            yield
        finally:
            self.parts = before


class PerRoom(nn.Module):
    """A layer whose weights depend on the room of each row."""

    def __init__(self, layer: nn.Module, name: str, rows: Rows) -> None:
        super().__init__()
        self.layer, self._name, self._rows = layer, name, rows

    def forward(self, *inputs: Tensor) -> Tensor:
        """As the layer; the first dimension of every input is the batch."""
        parts = self._rows.parts
        if len(parts) == 1:
            return self._run(parts[0][0], *inputs)
        low_rank = [weights.low_rank.get(self._name) for weights, _ in parts]
        replaced = [weights.replaced.get(self._name) for weights, _ in parts]
        if not any(low_rank) and not any(replaced):
            return self.layer(*inputs)
        counts = [count for _, count in parts]
        if any(values is not None and set(values) != {"bias"} for values in replaced):
            found = []
            for part, *piece in zip(parts, *(x.split(counts) for x in inputs), strict=True):
                with self._rows.of([part]):  # for layers inside this one
                    found.append(self._run(part[0], *piece))
            return torch.cat(found)
        (x,) = inputs
        y = self.layer(x)
        pieces_of = zip(low_rank, replaced, x.split(counts), y.split(counts), strict=True)
        for factors, values, piece, out in pieces_of:
            if values is not None:
                own = self.layer.bias
                change = values["bias"] if own is None else values["bias"] - own  # type: ignore[operator]
                out.add_(change[:, None, None] if isinstance(self.layer, OF_IMAGES) else change)
            if factors is not None:
                add_low_rank(out, piece, *factors)
        return y

    def _run(self, weights: RoomWeights, *inputs: Tensor) -> Tensor:
        values, factors = weights.replaced.get(self._name), weights.low_rank.get(self._name)
        if not isinstance(self.layer, nn.Linear):
            return self.layer(*inputs) if values is None else functional_call(self.layer, values, inputs)
        own, merged = values or {}, weights.merged.get(self._name)
        weight = own.get("weight", self.layer.weight) if merged is None else merged
        y = product(inputs[0], weight, own.get("bias", self.layer.bias))
        return y if factors is None or merged is not None else add_low_rank(y, inputs[0], *factors)


def add_low_rank(y: Tensor, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """``y + x @ down.T @ up.T``, in place."""
    rows = y.view(-1, y.shape[-1])
    rows.addmm_((x.flatten(0, -2) @ down.T).to(y.dtype), up.T.to(y.dtype))
    return y


class RoomNetwork:
    """A backbone's copy that serves any number of rooms.

    ``base`` holds the backbone's own weights; what ``network`` computes depends on :meth:`using`. With ``compiled`` the
    transformer's blocks go through ``torch.compile``: batches are then of one room, whose weights must be complete.
    """

    def __init__(self, backbone: XRIR, device: str | None = None, *, compiled: bool = False) -> None:
        self.base = copy.deepcopy(backbone).to(device or backbone.device).eval().requires_grad_(False)
        for module in self.base.modules():
            if isinstance(module, nn.Conv2d) and self.base.audio_enc.cnn.channels_last(self.base.device):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        # the same tensors in other modules
        self.network = copy.deepcopy(self.base, {id(t): t for t in (*self.base.parameters(), *self.base.buffers())})
        self.compiled = compiled
        self._layers = own_layers(self.network)
        self._rows = Rows()
        if compiled:
            for layer in self.network.source_network.transformer.layers:
                for block in layer.children():
                    block.compile(dynamic=True)
        else:
            for name, layer in reversed(self._layers.items()):  # inner ones first
                parent, _, child = name.rpartition(".")
                setattr(self.network.get_submodule(parent), child, PerRoom(layer, name, self._rows))

    @contextmanager
    def using(self, parts: Sequence[tuple[RoomWeights, int]]) -> Iterator[None]:
        """Inside the block, batches are made of these rooms' rows, in order."""
        if self.compiled:
            ((weights, _),) = parts
            for name, values in weights.replaced.items():
                layer = self._layers[name]
                for kind, value in values.items():
                    (layer._buffers if kind in layer._buffers else layer._parameters)[kind] = value  # type: ignore[assignment]
            yield
            return
        with self._rows.of(parts):
            yield
