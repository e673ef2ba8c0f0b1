"""Rooms drawn at random: what the backbone is pretrained on.

Boxes, corridors, L-shapes, skewed and cut plans, flat and sloped ceilings, furniture and panels; uneven materials per
surface and octave band; an omnidirectional or directional transducer at the receiver, by reciprocity as good as
directional sources.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from haa_peft.geometry.surfaces import Surfaces

SOURCES_PER_ROOM = 16
OCTAVE_BANDS = (125, 250, 500, 1000, 2000, 4000, 8000)
VOLUMES = (15.0, 2000.0)
DECAY_TIMES = (0.1, 2.5)
WALL_DISTANCE = 0.25
NEAREST = 0.4
PLANS = {"box": 0.45, "corridor": 0.13, "L": 0.2, "skewed": 0.12, "cut": 0.1}
"""Kinds of plans and how often they are drawn."""


@dataclass(frozen=True)
class Face:
    """A flat surface: corners (n, 3) m in order, absorption (7,) energy coefficients, a vector (3,) out of the air."""

    corners: np.ndarray
    absorption: np.ndarray
    outwards: np.ndarray

    @property
    def area(self) -> float:
        """In square metres."""
        fan = np.cross(self.corners[1:-1] - self.corners[0], self.corners[2:] - self.corners[0])
        return float(np.linalg.norm(fan.sum(axis=0)) / 2)


@dataclass(frozen=True)
class DrawnRoom:
    """A room before it is simulated.

    Attributes
    ----------
    plan : kind of the plan, one of ``PLANS``.
    size : (3,) m of the box around it; ``is_box`` says whether it is that box, empty.
    walls, obstacles : faces; for a box the walls are west, east, south, north, floor, ceiling.
    scattering : one coefficient.
    facing : (3,) unit vector of a directional transducer at the receiver, None for an omnidirectional one.
    beam : (7,) exponents of its cardioid per octave band, and ``rear`` (7,) its amplitude behind.
    receiver, positions : (3,) and (P, 3) m.
    t60 : s, what Eyring's equation was asked for.
    volume : m3.
    """

    plan: str
    size: np.ndarray
    is_box: bool
    walls: list[Face]
    obstacles: list[Face]
    scattering: float
    facing: np.ndarray | None
    beam: np.ndarray
    rear: np.ndarray
    receiver: np.ndarray
    positions: np.ndarray
    t60: float
    volume: float

    @property
    def surfaces(self) -> Surfaces:
        """What the receiver sees."""
        points, triangles = [], []
        for face in (*self.walls, *self.obstacles):
            c = face.corners
            if len(c) == 4 and np.allclose(c[0] + c[2], c[1] + c[3]):
                points.append([c[0], c[1], c[3]])
                triangles.append(False)
                continue
            c = np.roll(c, -_fan_start(c), axis=0)
            points += [[c[0], c[i], c[i + 1]] for i in range(1, len(c) - 1)]
            triangles += [True] * (len(c) - 2)
        return Surfaces(np.array(points), np.array(triangles))


def _fan_start(corners: np.ndarray) -> int:
    """A corner that sees all others: the inward one, if there is one."""
    normal = np.cross(corners[1:-1] - corners[0], corners[2:] - corners[0]).sum(axis=0)
    before, after = np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0)
    turns = np.cross(corners - before, after - corners) @ normal
    return int(turns.argmin()) if (turns < 0).any() else 0


def eyring_absorption(volume: float, area: float, t60: float) -> float:
    """Mean absorption that gives a room of ``volume`` (m3) and ``area`` (m2) the decay time ``t60`` (s): Eyring."""
    return 1 - float(np.exp(-0.161 * volume / (area * t60)))


def draw_room(seed: int, index: int, n_positions: int = SOURCES_PER_ROOM, *, odd: bool = False) -> DrawnRoom:
    """Draw room ``index`` of the corpus ``seed``.

    Parameters
    ----------
    seed, index : the same ones draw the same room.
    n_positions : in it; the first ones are the same for any number.
    odd : it is larger than any that is trained on, 2000 to 6000 m3, none is a box or a corridor, and absorption is
        more uneven.
    """
    rng = np.random.default_rng((seed, index, 1) if odd else (seed, index))
    kinds, chances = list(PLANS), np.array(list(PLANS.values()))
    if odd:
        chances = chances * [0, 0, 1, 1, 1]
    kind = kinds[rng.choice(len(kinds), p=chances / chances.sum())]
    low_volume, high_volume = (VOLUMES[1], 6000.0) if odd else VOLUMES
    volume = np.exp(rng.uniform(np.log(low_volume), np.log(high_volume)))
    height = min(rng.uniform(2.2, 3.6) * max(1.0, (volume / 200) ** 0.25), 12.0 if odd else 7.0)
    plan = _draw_plan(rng, kind, volume / height)
    slope = np.zeros(2)
    if rng.random() < 0.2:
        extent = plan.max(axis=0) - plan.min(axis=0)
        slope[rng.integers(2)] = 1
        slope *= rng.uniform(-0.35, 0.35) * height / extent
    walls = _extrude(plan, height, slope)
    obstacles = _draw_obstacles(rng, plan, height) if rng.random() < 0.5 else []
    t60 = float(np.exp(rng.uniform(*np.log(DECAY_TIMES))))
    walls = _draw_materials(rng, walls, obstacles, volume, t60, uneven=1.8 if odd else 1.2)
    directional = rng.random() < 0.5
    facing = rng.normal(size=3) * [1, 1, 0.3]
    sharpness = rng.uniform(0.3, 1.5) * np.linspace(0.6, 2.2, 7)
    rear = np.clip(np.exp(-rng.uniform(0.3, 1.2) * np.linspace(0.3, 2.5, 7)), 0.05, 1)
    receiver, positions = _draw_positions(rng, plan, height, slope, obstacles, n_positions)
    corners = np.concatenate([wall.corners for wall in walls])
    return DrawnRoom(
        plan=kind,
        size=corners.max(axis=0),
        is_box=kind in ("box", "corridor") and not slope.any() and not obstacles,
        walls=walls,
        obstacles=obstacles,
        scattering=float(rng.uniform(0.05, 0.4)),
        facing=facing / np.linalg.norm(facing) if directional else None,
        beam=sharpness,
        rear=rear,
        receiver=receiver,
        positions=positions,
        t60=t60,
        volume=float(volume),
    )


def _draw_plan(rng: np.random.Generator, kind: str, area: float) -> np.ndarray:
    """Corners (n, 2) of a plan of about this area, counter-clockwise, the box around it starting at the origin."""
    aspect = np.exp(rng.uniform(np.log(2.5), np.log(12)) if kind == "corridor" else rng.uniform(0, np.log(2.5)))
    width = max(np.sqrt(area / aspect), 1.4)
    x, y = rng.permutation([area / width, width])
    plan = np.array([[0, 0], [x, 0], [x, y], [0, y]])
    if kind == "L":
        inner = np.array([x, y]) * rng.uniform(0.35, 0.65, 2)
        plan = np.array([[0, 0], [x, 0], [x, inner[1]], [inner[0], inner[1]], [inner[0], y], [0, y]])
    elif kind == "cut":
        cut = np.array([x, y]) * rng.uniform(0.2, 0.5, 2)
        plan = np.array([[0, 0], [x, 0], [x, y - cut[1]], [x - cut[0], y], [0, y]])
    elif kind == "skewed":
        plan = plan + rng.uniform(0, 0.25, (4, 2)) * min(x, y) * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    if rng.random() < 0.5:
        plan = plan[::-1] * [-1, 1]
    if rng.random() < 0.5:
        plan = plan[::-1] * [1, -1]
    plan = plan - plan.min(axis=0)
    return plan * np.sqrt(area / _area(plan))


def _area(plan: np.ndarray) -> float:
    x, y = plan.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def _centroid(plan: np.ndarray) -> np.ndarray:
    x, y = plan.T
    cross = x * np.roll(y, -1) - y * np.roll(x, -1)
    return np.array([((x + np.roll(x, -1)) * cross).sum(), ((y + np.roll(y, -1)) * cross).sum()]) / (6 * _area(plan))


def _ceiling(points: np.ndarray, plan: np.ndarray, height: float, slope: np.ndarray) -> np.ndarray:
    """Height of the ceiling over points (N, 2); its mean over the plan is ``height``."""
    return height + (points - _centroid(plan)) @ slope


def _extrude(plan: np.ndarray, height: float, slope: np.ndarray) -> list[Face]:
    """Walls round a plan, floor and ceiling, without materials; a box in the order that pyroomacoustics names."""
    top = _ceiling(plan, plan, height, slope)
    floor = np.column_stack([plan, np.zeros(len(plan))])
    ceiling = np.column_stack([plan, top])
    blank = np.zeros(len(OCTAVE_BANDS))
    sides = []
    for i in range(len(plan)):
        j = (i + 1) % len(plan)
        along = plan[j] - plan[i]
        outwards = np.array([along[1], -along[0], 0])
        sides.append(Face(np.array([floor[i], floor[j], ceiling[j], ceiling[i]]), blank, outwards))
    down, up = np.array([0, 0, -1.0]), np.array([-slope[0], -slope[1], 1.0])
    if len(sides) == 4:
        names = [
            np.argmax([side.outwards @ way for side in sides]) for way in ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0))
        ]
        if len(set(names)) == 4:
            sides = [sides[i] for i in names]
    return [*sides, Face(floor[::-1], blank, down), Face(ceiling, blank, up)]


def _draw_obstacles(rng: np.random.Generator, plan: np.ndarray, height: float) -> list[Face]:
    """One to three boxes inside the plan: tables, cupboards, standing panels."""
    faces: list[Face] = []
    taken: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(rng.integers(1, 4)):
        kind = rng.choice(["table", "cupboard", "panel"])
        if kind == "table":
            size, base = np.array([*rng.uniform(0.6, 2.0, 2), 0.06]), 0.72
        elif kind == "cupboard":
            size, base = np.array([rng.uniform(0.6, 2.0), rng.uniform(0.3, 0.6), rng.uniform(0.8, 1.9)]), 0.01
        else:
            size, base = np.array([rng.uniform(0.8, 2.2), 0.06, rng.uniform(1.2, 2.0)]), 0.05
        if rng.random() < 0.5:
            size = size[[1, 0, 2]]
        if base + size[2] > height - 0.3 or (size[:2] > np.ptp(plan, axis=0)).any():
            continue
        for _ in range(20):
            corner = rng.uniform(plan.min(axis=0), plan.max(axis=0) - size[:2])
            rim = corner + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * size[:2]
            apart = all(((corner > b + 0.1) | (corner + size[:2] < a - 0.1)).any() for a, b in taken)
            if apart and _inside(plan, rim, 0.1).all():
                taken.append((corner, corner + size[:2]))
                low = np.array([*corner, base])
                absorption = np.clip(rng.uniform(0.03, 0.6) * np.exp(rng.normal(0, 0.3, 7)), 0.02, 0.9)
                faces += _box(low, low + size, absorption)
                break
    return faces


def _box(low: np.ndarray, high: np.ndarray, absorption: np.ndarray) -> list[Face]:
    """Six faces of a solid box in the room."""
    faces = []
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        for value, sign in ((low[axis], 1.0), (high[axis], -1.0)):
            corners = np.empty((4, 3))
            corners[:, axis] = value
            corners[:, others[0]] = [low[others[0]], high[others[0]], high[others[0]], low[others[0]]]
            corners[:, others[1]] = [low[others[1]], low[others[1]], high[others[1]], high[others[1]]]
            outwards = np.zeros(3)
            outwards[axis] = sign  # out of the air, into the box
            faces.append(Face(corners, absorption, outwards))
    return faces


def _draw_materials(
    rng: np.random.Generator, walls: list[Face], obstacles: list[Face], volume: float, t60: float, uneven: float
) -> list[Face]:
    """Absorption per wall and band, whose mean over the area is Eyring's for ``t60``."""
    areas = np.array([wall.area for wall in walls])
    mean = eyring_absorption(volume, areas.sum(), t60)
    per_wall = np.exp(rng.normal(0, rng.uniform(0, uneven), (len(walls), 1)))
    per_wall /= np.average(per_wall[:, 0], weights=areas)
    tilt = rng.normal(0, 0.15, (len(walls), 1)) * np.linspace(-3, 3, 7) + rng.normal(0, 0.15, (len(walls), 7))
    absorption = np.clip(mean * per_wall * np.exp(tilt), 0.01, 0.97)
    return [Face(wall.corners, a, wall.outwards) for wall, a in zip(walls, absorption, strict=True)]


def _inside(plan: np.ndarray, points: np.ndarray, margin: float) -> np.ndarray:
    """Which points (N, 2) lie in a plan, at least ``margin`` from its walls."""
    start, end = plan, np.roll(plan, -1, axis=0)
    along, to = end - start, points[:, None] - start
    share = ((to * along).sum(-1) / (along**2).sum(-1)).clip(0, 1)
    distance = np.linalg.norm(to - share[..., None] * along, axis=-1).min(axis=1)
    crosses = (start[:, 1] > points[:, None, 1]) != (end[:, 1] > points[:, None, 1])
    with np.errstate(divide="ignore", invalid="ignore"):
        at = start[:, 0] + (points[:, None, 1] - start[:, 1]) * along[:, 0] / along[:, 1]
    odd = (crosses & (points[:, None, 0] < at)).sum(axis=1) % 2 == 1
    return odd & (distance >= margin)


def _draw_positions(
    rng: np.random.Generator,
    plan: np.ndarray,
    height: float,
    slope: np.ndarray,
    obstacles: list[Face],
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """A receiver and positions in the air, below 2.3 m, 25 cm from walls and 10 cm from obstacles."""
    boxes = [obstacles[i : i + 6] for i in range(0, len(obstacles), 6)]
    solids = [np.concatenate([face.corners for face in box]) for box in boxes]

    def allowed(points: np.ndarray) -> np.ndarray:
        free = _inside(plan, points[:, :2], WALL_DISTANCE)
        free &= points[:, 2] <= _ceiling(points[:, :2], plan, height, slope) - WALL_DISTANCE
        for solid in solids:
            free &= ~((points > solid.min(axis=0) - 0.1) & (points < solid.max(axis=0) + 0.1)).all(axis=1)
        return free

    low, high = np.array([*plan.min(axis=0), WALL_DISTANCE]), np.array([*plan.max(axis=0), 2.3])
    drawn = rng.uniform(low, high, (2000, 3))
    drawn = drawn[allowed(drawn)]
    receiver = drawn[0]
    reach = rng.uniform(2.5, 6) if rng.random() < 0.3 else np.inf
    distance = np.linalg.norm(drawn - receiver, axis=1)
    near = drawn[(distance >= NEAREST) & (distance <= reach)]
    rest = drawn[(distance >= NEAREST) & (distance > reach)]
    return receiver, np.concatenate([near, rest])[:count]
