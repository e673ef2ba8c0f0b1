"""Arguments that functions are called with: what they must be, or one line."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, cast

from haa_peft.errors import InputError

if TYPE_CHECKING:
    import numpy as np


def check_whole(what: str, value: object, least: int, most: int = 2**63 - 1) -> int:
    """A whole number, checked.

    Parameters
    ----------
    what : it is called in the error.
    value : as given.
    least, most : of those allowed.

    Raises
    ------
    InputError
        For anything else.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
        limits = f"from {least} to {most}" if most < 2**63 - 1 else f"of at least {least}"
        raise InputError(f"{what} is {value!r:.60} but must be a whole number {limits}")
    return int(value)


def check_kind(what: str, value: object, kinds: Any, called: str) -> None:
    """Check the type of a value.

    Parameters
    ----------
    what : it is called in the error.
    value : as given.
    kinds : types that are allowed, as ``isinstance`` takes them.
    called : what they are called there.

    Raises
    ------
    InputError
        For a value of another type.
    """
    if not isinstance(value, kinds):
        raise InputError(f"{what} is {value!r:.60} but must be {called}")


def real_numbers(what: str, values: object) -> np.ndarray:
    """An array (...,) of float64; ``InputError``, which begins with ``what``, for what are no real numbers."""
    import numpy as np

    try:
        found = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{what} cannot be read as an array ({error!s:.100}); give real numbers") from None
    if found.dtype.kind not in "iuf":
        raise InputError(f"{what} are of {found.dtype} but must be real numbers")
    return found.astype(np.float64)


def measured_rirs(rirs: object, sample_rate: object) -> np.ndarray:
    """RIRs as an array (N, T) of float64; ``InputError`` for what are none, or for a rate that is no number of Hz."""
    signals = real_numbers("rirs", rirs)
    if signals.ndim != 2 or signals.shape[1] == 0:
        raise InputError(f"rirs has shape {signals.shape} but must be (number of RIRs, samples)")
    if not is_rate(sample_rate):
        raise InputError(f"sample_rate is {sample_rate!r:.60} but must be above 0 Hz and below 1 GHz")
    return signals


def is_rate(value: object) -> bool:
    """Whether a value is a positive, finite number of Hz."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < cast(float, value) < 1e9
