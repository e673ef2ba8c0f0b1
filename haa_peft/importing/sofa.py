"""SOFA files (AES69): impulse responses of rooms, whatever the convention calls them."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.environment import package
from haa_peft.errors import InputError
from haa_peft.importing.measured import ANGLES, Measurements, check_size, from_angles, unit

FREE_FIELD = ("SimpleFreeFieldHRIR", "FreeFieldHRIR", "SimpleFreeFieldHRTF")


def read_sofa(path: Path, *, clockwise: bool = False) -> Measurements:
    """Every pair of emitter and receiver of a SOFA file, in the file's coordinates.

    Positions of receivers and emitters are turned by the view of listener and source, whose local coordinates they are
    in, and ``Data.Delay`` is put back. With ``clockwise``, azimuths of sources count the other way round.

    Raises
    ------
    InputError
        When the file is damaged, holds no impulse responses or too many, or a position has another unit or shape.
    """
    sofa, said = _open(path)
    convention = f"{sofa.GLOBAL_SOFAConventions} {sofa.GLOBAL_SOFAConventionsVersion}"
    rirs, delays = _responses(sofa, path)
    count, channels, emitters, length = rirs.shape
    listener, turned = _ends(sofa, "Listener", "Receiver", count, channels, path)
    angular = any(
        _attribute(sofa, f"{name}_Type") == "spherical" and np.any(getattr(sofa, name, 0.0))
        for name in ("SourcePosition", "EmitterPosition")
    )
    if clockwise and not angular:
        raise InputError(f"{path}: --clockwise goes with azimuths, and its sources have none")
    source, _ = _ends(sofa, "Source", "Emitter", count, emitters, path, clockwise=clockwise)
    said.append(f"{convention}: {count} measurements x {channels} receivers x {emitters} emitters, {length} samples")
    said += [_varying(sofa, count)]
    said += _harmonics(sofa)
    comment = " ".join(str(getattr(sofa, "GLOBAL_Comment", "") or "").split())
    said += [f"its comment: {comment:.300}"] if comment else []
    if not np.isfinite(listener).all() or not np.isfinite(source).all():
        raise InputError(f"{path}: a position holds NaN or infinity; mend the file or take these measurements out")
    rate = np.unique(np.asarray(sofa.Data_SamplingRate, dtype=float))
    if len(rate) != 1 or rate[0] != int(rate[0]):
        raise InputError(f"{path}: Data.SamplingRate is {rate.tolist()[:3]} but must be one whole number of Hz")
    spread = (count, channels, emitters)
    pairs = rirs.reshape(-1, length)
    return Measurements(
        rirs=_delayed(pairs, np.broadcast_to(delays, spread).ravel()),
        rate=int(rate[0]),
        sources=np.broadcast_to(source[:, None], (*spread, 3)).reshape(-1, 3),
        receivers=np.broadcast_to(listener[:, :, None], (*spread, 3)).reshape(-1, 3),
        channels=np.broadcast_to(np.arange(channels)[:, None], spread).ravel(),
        said=tuple(said),
        origin=f"{path.name}, {convention}" + _named(sofa, "GLOBAL_Organization"),
        licence=str(getattr(sofa, "GLOBAL_License", "") or "unknown"),
        corners=_corners(sofa, path),
        views=None if turned is None else np.broadcast_to(turned[:, None, None], spread).ravel(),
        angular=angular,
    )


def _open(path: Path) -> tuple[Any, list[str]]:
    """The file as sofar reads it, of the newest version of its convention, and what is to be said of it."""
    sofar = package("sofar", "a SOFA file", "import")
    said: list[str] = []
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with sofar.SofaStream(str(path)) as stream:
                if not hasattr(stream, "Data_IR"):
                    kind, name = getattr(stream, "GLOBAL_DataType", "?"), stream.GLOBAL_SOFAConventions
                    what = "has no Data.IR" if kind.startswith("FIR") else f"holds {kind} data"
                    raise InputError(f"{path}: {what} ({name}) but must hold impulse responses (FIR, FIR-E)")
                check_size(stream.Data_IR.shape, path)
                for name in ("SourcePosition", "ListenerPosition"):  # sofar puts in made-up ones
                    if not hasattr(stream, name):
                        raise InputError(f"{path}: has no {name}, so nobody knows where it was measured; mend the file")
            sofa, older = _newest(sofar, path)
            said += older
            problems = _violations(sofa)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes of netCDF4 and sofar
        text = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as a SOFA file ({text or type(error).__name__:.120})") from None
    said += [f"breaks its convention: {problem}" for problem in problems]
    if sofa.GLOBAL_SOFAConventions in FREE_FIELD:
        kind = getattr(sofa, "GLOBAL_RoomType", "unknown")
        said.append(f"labelled {sofa.GLOBAL_SOFAConventions}, for heads in a free field (RoomType {kind}); "
                    "taken for a room")  # fmt: skip
    return sofa, said


def _newest(sofar: Any, path: Path) -> tuple[Any, list[str]]:
    """The file by the newest version of its convention, where sofar can make it one, and what is to be said."""
    sofa = sofar.read_sofa(str(path), verify=False, verbose=False)
    before, newer = f"{sofa.GLOBAL_SOFAConventions} {sofa.GLOBAL_SOFAConventionsVersion}", sofa.upgrade_convention()
    if not newer:
        return sofa, []
    try:
        sofa.upgrade_convention(target=newer[-1])
        return sofa, [f"{before} is old and was read as {newer[-1].replace('_', ' ')}"]
    except ValueError:  # it lacks what the newer version demands
        again = sofar.read_sofa(str(path), verify=False, verbose=False)
        return again, [f"{before} is old and was read as it is, since it is no whole {newer[-1].replace('_', ' ')}"]


def _violations(sofa: Any) -> list[str]:
    """What sofar finds wrong, at most three lines."""
    text = sofa.verify(issue_handling="return", mode="read") or ""
    return [line[2:].strip() for line in str(text).splitlines() if line.startswith("- ")][:3]


def _named(sofa: Any, key: str) -> str:
    value = str(getattr(sofa, key, "") or "")
    return f", {value}" if value else ""


def _attribute(sofa: Any, name: str) -> str:
    return str(getattr(sofa, name, "")).lower()


def _responses(sofa: Any, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Impulse responses (M, R, E, N) and their delays in samples, which broadcast to (M, R, E)."""
    data = np.asarray(np.ma.filled(sofa.Data_IR, np.nan), dtype=np.float64)
    kind = str(getattr(sofa, "GLOBAL_DataType", ""))
    dimensions = 3 if kind == "FIR" else 4
    if kind not in ("FIR", "FIR-E", "FIRE") or data.ndim > dimensions or data.size == 0:
        raise InputError(f"{path}: Data.IR of {kind} has shape {data.shape} but must be of FIR or FIR-E")
    data = data.reshape(*data.shape, *[1] * (dimensions - data.ndim))
    data = data[:, :, None] if dimensions == 3 else (data if kind == "FIRE" else np.moveaxis(data, -1, 2))
    delay = np.asarray(np.ma.filled(getattr(sofa, "Data_Delay", 0.0), 0.0), dtype=np.float64)
    delay = delay.reshape(*delay.shape, *[1] * (3 - delay.ndim)) if delay.ndim < 3 else delay
    for have, want in zip(delay.shape, data.shape[:3], strict=True):
        if have not in (1, want):
            raise InputError(f"{path}: Data.Delay has shape {delay.shape}, which does not fit Data.IR")
    if not np.isfinite(delay).all():
        raise InputError(f"{path}: Data.Delay holds NaN or infinity; mend the file")
    return data, delay


def _delayed(rirs: np.ndarray, delays: np.ndarray) -> np.ndarray:
    """RIRs (P, T) later by delays (P,) in samples, which may be fractions."""
    if not delays.any():
        return rirs
    from haa_peft.importing.repair import shifted

    return shifted(rirs, delays)


def _ends(
    sofa: Any, whole: str, part: str, count: int, parts: int, path: Path, *, clockwise: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions (M, parts, 3) m of receivers or emitters in the file's coordinates.

    And the azimuth (M,) that their bearer looks at, where it turns and stays in one place.
    """
    place = _points(sofa, f"{whole}Position", path, (count,), clockwise=clockwise)
    assert place is not None  # _open has looked
    own = _points(sofa, f"{part}Position", path, (parts, count), clockwise=clockwise)
    own = np.zeros((1, 1, 3)) if own is None else own
    view = _points(sofa, f"{whole}View", path, (count,), directions=True)
    up = _points(sofa, f"{whole}Up", path, (count,), directions=True)
    if view is None or not np.linalg.norm(view, axis=1).all():
        view, up = np.array([[1.0, 0, 0]]), np.array([[0.0, 0, 1]])
    up = np.array([[0.0, 0, 1]]) if up is None else up
    view = view / np.linalg.norm(view, axis=1, keepdims=True)
    up, view = np.broadcast_arrays(up, view)
    aside = np.cross(up, view)
    length = np.linalg.norm(aside, axis=1, keepdims=True)
    if (length < 1e-6).any():
        raise InputError(f"{path}: {whole}View and {whole}Up point the same way, so nobody knows how it is turned")
    aside = aside / length
    frame = np.stack([view, aside, np.cross(view, aside)], axis=1)
    moved = np.einsum("rmc,mcd->mrd", *_same_count(own, frame))
    turns = len(np.unique(view.round(6), axis=0)) > 1 and len(np.unique(place.round(3), axis=0)) == 1
    azimuth = np.degrees(np.arctan2(view[:, 1], view[:, 0])) % 360 if turns else None
    return np.broadcast_to(place[:, None] + moved, (count, parts, 3)), azimuth


def _same_count(own: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Local positions (parts, M, 3) and frames (M, 3, 3) with the same M."""
    count = max(own.shape[1], len(frame))
    return np.broadcast_to(own, (len(own), count, 3)), np.broadcast_to(frame, (count, 3, 3))


def _points(
    sofa: Any, name: str, path: Path, sizes: tuple[int, ...], *, directions: bool = False, clockwise: bool = False
) -> np.ndarray | None:
    """A position variable as (1 or M, 3) or (parts, 1 or M, 3) m; None where the file has none."""
    value = getattr(sofa, name, None)
    if value is None:
        return None
    points = np.asarray(np.ma.filled(value, np.nan), dtype=np.float64)
    if len(sizes) == 2:  # (parts, C, M), of which sofar drops what is 1 at the end
        points = points.reshape(*points.shape, *[1] * (3 - points.ndim)).swapaxes(1, 2) if points.ndim > 1 else points
        points = points.reshape(1, 1, -1) if points.ndim == 1 else points
    points = points.reshape(1, -1) if points.ndim == 1 else points
    fits = all(have in (1, want) for have, want in zip(points.shape, sizes, strict=False))
    if points.ndim != len(sizes) + 1 or points.shape[-1] != 3 or not fits:
        raise InputError(f"{path}: {name} has shape {points.shape}, which does not fit {' x '.join(map(str, sizes))}")
    attributes = name.replace("Up", "View")
    kind = _attribute(sofa, f"{attributes}_Type") or "cartesian"
    units = [part.strip() for part in (_attribute(sofa, f"{attributes}_Units") or "metre").split(",")]
    if name.endswith("Up"):
        kind = "cartesian"
    if kind == "spherical harmonics":
        return np.zeros((1, 1, 3))
    if kind == "spherical":
        angle, length = ANGLES.get(units[0], 0.0), 1.0 if directions else unit(units[-1], f"{path}: {name}")
        if not angle or len(units) != 3:
            raise InputError(f"{path}: {name} has units {', '.join(units)!r} but must have degree, degree, metre")
        sign = -1 if clockwise else 1
        return from_angles(points[..., 0] * angle * sign, points[..., 1] * angle, points[..., 2] * length)
    if kind != "cartesian":
        raise InputError(f"{path}: {name} is {kind!r} but must be cartesian or spherical")
    return points if directions else points * unit(units[0], f"{path}: {name}")


def _varying(sofa: Any, count: int) -> str:
    """Which positions and views vary from measurement to measurement."""
    varying = []
    for name in ("SourcePosition", "SourceView", "ListenerPosition", "ListenerView"):
        value = np.asarray(getattr(sofa, name, 0.0), dtype=float)
        if value.ndim == 2 and len(np.unique(value.round(6), axis=0)) > 1:
            varying.append(name)
    return (
        f"of measurement to measurement {' and '.join(varying) or 'nothing'} varies" if count > 1 else "1 measurement"
    )


def _harmonics(sofa: Any) -> list[str]:
    named = [part for part in ("Receiver", "Emitter") if "harmonics" in _attribute(sofa, f"{part}Position_Type")]
    return [f"{part}s are spherical harmonics; channel 1 is the omnidirectional one" for part in named]


def _corners(sofa: Any, path: Path) -> np.ndarray | None:
    """Two opposite corners (2, 3) m of a shoebox, if the file states one."""
    if _attribute(sofa, "GLOBAL_RoomType") != "shoebox":
        return None
    if getattr(sofa, "RoomCornerA", None) is None or getattr(sofa, "RoomCornerB", None) is None:
        return None
    for corner in ("A", "B"):
        for what in ("Type", "Units"):
            setattr_missing(sofa, f"RoomCorner{corner}_{what}", _attribute(sofa, f"RoomCorners_{what}"))
    found = [_points(sofa, f"RoomCorner{corner}", path, (1,)) for corner in ("A", "B")]
    corners = np.concatenate([point[:1] for point in found if point is not None])
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def setattr_missing(sofa: Any, name: str, value: str) -> None:
    """Say of one variable what the file says of all that belong together."""
    if not hasattr(sofa, name):
        sofa.__dict__[name] = value
