"""Geometry that nobody measured: from echoes, as a box or by a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from haa_peft.geometry.sight import Known


def estimate(how: str, known: Known, floor: float | None) -> tuple[np.ndarray, str, str]:
    """Depth (256, 512) m around the receiver from the training measurements, what made it, and an account of it.

    Parameters
    ----------
    how : ``shoebox``, the box that echoes speak for; ``network``, what a network that was trained on simulated rooms
        makes of echoes and decay.
    known : with at least 3 RIRs.
    floor : z of the floor in m, None if it is not known.

    Raises
    ------
    InputError
        When the measurements are too few or too short.
    """
    from haa_peft.geometry.panorama import directions, render_depth

    assert known.rirs is not None
    measured = known.rirs, known.positions[known.heard], known.receiver
    if how == "shoebox":
        from haa_peft.geometry.estimate.shoebox import estimate_shoebox

        box = estimate_shoebox(*measured, floor)
        depth = render_depth(box.surfaces, known.receiver, directions())
        return depth, "echoes of the training measurements", box.account()
    from haa_peft.geometry.estimate.network import predict_depth

    depth, factor = predict_depth(*measured, floor)
    account = f"by its own estimate off by a factor of {factor:.2f} on the mean, as in rooms like those it learned from"
    return depth, "a network's reading of the training measurements", account
