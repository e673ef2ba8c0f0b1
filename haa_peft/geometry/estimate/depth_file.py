"""Depth panoramas that somebody else made: ``.npy``, 16-bit ``.png``, ``.exr``, each in a convention of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import map_coordinates

from haa_peft.environment import package
from haa_peft.errors import InputError
from haa_peft.geometry.entry import UNITS, check_keys
from haa_peft.geometry.estimate import sight
from haa_peft.geometry.estimate.holes import fill_holes
from haa_peft.geometry.estimate.values import choice, file_of, number
from haa_peft.geometry.panorama import OPEN_SHARE, DepthMap, directions, open_share, pixels_of
from haa_peft.geometry.sources import FILES, Known

KEYS = ("depth", "unit", "distance", "centre_azimuth", "turning", "first_row", "holes")
TURNINGS = ("counterclockwise", "clockwise")
LEAST_HEIGHT = 32
MEDIANS = (0.3, 50.0)
"""Metres; the median depth of a room lies between them."""


def read_depth_map(entry: Mapping[str, Any], folder: Path, known: Known, where: str) -> DepthMap:
    """An equirectangular depth panorama (256, 512) around the receiver, brought to this package's convention.

    Parameters
    ----------
    entry, folder, known, where : as :func:`haa_peft.geometry.estimate.estimate` takes them.

    Notes
    -----
    The entry's keys, and what goes without saying:

    - ``depth``: the file; twice as wide as high, any size.
    - ``unit``: ``m`` for floating point; must be given for whole numbers.
    - ``distance``: ``radial`` along the ray, or ``planar``, along the axis of the cube face that the ray goes through.
    - ``centre_azimuth``: degrees, of the middle of the image; 0, which is +x (90 is +y).
    - ``turning``: ``counterclockwise`` seen from above as columns go from left to right, so that azimuth grows, as in
      xRIR's maps; a camera's panorama turns ``clockwise``.
    - ``first_row``: ``up`` or ``down``.
    - ``holes``: ``refuse`` pixels without a depth, or ``fill`` them.

    Raises
    ------
    InputError
        When the file is of another shape, has no depth somewhere, or contradicts positions and direct sound; the line
        says which other convention would agree, if one does.
    """
    check_keys(entry, KEYS, where)
    path = file_of(entry, "depth", folder, where)
    if path.suffix.lower() not in FILES["depth"]:
        raise InputError(f"{where}: geometry depth is {path.name} but must end in {', '.join(FILES['depth'])}")
    depth, unit, missing = _filled(path, entry, where)
    height, width = depth.shape
    centre = number(entry, "centre_azimuth", -360, 360, 0.0, where) or 0.0
    clockwise = choice(entry, "turning", TURNINGS, TURNINGS[0], where) == TURNINGS[1]
    upside_down = choice(entry, "first_row", ("up", "down"), "up", where) == "down"
    planar = choice(entry, "distance", ("radial", "planar"), "radial", where) == "planar"
    rays = directions()
    depth = at_pixels(depth, *source_pixels(rays, depth.shape, centre, clockwise, upside_down))
    if planar:
        depth = depth / np.abs(rays).max(axis=-1)
    if sight.contradicts(depth, known):
        raise InputError(
            f"{path}: {sight.complaint(depth, known)}; {_remedy(depth, known, centre, clockwise, upside_down)}"
        )
    taken = {"unit": unit, "distance": "radial", "centre_azimuth": 0, "turning": TURNINGS[0], "first_row": "up"}
    stated = ", ".join(f"{key} {entry[key]}" for key in taken if key in entry)
    unstated = ", ".join(f"{key} {value}" for key, value in taken.items() if key not in entry)
    notes = (
        f"convention stated: {stated or 'none'}; taken without being stated: {unstated or 'none'}",
        *((f"resampled from {height} x {width}",) if (height, width) != rays.shape[:2] else ()),
        *sight.sight_notes(depth, known),
    )
    return DepthMap(
        depth.astype(np.float32), f"depth panorama {path.name}", "measured", *sight.box_of(depth, known, rays), notes,
        missing,
    )  # fmt: skip


def _filled(path: Path, entry: Mapping[str, Any], where: str) -> tuple[np.ndarray, str, float]:
    """Depth (height, width) m of a file, its unit, and the share of the directions that were open and are filled."""
    values = _read(path)
    height, width = values.shape
    if width != 2 * height or height < LEAST_HEIGHT:
        turned = "; transpose it" if height == 2 * width else ""
        raise InputError(
            f"{path} is {height} x {width} but a depth panorama is twice as wide as high, at least "
            f"{LEAST_HEIGHT} x {2 * LEAST_HEIGHT}, such as 256 x 512{turned}"
        )
    depth, unit = _in_metres(values, entry, path, where)
    depth = np.where(depth > 0, depth, np.inf)
    missing = open_share(depth)
    if missing > OPEN_SHARE:
        raise InputError(
            f"{path}: has no depth in {missing:.0%} of the directions and at most {OPEN_SHARE:.0%} are filled; "
            "give one that saw more"
        )
    return fill_holes(depth), unit, missing


def other_convention(degrees: int, mirrored: bool, centre: float, clockwise: bool) -> tuple[str, float]:
    """``turning`` and ``centre_azimuth`` that mirror and then turn a panorama read with others.

    Parameters
    ----------
    degrees, mirrored : by how much, and whether.
    centre, clockwise : what it was read with, degrees and whether it turns that way.
    """
    azimuth = ((-centre if mirrored else centre) + degrees + 180) % 360 - 180
    return TURNINGS[int(clockwise != mirrored)], azimuth


def source_pixels(
    rays: np.ndarray, shape: tuple[int, ...], centre_azimuth: float, clockwise: bool, upside_down: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Row and column (...,) of an equirectangular image of another convention that rays pass through.

    Parameters
    ----------
    rays : (..., 3) unit vectors.
    shape : of the image, (height, width, ...).
    centre_azimuth : degrees, of the image's middle.
    clockwise, upside_down : how it turns and stands.
    """
    height, width = shape[:2]
    row, column = pixels_of(rays, height, width)
    offset = (column + 0.5) / width * 360 - 180 - centre_azimuth
    column = ((-offset if clockwise else offset) + 180) / 360 * width - 0.5
    return height - 1 - row if upside_down else row, column


def at_pixels(depth: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Depth (...,) of a map (height, width) at fractional pixels, rows and columns (...,).

    The nearest one where there are more of them than asked for, else between four.

    Between pixels inverse depth is linear, which it is on planes.
    """
    is_finer = depth.shape[0] >= row.shape[0]
    padded = np.pad(np.pad(1 / depth, ((0, 0), (1, 1)), mode="wrap"), ((1, 1), (0, 0)), mode="edge")
    places = [row + 1, column % depth.shape[1] + 1]
    return 1 / map_coordinates(padded, places, order=0 if is_finer else 1, mode="nearest")


def _read(path: Path) -> np.ndarray:
    """Values (height, width) as the file has them."""
    try:
        if path.suffix.lower() == ".npy":
            values = np.load(path, allow_pickle=False)
        elif path.suffix.lower() == ".png":
            image = package("PIL.Image", f"reading {path.name}").open(path)
            if image.mode not in ("I;16", "I;16B", "I;16L", "I"):
                raise InputError(f"{path} is a PNG of mode {image.mode} but must be one channel of 16 bits")
            values = np.asarray(image).astype(np.int64)
        else:
            channels = package("OpenEXR", f"reading {path.name}").File(str(path)).channels()
            name = next((name for name in ("Z", "Y", "R", "V", "RGB", "RGBA") if name in channels), None)
            if name is None:
                raise InputError(f"{path} has the channels {', '.join(channels)} but needs Z, Y or R")
            values = channels[name].pixels
            values = values[..., 0] if values.ndim == 3 else values
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes of its reader
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read as a depth map ({reason or 'it is empty'})") from None
    values = np.squeeze(values)
    if values.ndim != 2 or not (np.issubdtype(values.dtype, np.floating) or np.issubdtype(values.dtype, np.integer)):
        raise InputError(f"{path} is {values.dtype} of {values.shape} but must be (height, width) real numbers")
    return values


def _in_metres(values: np.ndarray, entry: Mapping[str, Any], path: Path, where: str) -> tuple[np.ndarray, str]:
    """Depth in metres, NaN where there is none and that may be filled, and its unit."""
    fills = choice(entry, "holes", ("refuse", "fill"), "refuse", where) == "fill"
    bad = {"negative": values < 0, "zero": values == 0, "NaN or infinite": ~np.isfinite(values)}
    for what, pixels in bad.items():
        if pixels.any() and (what == "negative" or not fills):
            row, column = np.argwhere(pixels)[0]
            todo = (
                "a depth is positive; export it again"
                if what == "negative"
                else 'if nothing was seen there, state "holes": "fill" in geometry and they are filled from around'
            )
            share = pixels.mean()
            raise InputError(
                f"{path}: {pixels.sum()} pixels ({share:.1%}) are {what}, first row {row}, column {column}; {todo}"
            )
    seen = np.isfinite(values) & (values > 0)
    if not seen.any():
        raise InputError(f"{path} has no depth in any pixel; export it again")
    median = float(np.median(values[seen]))
    fitting = [unit for unit, metres in UNITS.items() if MEDIANS[0] <= median * metres <= MEDIANS[1]]
    unit = choice(entry, "unit", list(UNITS), None, where)
    if unit is None and np.issubdtype(values.dtype, np.integer):
        raise InputError(
            f'{path} holds whole numbers, median {median:g}, and their unit is not stated; add "unit": '
            f"one of {', '.join(fitting or UNITS)} to geometry"
        )
    unit = unit or "m"
    depth = np.where(seen, values, np.nan) * UNITS[unit]
    if unit not in fitting:
        fits = f"; in {' or '.join(fitting)} it would be one's: state that as unit" if fitting else ""
        raise InputError(f"{path}: the median depth of {median * UNITS[unit]:g} m ({unit}) is of no room{fits}")
    return depth, unit


def _remedy(depth: np.ndarray, known: Known, centre: float, clockwise: bool, upside_down: bool) -> str:
    """Another convention under which a map hides no position."""
    for degrees, mirrored in sight.agreeing_turns(depth, known):
        wrong = " and ".join((["the sign of azimuth"] if mirrored else []) + (["its zero"] if degrees else []))
        turning, azimuth = other_convention(degrees, mirrored, centre, clockwise)
        return f'with {wrong} changed it would hide none: state "turning": "{turning}", "centre_azimuth": {azimuth:g}'
    if not len(sight.contradicting(depth[::-1], known)):
        return f'upside down it would hide none: state "first_row": "{"up" if upside_down else "down"}"'
    return "check that it was made at the receiver, its unit, and that it is radial"
