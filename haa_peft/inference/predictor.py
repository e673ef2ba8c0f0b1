"""Room adapters by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.adaptation.methods import Adapter, attach_stored
from haa_peft.backbone.checkpoint import fingerprint, load_backbone
from haa_peft.backbone.xrir import XRIR
from haa_peft.errors import InputError
from haa_peft.geometry.panorama import render_panorama
from haa_peft.inference.predict import References, predict_rirs
from haa_peft.rooms.load import NEAREST
from haa_peft.store.folder import read_pack
from haa_peft.store.names import AdapterName, store_folder
from haa_peft.store.pack import RoomPack


def attach_pack(backbone: XRIR, pack: RoomPack) -> Adapter:
    """Put a pack's adapter on the backbone that it was made for; raises ``InputError`` for any other."""
    made_for, base_fingerprint = pack.card["backbone"], fingerprint(backbone)
    if made_for.get("fingerprint") != base_fingerprint:
        raise InputError(
            f"{pack.name} was made for the backbone {made_for.get('origin')!r} "
            f"(fingerprint {str(made_for.get('fingerprint'))[:16]}), not for {backbone.origin!r} "
            f"({base_fingerprint[:16]}); load that backbone, or train the adapter again on this one"
        )
    try:
        return attach_stored(backbone, pack.config, pack.tensors)
    except InputError as error:
        raise InputError(f"{pack.name}: {error}") from None


class RoomPredictor:
    """RIRs anywhere in a room, from a pack loaded by name; needs no data set.

    Attributes
    ----------
    name : of the adapter in use.
    sample_rate : Hz of the RIRs.
    scale : predictions times this are in the unit of the measurements.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, backbone: XRIR, store: Path) -> None:
        self._backbone, self._store = backbone, store
        self._adapter: Adapter | None = None
        self._pack: RoomPack | None = None
        self._references: References | None = None

    @classmethod
    def load(
        cls,
        name: str,
        *,
        store: str | Path | None = None,
        backbone: XRIR | str | Path = "small",
        device: str | None = None,
    ) -> RoomPredictor:
        """Load an adapter by name, such as ``hallway/panel1``.

        Parameters
        ----------
        name : ``room/configuration`` or ``room/configuration@variant``.
        store : folder of adapters; ``$HAA_PEFT_STORE`` or ``./adapters`` unless given.
        backbone : the backbone that the adapter was made for, or what :func:`load_backbone` takes.
        device : such as ``"cuda"``; the backbone's unless given.

        Raises
        ------
        InputError
            When there is no such adapter, it is damaged, or it was made for another backbone.
        """
        loaded = backbone if isinstance(backbone, XRIR) else load_backbone(backbone)
        predictor = cls(loaded if device is None else loaded.to(device), store_folder(store))
        predictor.switch(name)
        return predictor

    @property
    def name(self) -> str:
        """Name of the adapter in use."""
        return str(self._in_use.name)

    @property
    def card(self) -> dict:
        """What the adapter in use says about itself."""
        return self._in_use.card

    @property
    def scale(self) -> float:
        """Largest magnitude of the references as measured; predictions are in units of it."""
        return self._in_use.scale

    @property
    def _in_use(self) -> RoomPack:
        if self._pack is None:
            raise InputError("no adapter is loaded; call switch(name)")
        return self._pack

    def switch(self, name: str) -> None:
        """Use another adapter of the same backbone; if that fails, the former one stays in use."""
        pack = read_pack(self._store, AdapterName.parse(name))
        panorama = render_panorama(pack.surfaces, pack.receiver)
        if self._adapter is not None:
            self._adapter.detach()
        try:
            adapter = attach_pack(self._backbone, pack)
        except BaseException:
            if self._pack is not None:
                self._adapter = attach_pack(self._backbone, self._pack)
            raise
        references = References(panorama, pack.rirs, pack.positions - pack.receiver)
        self._adapter, self._pack, self._references = adapter, pack, references

    def close(self) -> None:
        """Take the adapter off the backbone, which can then serve another predictor."""
        if self._adapter is not None:
            self._adapter.detach()
        self._adapter = self._pack = self._references = None

    def predict(self, positions_xyz: ArrayLike, *, k: int | None = None, seed: int = 0) -> np.ndarray:
        """RIRs between the room's receiver and positions.

        Parameters
        ----------
        positions_xyz : (N, 3) or (3,) metres in room coordinates.
        k : how many of the nearest references to use; as in training unless given.
        seed : of the starting phase of the waveform reconstruction.

        Returns
        -------
        (N, 9600) float32 at 22 050 Hz, in units of :attr:`scale`.

        Raises
        ------
        InputError
            For positions that are not finite, outside the room or at the receiver.
        """
        pack = self._in_use
        assert self._references is not None
        positions = self._check_positions(positions_xyz)
        k = int(pack.card["training"].get("k", 8)) if k is None else k
        if not 1 <= k <= len(pack.rirs):
            raise InputError(f"k is {k} but {pack.name} holds {len(pack.rirs)} references; give 1 to {len(pack.rirs)}")
        return predict_rirs(self._backbone, self._references, positions - pack.receiver, k, seed)

    def _check_positions(self, positions_xyz: ArrayLike) -> np.ndarray:
        pack = self._in_use
        positions = np.atleast_2d(np.asarray(positions_xyz, dtype=np.float64))
        if positions.ndim != 2 or positions.shape[1] != 3:
            raise InputError(f"positions are {positions.shape} but must be (N, 3) metres in room coordinates")
        if not np.isfinite(positions).all():
            raise InputError("positions hold NaN or infinity but must be finite metres in room coordinates")
        low, high = pack.surfaces.bounds()
        for position in positions:
            if (position < low - NEAREST).any() or (position > high + NEAREST).any():
                raise InputError(
                    f"position {position.tolist()} lies outside {pack.name}, which spans "
                    f"{low.round(3).tolist()} to {high.round(3).tolist()} m"
                )
            if np.linalg.norm(position - pack.receiver) < NEAREST:
                raise InputError(f"position {position.tolist()} lies at the receiver of {pack.name}; keep 1 cm away")
        return positions
