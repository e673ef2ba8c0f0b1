"""Variants of a room to train in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haa_peft.augmentation.settings import Augmentation


def augmentation(texts: Iterable[Any]) -> Augmentation:
    """What ``--augment`` says, such as ``["mirror", "scale=0.2"]``: it checks rooms, and makes variants of them.

    Raises ``InputError`` for anything that it cannot say.
    """
    from haa_peft.augmentation.settings import Augmentation

    return Augmentation.parse(texts)
