"""RIRs that the page gives as files, by ordinary links."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

from haa_peft.errors import InputError
from haa_peft.exporting.responses import predict_responses
from haa_peft.page.answers import Answers, read_path, read_position, stops

RATE = 48_000
"""Hz of the files."""


def links(name: str, receiver: int, positions: str, height: float) -> dict[str, str]:
    """Addresses of the WAV and the SOFA file of RIRs, relative to the page.

    Parameters
    ----------
    name, receiver : which adapter and receiver.
    positions : ``x y``, or the corners ``x y; x y`` of a path, m.
    height : m.
    """
    query = urlencode({"name": name, "receiver": receiver, "positions": positions, "height": f"{height:g}"})
    kinds = ("rirs.sofa",) if ";" in positions else ("rir.wav", "rirs.sofa")
    return {kind: f"{kind}?{query}" for kind in kinds}


def response_file(answers: Answers, kind: str, name: str, receiver: str, positions: str, height: str) -> bytes:
    """The content of a file: RIRs at 48 kHz, as long as the room rings, in units of the measurements.

    Parameters
    ----------
    answers : of the rooms.
    kind : ``rir.wav`` or ``rirs.sofa``.
    name, receiver, positions, height : as :func:`links` wrote them.

    Raises
    ------
    InputError
        For what it did not write.
    """
    _, number = answers.use(name, receiver)
    places = _places(positions, height)
    if kind == "rir.wav":
        import soundfile

        if len(places) != 1:
            raise InputError(f"a WAV file holds one RIR, not {len(places)}; take the SOFA file")
        rir = answers.predictor.predict(places, receiver=number, sample_rate=RATE, length="full")[0]
        wav = io.BytesIO()
        soundfile.write(wav, rir * answers.predictor.scale, RATE, subtype="FLOAT", format="WAV")
        return wav.getvalue()
    from haa_peft.exporting.sofa import write_sofa

    found = predict_responses(answers.predictor, places, receiver=number, sample_rate=RATE, length="full")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rirs.sofa"
        write_sofa(found, path)
        return path.read_bytes()


def _places(positions: str, height: str) -> np.ndarray:
    """(N, 3) m."""
    try:
        z = float(height)
    except ValueError:
        raise InputError(f"height is {height!r:.20} but must be metres") from None
    if ";" in positions:
        return stops(read_path(positions, z))
    try:
        x, y = map(float, positions.split())
    except ValueError:
        raise InputError(f"position is {positions!r:.40} but must be x y in metres") from None
    return read_position(x, y, z)[None]
