"""A photographed panorama through a network that estimates depth, its scale fitted to what is known in metres.

Networks for depth are trained on perspective pictures; an equirectangular one, whose poles are smeared, is unlike all
of them. It is therefore cut into six views that overlap. Most networks give inverse depth up to a scale and a shift,
which differ between pictures; :mod:`haa_peft.geometry.estimate.scales` fits them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from haa_peft.environment import broken_torchaudio_hidden, loading, package
from haa_peft.errors import InputError
from haa_peft.geometry.entry import check_keys
from haa_peft.geometry.estimate import sight
from haa_peft.geometry.estimate.delays import straight
from haa_peft.geometry.estimate.depth_file import TURNINGS, other_convention
from haa_peft.geometry.estimate.scales import Heights, fit_depth
from haa_peft.geometry.estimate.values import choice, file_of, number
from haa_peft.geometry.estimate.views import cut_views
from haa_peft.geometry.panorama import DepthMap, directions
from haa_peft.geometry.sources import Known

KEYS = ("rgb", "model", "output", "centre_azimuth", "turning", "height", "room_height")
OUTPUTS = {"dpt": "inverse", "zoedepth": "depth", "glpn": "depth", "depth_pro": "depth"}
"""What networks of transformers give, by ``model_type``; Depth Anything says it in its configuration."""
SLACK = 1.3
"""What is estimated may be nearer than what is there by this factor before positions behind it contradict it."""
WIDEST = 2048
"""Pixels across; wider pictures are reduced before they are cut."""


def read_photo(entry: Mapping[str, Any], folder: Path, known: Known, where: str) -> DepthMap:
    """A depth panorama (256, 512) estimated from a photographed one.

    Parameters
    ----------
    entry, folder, known, where : as :func:`haa_peft.geometry.estimate.estimate` takes them.

    Notes
    -----
    The entry's keys, and what goes without saying:

    - ``rgb``: an equirectangular picture taken at the receiver. ``centre_azimuth``: degrees, of its middle; 0 (+x).
      ``turning``: from left to right, ``clockwise`` seen from above, as a camera sees.
    - ``model``: a folder, or a name on the Hub, of a depth-estimation model of ``transformers``. ``output``: whether
      it gives ``depth`` or ``inverse`` depth; known for the usual ones.
    - ``height``: metres from the receiver down to the floor, or to the table that fills most of what is below it; its
      z, which puts the floor at 0. The scale stands and falls with it.
    - ``room_height``: metres, if known.

    Raises
    ------
    InputError
        When picture or model cannot be read, there is no scale, or the result contradicts positions and direct sound.
    """
    given = _stated(entry, folder, known, where)
    taken = given.path.stat()
    stamp = (taken.st_mtime_ns, taken.st_size)
    images, output = _estimate(given.path, stamp, given.model, given.output, given.centre, given.clockwise, where)
    heights = Heights(given.height, given.room_height)
    depth, floor_error = fit_depth(images, output == "depth", heights, known)
    _check_agrees(depth, known, given)
    floor = "" if "height" in entry else " (its z: a floor at 0 that no table hides)"
    ceiling = "" if given.room_height is None else f", the room's height of {given.room_height:g} m"
    notes = (
        "cut into six views of 110 degrees, since depth models are trained on perspective pictures; the model gives "
        + ("depth" if output == "depth" else "inverse depth"),
        f"scale fitted to the receiver's height of {given.height:.3g} m above what is below{floor}{ceiling}, with "
        f"which it stands and falls, and {len(straight(known))} positions heard straight; what is below comes out "
        f"within {floor_error:.0%} (median)",
        f"convention: turning {TURNINGS[int(given.clockwise)]}, centre_azimuth {given.centre:g}",
        *sight.sight_notes(depth, known),
    )
    low, high = sight.box_of(depth, known, directions())
    widened = 0.25 * (high - low)
    source = f"photograph {given.path.name} through {given.model_name}"
    return DepthMap(depth.astype(np.float32), source, "estimated", low - widened, high + widened, notes)


class Stated(NamedTuple):
    """What an entry says; see :func:`read_photo`."""

    path: Path
    model: str
    output: str | None
    centre: float
    clockwise: bool
    height: float
    room_height: float | None

    @property
    def model_name(self) -> str:
        """Of a folder its last part."""
        return Path(self.model).name if Path(self.model).is_dir() else self.model


def _stated(entry: Mapping[str, Any], folder: Path, known: Known, where: str) -> Stated:
    check_keys(entry, KEYS, where)
    path = file_of(entry, "rgb", folder, where)
    name = entry.get("model")
    if not isinstance(name, str) or not name:
        raise InputError(
            f'{where}: geometry rgb needs a model that estimates depth; give a folder or a name on the Hub as "model"'
        )
    centre = number(entry, "centre_azimuth", -360, 360, 0.0, where) or 0.0
    clockwise = choice(entry, "turning", TURNINGS, TURNINGS[1], where) == TURNINGS[1]
    height = number(entry, "height", -1e4, 1e4, float(known.receiver[2]), where) or 0.0
    room_height = number(entry, "room_height", 1.8, 100, None, where)
    if not 0.05 <= height <= (100 if room_height is None else room_height - 0.05):
        raise InputError(
            f"{where}: the receiver would be {height:g} m above what is below, which gives no scale; "
            'state that "height" in metres in geometry'
        )
    local = folder / name
    output = choice(entry, "output", ("inverse", "depth"), None, where)
    return Stated(path, str(local) if local.is_dir() else name, output, centre, clockwise, height, room_height)


def _check_agrees(depth: np.ndarray, known: Known, given: Stated) -> None:
    """Raise ``InputError`` if positions are heard through what was estimated."""
    if not sight.contradicts(SLACK * depth, known):
        return
    remedy = "check that it was taken at the receiver, its centre_azimuth and height, or try another model"
    for degrees, mirrored in sight.agreeing_turns(SLACK * depth, known)[:1]:
        turning, azimuth = other_convention(degrees, mirrored, given.centre, given.clockwise)
        remedy = f'it would agree with "turning": "{turning}", "centre_azimuth": {azimuth:g}'
    raise InputError(f"{given.path}: {sight.complaint(SLACK * depth, known)}, with {SLACK - 1:.0%} forgiven; {remedy}")


@lru_cache(maxsize=8)
def _estimate(
    path: Path, stamp: object, model: str, output: str | None, centre: float, clockwise: bool, where: str
) -> tuple[np.ndarray, str]:
    """What a model gives for the six views (6, h, w), and what it is.

    It is kept, since the scale is fitted anew where measurements are left out.
    """
    views = cut_views(_read_picture(path), centre, clockwise)
    estimate, kind = load_network(model, {} if output is None else {"output": output}, where)
    return estimate(views), kind


def load_network(name: str, entry: Mapping[str, Any], where: str) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """What estimates depth for views (6, h, w, 3) uint8, giving (6, h, w), and whether it is ``depth`` or ``inverse``.

    Raises
    ------
    InputError
        When the model cannot be loaded, or it is not known what it gives.
    """
    package("PIL.Image", "geometry from a photograph")
    from PIL import Image

    with loading(), broken_torchaudio_hidden():
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation, pipeline

    try:
        model = AutoModelForDepthEstimation.from_pretrained(name).eval()
        processor = AutoImageProcessor.from_pretrained(name)
    except Exception as error:  # of many kinds: no such folder, no network, another task's model, a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{where}: geometry model {name!r} cannot be loaded for depth estimation ({reason})") from None
    kind = model.config.model_type
    default = OUTPUTS.get(kind)
    if kind == "depth_anything":
        default = "depth" if model.config.depth_estimation_type == "metric" else "inverse"
    output = choice(entry, "output", ("inverse", "depth"), default, where)
    if output is None:
        raise InputError(
            f"{where}: whether a {kind} model gives depth or inverse depth is not known here; "
            'state "output": "depth" or "inverse" in geometry'
        )
    run = pipeline("depth-estimation", model=model, image_processor=processor, device="cpu")

    def estimate(views: np.ndarray) -> np.ndarray:
        found = [run(Image.fromarray(view))["predicted_depth"] for view in views]
        return np.array([image.squeeze().double().numpy() for image in found])

    return estimate, output


def _read_picture(path: Path) -> np.ndarray:
    """An equirectangular picture (height, width, 3) uint8, at most ``WIDEST`` across."""
    image_module = package("PIL.Image", f"reading {path.name}")
    try:
        image = image_module.open(path).convert("RGB")
    except Exception as error:  # whatever a damaged file makes of its reader
        raise InputError(f"{path}: cannot be read as a picture ({error or 'it is empty'})") from None
    if image.width != 2 * image.height or image.height < 64:
        raise InputError(
            f"{path} is {image.width} x {image.height} pixels but an equirectangular panorama is twice as wide as "
            "high; crop or pad it to 360 x 180 degrees"
        )
    if image.width > WIDEST:
        image = image.resize((WIDEST, WIDEST // 2))
    return np.asarray(image)
