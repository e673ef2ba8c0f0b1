"""What goes over HTTP: a request as JSON or npz, samples as npz or JSON, and one line for what is wrong."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from haa_peft.errors import InputError
from haa_peft.store.names import AdapterName

LARGEST_BODY = 2**20
"""Bytes of a request, unpacked too."""
MOST_POSITIONS = 512
"""Of a request; more are asked for in several."""
OPTIONS = ("k", "seed", "sample_rate", "length", "receiver")
"""Of :meth:`~haa_peft.inference.predictor.RoomPredictor.predict`."""
JSON, NPZ = "application/json", "application/x-npz"


@dataclass(frozen=True)
class Asked:
    """A request: the adapter's name, positions (N, 3) m in room coordinates, and what else ``predict`` takes."""

    name: str
    positions: np.ndarray
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, body: bytes, content_type: str) -> Asked:
        """Read the body of a request, JSON unless its type is ``NPZ``.

        Raises
        ------
        InputError
            For anything that is no request.
        """
        found = dict(_read_npz(body) if content_type.partition(";")[0].strip() == NPZ else read_json(body))
        unknown = sorted(found.keys() - {"name", "positions", *OPTIONS})
        if unknown:
            raise InputError(f"{unknown[0]!r:.40} is none of name, positions, {', '.join(OPTIONS)}")
        for key in ("name", "positions"):
            if key not in found:
                raise InputError(f"{key} is missing; give name, such as room/configuration, and positions (N, 3)")
        name = str(AdapterName.parse(found.pop("name")))
        positions = found.pop("positions")
        try:
            places = np.asarray(positions, dtype=float)
        except (TypeError, ValueError):
            raise InputError(f"positions are {positions!r:.60} but must be (N, 3) metres") from None
        places = np.atleast_2d(places)
        if places.ndim != 2 or places.shape[1] != 3 or not 1 <= len(places) <= MOST_POSITIONS:
            raise InputError(
                f"positions are {places.shape} but must be (N, 3) metres with N from 1 to {MOST_POSITIONS}"
            )
        return cls(name, places, {key: value for key, value in found.items() if value is not None})

    def npz(self) -> bytes:
        """The request as npz."""
        return npz({"name": self.name, "positions": self.positions, **self.options})


def read_json(body: bytes) -> dict[str, Any]:
    """The JSON object that a body holds; raises ``InputError`` for anything else."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"the body must be a JSON object, or npz with Content-Type: {NPZ}")
    return found


def _read_npz(body: bytes) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as file:
            if sum(one.file_size for one in file.infolist()) > LARGEST_BODY:
                raise InputError(f"the body is more than {LARGEST_BODY} bytes when unpacked; ask in several requests")
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            return {key: array if array.ndim else array.item() for key, array in arrays.items()}
    except InputError:
        raise
    except Exception:  # whatever a body that is none makes of its readers
        raise InputError("the body is no npz file of numbers and text") from None


def npz(arrays: Mapping[str, Any]) -> bytes:
    """Arrays, numbers and text as an npz file, uncompressed."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@dataclass(frozen=True)
class Answer:
    """RIRs (N, T) float32 at ``sample_rate`` Hz in units of ``scale``, and which replica made them."""

    name: str
    rirs: np.ndarray
    sample_rate: int
    scale: float
    replica: str

    def body(self, accept: str) -> tuple[bytes, str]:
        """The body of the answer and its type: JSON where only that is accepted, npz otherwise."""
        about = {"name": self.name, "sample_rate": self.sample_rate, "scale": self.scale}
        if JSON in accept and NPZ not in accept:
            return json.dumps({**about, "rirs": self.rirs.tolist()}).encode(), JSON
        return npz({**about, "rirs": self.rirs}), NPZ


@dataclass(frozen=True)
class Refused:
    """Why a request has no answer, in one line, with HTTP's status."""

    status: int
    line: str
