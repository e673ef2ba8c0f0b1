"""Meshes and scans of a room: placed in the room's coordinates, and seen from its receiver by ray casting."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.environment import package
from haa_peft.errors import InputError
from haa_peft.geometry.channels import MATERIALS, UNKNOWN, material_number
from haa_peft.geometry.entry import UNITS, check_keys, point
from haa_peft.geometry.estimate import sight
from haa_peft.geometry.estimate.holes import fill_holes
from haa_peft.geometry.estimate.values import choice, file_of, number
from haa_peft.geometry.panorama import OPEN_SHARE, DepthMap, directions, facing, open_share
from haa_peft.geometry.sources import FILES, Known

KEYS = ("mesh", "unit", "up", "turn", "receiver", "materials")
STATED_BY_FORMAT = {".glb": ("m", "y"), ".gltf": ("m", "y")}
"""Unit and up axis that glTF 2.0 prescribes (section 3.4)."""
UPS = {
    "x": [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
    "y": [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
    "z": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "-x": [[0, 0, 1], [0, 1, 0], [-1, 0, 0]],
    "-y": [[1, 0, 0], [0, 0, 1], [0, -1, 0]],
    "-z": [[1, 0, 0], [0, -1, 0], [0, 0, -1]],
}
"""Rotations that turn an axis up."""
DETECTED_UPS = ("z", "y")
"""Others must be stated."""
EXTENTS, HEIGHTS = (1.0, 100.0), (1.8, 15.0)
"""Metres, of a room's plan and height; a unit that gives others is wrong."""
QUARTERS = (0, 90, 180, -90)
"""Degrees; turns that are tried when a mesh does not fit as stated."""


@dataclass(frozen=True)
class Placement:
    """How a mesh is read: its unit, the axis that is up, degrees that it is turned about the vertical, and its origin.

    ``origin`` in the mesh's coordinates comes to lie at ``shift`` in the room's.
    """

    unit: str
    up: str
    turn: float
    origin: np.ndarray
    shift: np.ndarray

    def __str__(self) -> str:
        return f"in {self.unit} with {self.up} up" + (f" and turn {self.turn:g}" if self.turn else "")

    @property
    def rotation(self) -> np.ndarray:
        """Of the mesh into the room, (3, 3)."""
        cosine, sine = np.cos(np.radians(self.turn)), np.sin(np.radians(self.turn))
        return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ np.array(UPS[self.up])

    def to_room(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) of the mesh in room coordinates."""
        return UNITS[self.unit] * (points - self.origin) @ self.rotation.T + self.shift

    def departures(self, other: Placement) -> int:
        """In how many of unit, axis and turn it is another one."""
        return (self.unit != other.unit) + (self.up != other.up) + (self.turn != other.turn)


class Mesh:
    """Triangles in the file's own unit and axes, and rays through them."""

    def __init__(self, path: Path) -> None:
        trimesh = package("trimesh", f"reading {path.name}")
        package("embreex", f"reading {path.name}")
        try:
            scene = trimesh.load_scene(path, process=False)
            parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh)]
            mesh = trimesh.util.concatenate(parts)
        except Exception as error:  # whatever a damaged file makes of its reader
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{path}: cannot be read as a mesh ({reason or 'it is empty'})") from None
        if not len(mesh.faces):
            points = sum(len(getattr(each, "vertices", ())) for each in scene.geometry.values())
            raise InputError(f"{path}: holds {points} points and no triangles; make a mesh of them (Poisson) first")
        self.vertices = np.asarray(mesh.vertices, dtype=np.float64)
        if not np.isfinite(self.vertices).all():
            raise InputError(f"{path}: has vertices that are NaN or infinite; export it again")
        self.triangles = self.vertices[np.asarray(mesh.faces)]
        used = self.triangles.reshape(-1, 3)
        self.low, self.high = used.min(axis=0), used.max(axis=0)
        self.materials = [str(getattr(getattr(part.visual, "material", None), "name", None) or "") for part in parts]
        self._parts = np.repeat(np.arange(len(parts)), [len(part.faces) for part in parts])
        self._rays = trimesh.ray.ray_pyembree.RayMeshIntersector(mesh)

    def depth(self, placement: Placement, receiver: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """Metres (...) from the receiver (3,) along rays (..., 3), in room coordinates; inf where nothing is hit."""
        return self.look(placement, receiver, rays)[0]

    def look(
        self, placement: Placement, receiver: np.ndarray, rays: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What rays (..., 3) from the receiver hit, in room coordinates.

        Distances (...,) in metres, inf where nothing is hit; unit normals (..., 3) towards the receiver, zero there;
        places (...,) in :attr:`materials`, -1 there.
        """
        unit = UNITS[placement.unit]
        ways = rays.reshape(-1, 3) @ placement.rotation
        start = (receiver - placement.shift) @ placement.rotation / unit + placement.origin
        hit = self._rays.intersects_first(np.broadcast_to(start, ways.shape), ways)
        # Embree says which triangle; where its plane is, we know better than single precision
        corner, second, third = np.moveaxis(self.triangles[hit], 1, 0)
        normal = np.cross(second - corner, third - corner)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = ((corner - start) * normal).sum(axis=1) / (ways * normal).sum(axis=1)
        found = (hit >= 0) & np.isfinite(distance) & (distance > 0)
        normal = normal @ placement.rotation.T / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-300)
        normal = np.where(found[:, None], facing(normal, rays.reshape(-1, 3)), 0)
        return (
            np.where(found, distance * unit, np.inf).reshape(rays.shape[:-1]),
            normal.reshape(rays.shape),
            np.where(found, self._parts[hit], -1).reshape(rays.shape[:-1]),
        )

    def classes(self, mapping: object, where: str) -> np.ndarray | None:
        """Numbers (M,) of the classes of :attr:`materials`, as a mapping says or as they are called; None without any.

        Raises ``InputError``, which begins with ``where``, for names that are not in the file or are no class.
        """
        if not isinstance(mapping, Mapping):
            raise InputError(f"{where}: geometry materials is {mapping!r:.60} but must be {{NAME IN FILE: CLASS}}")
        absent = sorted(set(mapping) - set(self.materials))
        if absent:
            names = ", ".join(sorted(set(self.materials) - {""})) or "none (an .obj has them in an .mtl beside it)"
            raise InputError(f"{where}: geometry materials has {absent[0]!r}, but those in the file are {names}")
        known = {name: number for number, name in enumerate(MATERIALS)}
        for name, given in mapping.items():
            known[name] = material_number(given, f"{where}: geometry materials {name!r}")
        found = [known.get(name, known.get(name.lower(), UNKNOWN)) for name in self.materials]
        return np.array(found) if set(found) != {UNKNOWN} else None

    def bounds(self, placement: Placement) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner (3,) of the box around it, in room coordinates."""
        corners = np.array(list(itertools.product(*zip(self.low, self.high, strict=True))))
        if np.allclose(np.abs(placement.rotation) % 1, 0):  # along the axes: the corners say it
            placed = placement.to_room(corners)
        else:
            placed = placement.to_room(self.triangles.reshape(-1, 3))
        return placed.min(axis=0), placed.max(axis=0)


def read_mesh(entry: Mapping[str, Any], folder: Path, known: Known, where: str) -> DepthMap:
    """The depth panorama (256, 512) of a mesh at the receiver.

    Parameters
    ----------
    entry, folder, known, where : as :func:`haa_peft.geometry.estimate.estimate` takes them.

    Notes
    -----
    The entry's keys: ``mesh``, the file; ``unit`` (mm, cm, m, in, ft) and ``up`` (x, y, z, -x, -y, -z), which are
    detected where they are not stated and one reading alone fits receiver, positions and direct sound; ``turn``,
    degrees about the vertical, counterclockwise seen from above; ``receiver``, the receiver in the mesh's own
    coordinates, for a mesh whose origin is not the room's; ``materials``, classes of materials by their names in the
    file, for those that are not called as their class.

    Raises
    ------
    InputError
        When no reading fits, or several do; the line says why not, and what would.
    """
    check_keys(entry, KEYS, where)
    path = file_of(entry, "mesh", folder, where)
    if path.suffix.lower() not in FILES["mesh"]:
        raise InputError(f"{where}: geometry mesh is {path.name} but must end in {', '.join(FILES['mesh'])}")
    by_format = STATED_BY_FORMAT.get(path.suffix.lower(), (None, None))
    unit = choice(entry, "unit", list(UNITS), by_format[0], where)
    up = choice(entry, "up", list(UPS), by_format[1], where)
    turn = number(entry, "turn", -360, 360, 0.0, where) or 0.0
    at = point(entry["receiver"], where, "geometry receiver") if "receiver" in entry else None

    nowhere = np.zeros(3)
    origin, shift = (nowhere, nowhere) if at is None else (at, known.receiver)
    readings = [
        Placement(one, axis, turn, origin, shift)
        for one in ([unit] if unit else UNITS)
        for axis in ([up] if up else DETECTED_UPS)
    ]
    mesh = Mesh(path)
    classes = mesh.classes(entry.get("materials", {}), where)
    placement, evidence = _choose(mesh, path, readings, known)
    rays = directions()
    depth, normals, part = mesh.look(placement, known.receiver, rays)
    materials = None if classes is None else np.where(part < 0, UNKNOWN, classes[part]).astype(np.int8)
    missing = open_share(depth)
    depth = fill_holes(depth)
    said = [
        f"{key} {value} " + ("stated" if key in entry else f"as {path.suffix} prescribes" if given else "detected")
        for key, value, given in (("unit", placement.unit, unit), ("up", placement.up, up))
    ]
    low, high = mesh.bounds(placement)
    notes = (
        ", ".join(said) + (f": {evidence}" if evidence else ""),
        f"spans {' x '.join(f'{x:.2f}' for x in high - low)} m",
        *sight.sight_notes(depth, known),
    )
    return DepthMap(
        depth.astype(np.float32), f"mesh {path.name} of {len(mesh.triangles)} triangles", "measured",
        low - sight.MARGIN, high + sight.MARGIN, notes, missing, normals.astype(np.float16), materials,
    )  # fmt: skip


def _choose(mesh: Mesh, path: Path, readings: Sequence[Placement], known: Known) -> tuple[Placement, str]:
    """The one reading that fits, and what speaks for it."""
    misfits = [_misfit(mesh, placement, known) for placement in readings]
    fitting = [placement for placement, misfit in zip(readings, misfits, strict=True) if misfit is None]
    if len(fitting) > 1:
        raise InputError(
            f"{path}: could be read {' or '.join(str(each) for each in fitting)}, each time a room around receiver "
            'and positions; state "unit" and "up" in geometry'
        )
    is_stated = len(readings) == 1
    if fitting:
        return fitting[0], "" if is_stated else f"no other of {len(readings)} readings is a room around the positions"
    # the one that came farthest tells most
    failed = [(misfit, each) for misfit, each in zip(misfits, readings, strict=True) if misfit is not None]
    (stage, reason), closest = max(failed, key=lambda one: one[0][0])
    others = _others_that_fit(mesh, closest, known)
    remedy = f"{' or '.join(str(each) for each in others)} it would fit: state that in geometry"
    if not others:
        remedy = REMEDIES[stage]
    read = f"read {closest}" if is_stated else f"none of {len(readings)} readings fits; {closest}"
    raise InputError(f"{path}: {read} {reason}; {remedy}")


def _others_that_fit(mesh: Mesh, stated: Placement, known: Known) -> list[Placement]:
    """Readings that fit where that which was stated does not: those that depart from it least."""
    others = [
        dataclasses.replace(stated, unit=unit, up=up, turn=stated.turn + turn)
        for unit, up, turn in itertools.product(UNITS, UPS, QUARTERS)
    ]
    for count in (1, 2, 3):
        near = [each for each in others if each.departures(stated) == count]
        fitting = [each for each in near if _misfit(mesh, each, known) is None]
        if fitting:
            return fitting
    return []


REMEDIES = (
    'state "unit" and "up" in geometry, or export the room alone',
    'give the receiver in the mesh\'s own coordinates as "receiver" in geometry if its origin is another, and "turn"',
    'give "receiver" or "turn" in geometry if the mesh\'s origin or axes are not the room\'s, or mend the positions',
    "close it: scan the rest, or fill it in a mesh editor",
    'state "turn" in geometry if its axes are not the room\'s, "receiver" if its origin is another, or mirror it',
)
"""For each stage of :func:`_misfit`."""


def _misfit(mesh: Mesh, placement: Placement, known: Known) -> tuple[int, str] | None:
    """Why a mesh cannot lie so, and how far it came (0 to 4); None if it can."""
    low, high = mesh.bounds(placement)
    x, y, z = high - low
    span = f"{low.round(2).tolist()} to {high.round(2).tolist()} m"
    if not (EXTENTS[0] <= min(x, y) and max(x, y) <= EXTENTS[1] and HEIGHTS[0] <= z <= HEIGHTS[1]):
        return 0, f"it spans {x:.4g} x {y:.4g} x {z:.4g} m, which is no room"
    low, high = low - sight.MARGIN, high + sight.MARGIN
    if (known.receiver < low).any() or (known.receiver > high).any():
        return 1, f"the receiver {known.receiver.round(2).tolist()} lies outside it, as it spans {span}"
    outside = np.flatnonzero(((known.positions < low) | (known.positions > high)).any(axis=1))
    if len(outside):
        place = known.positions[outside[0]].round(2).tolist()
        return 2, f"position {outside[0]}, {place}, lies outside it, as it spans {span}"
    depth = mesh.depth(placement, known.receiver, directions())
    missing = open_share(depth)
    if missing > OPEN_SHARE:
        return 3, (
            f"it is open: from the receiver no surface is seen in {missing:.0%} of the directions, "
            f"and at most {OPEN_SHARE:.0%} are filled"
        )
    if sight.contradicts(depth, known):
        is_mirrored = any(mirrored for _, mirrored in sight.agreeing_turns(depth, known))
        mirror = ", and its mirror image would not, so it may come from a left-handed program" if is_mirrored else ""
        return 4, f"hides what is heard: {sight.complaint(depth, known)}{mirror}"
    return None
