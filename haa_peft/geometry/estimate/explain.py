"""What a room's geometry is, where it comes from and how far to trust it: in words, and drawn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from haa_peft.environment import package
from haa_peft.errors import InputError
from haa_peft.files import write_atomically
from haa_peft.geometry.channels import MATERIALS
from haa_peft.geometry.estimate.delays import STRAIGHT, lateness
from haa_peft.geometry.estimate.sight import behind, sight_notes
from haa_peft.geometry.panorama import (
    TRUST,
    DepthMap,
    depth_around,
    directions,
    open_share,
    solid_angles,
    surface_channels,
)
from haa_peft.geometry.sources import Known
from haa_peft.rooms.room import Room


def explain(room: Room) -> list[str]:
    """Lines for people: source, size, nearest and farthest surface, open share, direct sound, evidence, trust."""
    geometry, known = room.geometry, Known.of(room.receiver, room.positions, room.rirs, room.splits["train"])
    depth = depth_around(geometry, room.receiver)
    if isinstance(geometry, DepthMap):
        source, trust, notes = geometry.source, geometry.trust, geometry.notes
        missing, how = geometry.open_share, "continued from around"
    else:
        source, trust, notes = f"{len(geometry)} planes", "stated", sight_notes(depth, known)
        missing, how = open_share(depth), "taken to be as far as the farthest"
    seen = depth[np.isfinite(depth)]
    points = directions()[np.isfinite(depth)] * seen[:, None]
    size = points.max(axis=0) - points.min(axis=0)
    late = np.abs(lateness(known))
    return [
        f"{room.name}: {source}",
        f"what is seen from the receiver {room.receiver.round(2).tolist()} spans "
        f"{' x '.join(f'{x:.2f}' for x in size)} m",
        f"nearest surface {_what(points[seen.argmin()])}, farthest {_what(points[seen.argmax()])}",
        f"nothing seen in {missing:.1%} of the directions" + (f", {how}" if missing else ""),
        f"direct sound of {len(late)} measurements: {(late < STRAIGHT).sum()} come straight, after their distance "
        f"/ 343 m/s (median difference {np.median(late):.2f} m)",
        *notes,
        *_materials(room),
        f"trust: {trust}; {TRUST[trust]}",
    ]


def _materials(room: Room) -> list[str]:
    """Shares of the directions in which surfaces of every class are seen, if classes are known."""
    if room.geometry.materials is None:
        return []
    shown = surface_channels(room.geometry, room.receiver, ["materials"])[-len(MATERIALS) :]
    shares = (shown * solid_angles()).sum(axis=(1, 2))
    named = [f"{name} {share:.1%}" for name, share in zip(MATERIALS, shares, strict=True) if share > 0]
    return [f"materials: {', '.join([*named, f'unknown {max(0.0, 1 - shares.sum()):.1%}'])}"]


def _what(point: np.ndarray) -> str:
    """Distance and direction of a point (3,) m."""
    azimuth, elevation = np.degrees([np.arctan2(point[1], point[0]), np.arctan2(point[2], np.hypot(*point[:2]))])
    return f"{np.linalg.norm(point):.2f} m (azimuth {azimuth:.0f}, elevation {elevation:.0f} degrees)"


def check_drawing(png: Path | None, out: Path | None) -> None:
    """Raise ``InputError`` before any work if what is asked for cannot be written."""
    if png is not None:
        package("matplotlib.figure", "--png")
    if out is not None and out.suffix.lower() != ".npy":
        raise InputError(f"--out is {str(out)!r} but must end in .npy")


def write_depth(room: Room, path: Path) -> None:
    """Write the depth panorama (256, 512) in metres, in the convention that a ``depth`` entry has unless stated."""
    content = io.BytesIO()
    np.save(content, np.linalg.norm(room.panorama[:3], axis=0).astype(np.float32))
    write_atomically(path, content.getvalue())


def draw_depth(room: Room, path: Path) -> None:
    """Draw the depth panorama and where the positions are in it; needs matplotlib."""
    figure_module = package("matplotlib.figure", "--png")
    from matplotlib.colors import LogNorm

    depth = np.linalg.norm(room.panorama[:3], axis=0)
    places = room.positions - room.receiver
    azimuth = np.degrees(np.arctan2(places[:, 1], places[:, 0]))
    elevation = np.degrees(np.arctan2(places[:, 2], np.hypot(places[:, 0], places[:, 1])))
    hidden = behind(depth, places) > 0
    figure = figure_module.Figure(figsize=(10, 5.2), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(depth, extent=(-180, 180, -90, 90), cmap="viridis", norm=LogNorm(), interpolation="nearest")
    for which, style, label in ((~hidden, "ow", "position"), (hidden, "Xr", "position behind a surface")):
        if which.any():
            axis.plot(azimuth[which], elevation[which], style, markersize=5, markeredgecolor="black", label=label)
    axis.set(xlabel="azimuth (degrees; 0 is +x, 90 is +y)", ylabel="elevation (degrees)",
             xticks=range(-180, 181, 45), yticks=range(-90, 91, 45), title=explain(room)[0])  # fmt: skip
    axis.legend(loc="lower right", fontsize="small")
    bar = figure.colorbar(image, label="depth (m)", ticks=np.geomspace(depth.min(), depth.max(), 6), format="%.1f")
    bar.minorticks_off()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    write_atomically(path, content.getvalue())
