"""One backbone that computes every row of a batch with the weights of the row's room."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from haa_peft.adapters.weights import BASE, RoomWeights, own_layers
from haa_peft.errors import InputError
from haa_peft.inference.turns import Turns
from haa_peft.model.linear import product
from haa_peft.model.phases import PHASES
from haa_peft.model.predict import rirs_of, stream_rirs
from haa_peft.model.tensors import Asked, EncodedRoom, RoomTensors, Targets
from haa_peft.model.xrir import XRIR

OF_IMAGES = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm)
"""Layers whose channels are the second dimension."""
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


class Rows(threading.local):
    """Whose rows a thread's batch has: (weights, number of rows) in order; every thread has its own."""

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
        """As the layer: inputs (B, ...) -> (B, ...), rows of a batch with the weights of their rooms."""
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
                change = values["bias"] - self.layer.bias  # type: ignore[operator]
                out.add_(change[:, None, None] if isinstance(self.layer, OF_IMAGES) else change)
            if factors is not None:
                add_low_rank(out, piece, *factors)
        return y

    def _run(self, weights: RoomWeights, *inputs: Tensor) -> Tensor:
        values, factors = weights.replaced.get(self._name), weights.low_rank.get(self._name)
        if not isinstance(self.layer, nn.Linear):
            return (self.layer if values is None else with_values(self.layer, values))(*inputs)
        own, merged = values or {}, weights.merged.get(self._name)
        weight = own.get("weight", self.layer.weight) if merged is None else merged
        y = product(inputs[0], weight, own.get("bias", self.layer.bias))
        return y if factors is None or merged is not None else add_low_rank(y, inputs[0], *factors)


def with_values(layer: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """The layer with other parameters or buffers of its own; the layer itself, which threads share, stays as it is."""
    other = copy.copy(layer)
    for kind in ("_parameters", "_buffers"):
        own = getattr(layer, kind)
        setattr(other, kind, {name: values.get(name, tensor) for name, tensor in own.items()})
    return other


def add_low_rank(y: Tensor, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """``y + x @ down.T @ up.T``, in place.

    Parameters
    ----------
    y, x : (..., outputs) and (..., inputs).
    down, up : (r, inputs) and (outputs, r).
    """
    rows = y.view(-1, y.shape[-1])
    rows.addmm_((x.flatten(0, -2) @ down.T).to(y.dtype), up.T.to(y.dtype))
    return y


class RoomNetwork:
    """A backbone's copy that serves any number of rooms: the way every prediction of an adapter goes.

    ``base`` holds the backbone's own weights; what ``network`` computes depends on :meth:`using`. With ``compiled`` the
    transformer's blocks go through ``torch.compile``: rooms are then computed one after the other, and their weights
    must be complete. Threads may share a network: what differs between rooms is handed to a computation or belongs to
    its thread, and compiled blocks, whose weights are exchanged, compute for one thread at a time.

    Parameters
    ----------
    backbone : with no adapter attached; it is copied.
    device : such as ``"cuda"``; the backbone's unless given.
    precision : of the encoders, ``float32`` or ``bfloat16``.
    phase : where a waveform's phase comes from, of ``PHASES``.

    Raises
    ------
    InputError
        For another precision or phase.
    """

    def __init__(
        self,
        backbone: XRIR,
        device: str | torch.device | None = None,
        *,
        compiled: bool = False,
        precision: str = "float32",
        phase: str = PHASES[0],
    ) -> None:
        for name, value, allowed in (("precision", precision, tuple(PRECISIONS)), ("phase", phase, PHASES)):
            if not isinstance(value, str) or value not in allowed:
                raise InputError(f"{name} is {value!r:.60} but must be one of {', '.join(allowed)}")
        self._precision, self._phase = PRECISIONS[precision], phase
        self.base = copy.deepcopy(backbone).to(device or backbone.device).eval().requires_grad_(False)
        for module in self.base.modules():
            if isinstance(module, nn.Conv2d) and self.base.audio_enc.cnn.channels_last(self.base.device):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        # the same tensors in other modules
        self.network = copy.deepcopy(self.base, {id(t): t for t in (*self.base.parameters(), *self.base.buffers())})
        self.compiled = compiled
        self._layers = own_layers(self.network)
        self._rows = Rows()
        self.turns = Turns()
        self._alone: AbstractContextManager = threading.RLock() if compiled else nullcontext()
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
            with self._alone:
                for name, values in weights.replaced.items():
                    layer = self._layers[name]
                    for kind, value in values.items():
                        (layer._buffers if kind in layer._buffers else layer._parameters)[kind] = value  # type: ignore[assignment]
                yield
            return
        with self._rows.of(parts):
            yield

    @torch.no_grad()
    def encode(self, weights: RoomWeights, room: RoomTensors) -> EncodedRoom:
        """A room on this network's device as it is seen with its weights."""
        with self.using([(weights, 1)]):
            return self.network.encode([room])[0]._replace(weights=weights)

    @torch.no_grad()
    def predict(self, asked: Sequence[Asked]) -> Tensor:
        """As :meth:`XRIR.predict`, (N, 63, 310), every room with the weights that it was encoded with."""

        def using(parts: Sequence[tuple[EncodedRoom, int]]) -> AbstractContextManager:
            return self.using([(room.weights, rows) for room, rows in parts])

        autocast = torch.autocast(self.base.device.type, self._precision, enabled=self._precision is not None)
        with autocast:
            if self.compiled:
                return torch.cat([self._predict_compiled(*one) for one in asked])
            return self.network.predict(asked, using)

    def _predict_compiled(self, room: EncodedRoom, targets: Targets) -> Tensor:
        count = len(targets.positions)
        if count == 1:  # torch would compile a batch of one again
            targets = Targets(targets.positions.expand(2, -1), targets.references.expand(2, -1))
        with self.using([(room.weights, 1)]):
            return self.network.predict([(room, targets)])[:count]

    def rirs(self, asked: Sequence[Asked], seed: int) -> np.ndarray:
        """RIRs (N, 9600) float32 of all rooms' targets (:func:`~haa_peft.model.predict.rirs_of`)."""
        return rirs_of(self, asked, seed, self._phase)

    def stream(self, room: EncodedRoom, positions: np.ndarray, k: int, seed: int) -> Iterator[np.ndarray]:
        """RIRs (n, 9600) float32 in one room, some positions after the other; see :func:`stream_rirs`.

        Parameters
        ----------
        room : as :meth:`encode` gives it.
        positions : (N, 3) m from the receiver.
        k : nearest references that each is predicted from.
        seed : of a random phase.
        """
        return stream_rirs(self, room, positions, k, seed, self._phase)
