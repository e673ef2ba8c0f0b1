"""What a panorama can say of the surfaces that it shows, beside where they are."""

from __future__ import annotations

from haa_peft.errors import InputError

CHANNELS = ("normals", "materials")
MATERIALS = (
    "massive", "lightweight", "glazing", "wood", "floor_covering", "curtain", "seating", "audience", "absorber"
)  # fmt: skip
"""Classes of materials: the groups of the tables of absorption coefficients in Vorlaender, Auralization (Springer 2008,
annex), its wall, ceiling and special absorbers as one. Concrete, brick, tiles and plaster on them are massive;
plasterboard and panelling on a frame lightweight; carpet and linoleum floor coverings."""
UNKNOWN = -1
"""Number of no class."""
EXTRA_CHANNELS = 3 + len(MATERIALS)
"""Unit normals, and one channel for each class."""


def parse_channels(text: str) -> tuple[str, ...]:
    """``"normals,materials"`` -> both names; ``"none"`` -> nothing. Raises ``InputError`` for other names."""
    names = [] if text == "none" else [name.strip() for name in str(text).split(",")]
    if not set(names) <= set(CHANNELS) or len(set(names)) < len(names):
        raise InputError(f"--channels is {text!r} but must be none, {', '.join(CHANNELS)} or {','.join(CHANNELS)}")
    return tuple(name for name in CHANNELS if name in names)


def material_number(name: object, where: str) -> int:
    """Place of a class among ``MATERIALS``; raises ``InputError`` for any other name."""
    if name not in MATERIALS:
        raise InputError(f"{where} is {name!r:.60} but must be one of the classes {', '.join(MATERIALS)}")
    return MATERIALS.index(str(name))
