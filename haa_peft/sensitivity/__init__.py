"""Which layers serve the simulation and which the room: ``--freeze auto``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from haa_peft.adapters.layers import layer_names, layer_of
from haa_peft.adapters.methods import MethodSettings, attach
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.room import Room
from haa_peft.satellites import satellite
from haa_peft.training.objective import RoomsObjective, draw_references
from haa_peft.training.settings import TrainingSettings

ROOMS, DRAWS = 8, 4
"""Simulated rooms, and draws of references in every room."""
LEAST = 1e-9
"""Share below which a layer is taken to hold none."""


class Sensitivity(NamedTuple):
    """Share of a layer in the Fisher information of all layers, in the room's and in simulated measurements."""

    layer: str
    room: float
    simulation: float


def measure_sensitivity(backbone: XRIR, rooms: Sequence[Room], training: TrainingSettings) -> list[Sensitivity]:
    """Sensitivity of every layer's weights to the rooms' measurements and to simulated ones, in the data's order.

    The diagonal of the empirical Fisher information (Kirkpatrick et al. 2017, doi 10.1073/pnas.1611835114, who use it
    to tell which weights a task needs): squared gradients of the loss of single measurements, averaged, and summed
    over a layer's weights.
    """
    simulated = satellite("simulation", "--freeze auto").draw_rooms(ROOMS)
    information = [_fisher(backbone, group, training) for group in (rooms, simulated)]
    sums = [sum(values.values()) for values in information]
    return [
        Sensitivity(layer, *(values[layer] / total for values, total in zip(information, sums, strict=True)))
        for layer in layer_names(backbone)
    ]


def _fisher(backbone: XRIR, rooms: Sequence[Room], training: TrainingSettings) -> dict[str, float]:
    """Mean squared gradient of single measurements' losses, summed over the weights of every layer."""
    found = dict.fromkeys(layer_names(backbone), 0.0)
    adapter = attach(backbone, MethodSettings("full"), training.seed)
    try:
        objective = RoomsObjective(backbone, rooms, audible_decay=training.audible_decay).eval().to(backbone.device)
        names = {id(parameter): layer_of(name) for name, parameter in backbone.named_parameters()}
        for i, room in enumerate(objective.each):
            k = min(training.k, room.shots - 1)
            for draw in range(DRAWS):
                references = torch.from_numpy(draw_references(room.shots, k, training.seed, draw, i))
                for target in range(room.shots):
                    rows = torch.tensor([target]), references[target : target + 1]
                    loss = room(*(row.to(backbone.device) for row in rows)).sum()
                    parameters = adapter.parameters()
                    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        if gradient is not None:
                            found[names[id(parameter)]] += float(gradient.square().sum()) / (DRAWS * room.shots)
    finally:
        adapter.detach()
    return found


def choose_frozen(sensitivities: Sequence[Sensitivity]) -> list[str]:
    """Layers that serve the simulation rather than the room: half as much or less, by the ratio of the shares.

    Held against the ratios' geometric mean, since one layer may hold nine tenths of all information, and all other
    shares then rise and fall with it.
    """
    ratios = np.array([max(room, LEAST) / max(simulation, LEAST) for _, room, simulation in sensitivities])
    usual = np.exp(np.log(ratios).mean())
    return [one.layer for one, ratio in zip(sensitivities, ratios, strict=True) if ratio <= usual / 2]


def sensitivity_table(sensitivities: Sequence[Sensitivity]) -> str:
    """What was measured and chosen, as a Markdown table."""
    from haa_peft.commands.tables import markdown

    frozen = choose_frozen(sensitivities)
    rows = [["layer", "room %", "simulation %", "ratio", ""]]
    for layer, room, simulation in sensitivities:
        chosen = "frozen" if layer in frozen else "adapted"
        ratio = f"{room / simulation:.2f}" if simulation else "-"
        rows.append([layer, f"{100 * room:.2g}", f"{100 * simulation:.2g}", ratio, chosen])
    return markdown(rows)
