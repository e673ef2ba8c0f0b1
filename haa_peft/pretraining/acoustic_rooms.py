"""AcousticRooms (github.com/facebookresearch/AcousticRooms), what the published backbone is pretrained on.

``single_channel_ir/CATEGORY/ROOM/S<s>_R<r>_hybrid_IR.wav`` at 22 050 Hz,
``metadata/CATEGORY/ROOM/S00<s>_R00<r>.json`` with ``src_loc`` and ``rec_loc`` in metres, and
``depth_map/CATEGORY/ROOM/<r>.npy``, (256, 512) in metres.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from haa_peft.acoustics.spectrogram import RIR_LENGTH, SAMPLE_RATE
from haa_peft.errors import InputError
from haa_peft.geometry.panorama import PANORAMA_HEIGHT, PANORAMA_WIDTH
from haa_peft.simulation.corpus import CorpusRoom

UNSEEN = (
    "Apartments_idx_42",
    "Apartments_idx_50",
    "Auditorium_idx_1",
    "Bathrooms_idx_14",
    "Bathrooms_idx_18",
    "Bedrooms_idx_18",
    "Bedrooms_idx_33",
    "Cafe_idx_1",
    "ListeningRoom_idx_2",
    "LivingRoomsWithHallway_idx_25",
    "LivingRoomsWithHallway_idx_30",
    "MeetingRoom_idx_20",
    "MeetingRoom_idx_32",
    "Office_idx_10",
    "Office_idx_11",
    "Restaurants_idx_22",
    "Restaurants_idx_24",
)
"""Rooms of the published unseen-room test split."""
FEWEST_SOURCES = 2
ENDING = "_hybrid_IR.wav"


class AcousticRooms:
    """One item per receiver with all its sources, as a :class:`~haa_peft.simulation.corpus.CorpusRoom`.

    Parameters
    ----------
    folder : the data set, unpacked.
    split : ``train``, or ``test`` for the rooms of the published unseen split.
    """

    def __init__(self, folder: str | Path, split: str = "train") -> None:
        if split not in ("train", "test"):
            raise InputError(f"split is {split!r} but must be train or test")
        self._folder = Path(folder)
        rirs = self._folder / "single_channel_ir"
        rooms = sorted(path for path in rirs.glob("*/*") if path.is_dir())
        if not rooms:
            raise InputError(f"{folder}: no single_channel_ir/CATEGORY/ROOM folders; unpack AcousticRooms there")
        self._items: list[tuple[Path, int, list[Path]]] = []
        for room in rooms:
            if is_unseen(room.name) != (split == "test"):
                continue
            by_receiver: dict[int, list[Path]] = {}
            for path in sorted(room.glob(f"S*_R*{ENDING}")):
                by_receiver.setdefault(numbers(path)[1], []).append(path)
            self._items += [
                (room.relative_to(rirs), receiver, paths)
                for receiver, paths in sorted(by_receiver.items())
                if len(paths) >= FEWEST_SOURCES
            ]

        if not self._items:
            raise InputError(f"{folder} holds no receiver with {FEWEST_SOURCES} sources of the {split} rooms")

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> CorpusRoom:
        room, receiver, paths = self._items[int(index)]
        places = np.stack([self._places(room, *numbers(path)) for path in paths])
        rirs = np.stack([read_rir(path) for path in paths])
        depth_path = self._folder / "depth_map" / room / f"{receiver}.npy"
        try:
            depth = np.asarray(np.load(depth_path), dtype=np.float32)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{depth_path}: cannot be read as a depth map ({error})") from None
        if depth.shape != (PANORAMA_HEIGHT, PANORAMA_WIDTH) or not (np.isfinite(depth).all() and (depth > 0).all()):
            raise InputError(
                f"{depth_path} is {depth.shape} with values from {depth.min()} to {depth.max()} but must be "
                f"({PANORAMA_HEIGHT}, {PANORAMA_WIDTH}) positive metres"
            )
        peak = np.abs(rirs).max()
        if not 0 < peak < np.inf:
            raise InputError(f"{paths[0].parent}: the RIRs of receiver {receiver} are silent or not finite")
        return CorpusRoom(rirs / peak, places[:, 0], places[0, 1], depth=depth)

    def _places(self, room: Path, source: int, receiver: int) -> np.ndarray:
        """Source and receiver, (2, 3) m."""
        path = self._folder / "metadata" / room / f"S00{source}_R00{receiver}.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            places = np.array([found["src_loc"], found["rec_loc"]], dtype=np.float32)
            if places.shape != (2, 3) or not np.isfinite(places).all():
                raise ValueError(f"they are {found['src_loc']} and {found['rec_loc']}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: src_loc and rec_loc must be three finite metres each ({error})") from None
        return places


def is_unseen(room: str) -> bool:
    """Whether a room's folder is of the published unseen split; names may have something before or after them."""
    return any(name in room and not room.split(name)[1][:1].isdigit() for name in UNSEEN)


def numbers(path: Path) -> tuple[int, int]:
    """Source and receiver of ``S<s>_R<r>_hybrid_IR.wav``; ``InputError`` for any other name."""
    source, receiver = path.name.removesuffix(ENDING).split("_")[:2]
    try:
        return int(source[1:]), int(receiver[1:])
    except ValueError:
        raise InputError(f"{path}: the name must be S<source>_R<receiver>{ENDING}") from None


def read_rir(path: Path) -> np.ndarray:
    """The first samples (9600,) float32 of a WAV file at 22 050 Hz, zeros behind a shorter one.

    Raises
    ------
    InputError
        When it cannot be read, is of another sample rate or has more than one channel.
    """
    import soundfile

    try:
        rir, rate = soundfile.read(path, dtype="float32", frames=RIR_LENGTH)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if rate != SAMPLE_RATE or rir.ndim != 1:
        raise InputError(f"{path}: {rate} Hz and {rir.ndim} channels but must be {SAMPLE_RATE} Hz and one")
    return np.pad(rir, (0, RIR_LENGTH - len(rir)))
