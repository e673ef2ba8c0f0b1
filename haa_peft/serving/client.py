"""Asking a server, again if need be."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import requests
from numpy.typing import ArrayLike

from haa_peft.errors import InputError
from haa_peft.serving.messages import NPZ, Asked

ATTEMPTS = 8
PAUSE = 0.2
"""Seconds before a request is sent again; twice as long each time."""
LONGEST_S = 120
"""That an answer is waited for."""


class Client:
    """RIRs of a server, as :class:`~haa_peft.inference.predictor.RoomPredictor` gives them in this process.

    A request whose server dies or is not there is sent again, since the same request has the same answer. A client is
    one thread's.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000") -> None:
        self._url, self._session = url.rstrip("/"), requests.Session()
        self.replica = ""
        """Which process made the last answer."""

    def predict(self, name: str, positions_xyz: ArrayLike, **options: Any) -> np.ndarray:
        """RIRs (N, T) float32 in units of the room's scale.

        Parameters
        ----------
        name : ``room/configuration`` or ``room/configuration@variant``.
        positions_xyz : (N, 3) or (3,) metres in room coordinates.
        options : as ``RoomPredictor.predict`` takes them.

        Raises
        ------
        InputError
            For what the server refuses, and where none answers.
        """
        asked = Asked(name, np.asarray(positions_xyz, dtype=float), options)
        answer = self._post("predict", data=asked.npz(), headers={"content-type": NPZ, "accept": NPZ})
        self.replica = answer.headers.get("x-replica", "")
        with np.load(io.BytesIO(answer.content), allow_pickle=False) as arrays:
            return arrays["rirs"]

    def prefetch(self, names: list[str]) -> None:
        """Have rooms in memory before they are asked for; raises ``InputError`` as :meth:`predict`."""
        self._post("prefetch", json={"names": names})

    def _post(self, path: str, **content: Any) -> requests.Response:
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                answer = self._session.post(f"{self._url}/{path}", timeout=LONGEST_S, **content)
            except requests.RequestException as error:
                problem = type(error).__name__
                continue
            if answer.status_code < 300:
                return answer
            problem = (answer.text.splitlines() or [""])[0]
            if answer.status_code < 500:
                raise InputError(problem)
        raise InputError(f"{self._url} does not answer ({problem:.100}); start it with `haa-peft serve`")
