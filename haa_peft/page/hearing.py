"""Sounds in the offered rooms, as WAV files that the page plays; one gain for all configurations of a room."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.errors import InputError
from haa_peft.listening import dry_sound
from haa_peft.listening.hrtf import Hrtf
from haa_peft.listening.loudness import Meter
from haa_peft.page.answers import Answers
from haa_peft.page.sounds import LONGEST_S, read_sound

DRY, MONO, BINAURAL = "dry", "mono", "binaural"
LOUDNESS = -23.0
"""LUFS, of the dry sound, and of the room where measurements are of usual level (EBU R 128)."""
FULL_SCALE, LOUDEST = 0.99, 0.5
"""Peaks that no file exceeds, and that the loudest measured place of a room has at most."""
MOST_FILES = 24
BUNDLED = "bundled"


@dataclass(frozen=True)
class Sound:
    """A dry sound: a key that tells it from others, samples (N,), Hz."""

    key: Hashable
    samples: np.ndarray
    rate: int


@dataclass(frozen=True)
class Heard:
    """A file that the page plays, and what to say of it."""

    file: str
    channels: int
    seconds: float
    gain_db: float
    lowered_db: float


@dataclass(frozen=True)
class Asked:
    """How a sound is to be heard.

    Attributes
    ----------
    output : ``dry``, ``mono`` or ``binaural``.
    head : whether one listens at the ``receiver``, or at the position, the ``source`` of the room's RIRs.
    facing : where the head looks, degrees from the x axis towards the y axis; None is to the sound.
    equal : whether each result is brought to the same loudness.
    """

    output: str = MONO
    head: str = "receiver"
    facing: float | None = None
    equal: bool = False


class Hearing:
    """Makes sounds and keeps the latest files.

    Parameters
    ----------
    answers : of the rooms.
    folder : of the files.
    hrtf : head-related transfer functions that binaural sounds are made with; these are not offered without.
    """

    def __init__(self, answers: Answers, folder: Path, hrtf: Hrtf | None = None) -> None:
        self._answers, self._folder, self.hrtf = answers, folder, hrtf
        self._files: OrderedDict[Hashable, tuple[tuple | None, Heard]] = OrderedDict()
        self._gains: dict[Hashable, float] = {}
        self._limits: dict[tuple, float] = {}
        self._busy: dict[Hashable, threading.Lock] = {}
        self._read: OrderedDict[str, Sound] = OrderedDict()
        self._lock = threading.Lock()
        self._bundled = Sound(BUNDLED, *dry_sound())

    @property
    def outputs(self) -> list[str]:
        """What can be heard."""
        return [DRY, MONO] + ([BINAURAL] if self.hrtf is not None else [])

    def sound(self, upload: str | None) -> Sound:
        """The bundled dry sound, or one that was uploaded; raises ``InputError`` for what is no such sound."""
        if upload is None:
            return self._bundled
        with self._lock:
            if upload in self._read:
                return self._read[upload]
        found = Sound(upload, *read_sound(Path(upload)))
        with self._lock:
            self._read[upload] = found
            while len(self._read) > MOST_FILES:
                self._read.popitem(last=False)
        return found

    def render(self, name: str, receiver: int, rows: np.ndarray, sound: Sound, asked: Asked) -> Heard:
        """A sound in the room of an adapter in use.

        Parameters
        ----------
        name, receiver : as :meth:`~haa_peft.page.answers.Answers.use` gave them in this thread.
        rows : (3,) m, or (P, 4) seconds and m of a path. A sound that is shorter than the path is repeated.
        sound : dry.
        asked : how it is heard.

        Raises
        ------
        InputError
            For positions outside the room, outputs that are not offered, and paths that take too long.
        """
        if asked.output not in self.outputs:
            raise InputError(f"output is {asked.output!r:.40} but must be one of {', '.join(self.outputs)}")
        digest = self._answers.predictor.card.get("digest")
        key = (name, digest, receiver, np.asarray(rows).tobytes(), sound.key, asked)
        with self._lock:
            busy = self._busy.setdefault(key, threading.Lock())
        with busy:  # once, however many ask for it at the same time
            try:
                return self._kept(key) or self._made(key, name, receiver, rows, sound, asked)
            finally:
                self._busy.pop(key, None)

    def _kept(self, key: Hashable) -> Heard | None:
        with self._lock:
            if key not in self._files:
                return None
            self._files.move_to_end(key)
            return self._files[key][1]

    def _made(self, key: Hashable, name: str, receiver: int, rows: np.ndarray, sound: Sound, asked: Asked) -> Heard:
        samples = self._signal(rows, sound, asked, receiver)
        meter = Meter(sound.rate)
        meter.add(samples)
        if asked.equal or asked.output == DRY:
            gain = _to_usual(meter.loudness)
            lowered = min(1.0, FULL_SCALE / max(meter.peak * gain, FULL_SCALE))
        else:
            gain = self._gain(name, receiver, sound)
            lowered = self._lowered((name.rpartition("/")[0], receiver, sound.key), meter.peak * gain)
        heard = self._write(samples * (gain * lowered), sound.rate, gain, lowered)
        equal = asked.equal or asked.output == DRY
        self._keep(key, None if equal else (name.rpartition("/")[0], receiver, sound.key), heard)
        return heard

    def _signal(self, rows: np.ndarray, sound: Sound, asked: Asked, receiver: int) -> np.ndarray:
        """(C, N) before any gain."""
        dry = sound.samples
        if rows.ndim == 2 and asked.output != DRY:
            seconds = float(rows[-1, 0])
            if seconds > LONGEST_S:
                raise InputError(f"the walk takes {seconds:.0f} s but at most {LONGEST_S:g} s; walk faster or less far")
            dry = np.resize(dry, max(len(dry), round(seconds * sound.rate)))
        if asked.output == DRY:
            return dry[None].astype(np.float32)
        more: dict[str, Any] = {"output": asked.output, "head": asked.head, "receiver": receiver}
        if asked.output == BINAURAL:
            more |= {"hrtf": self.hrtf, "facing": None if asked.facing is None else [asked.facing, 0.0]}
        return self._answers.predictor.auralise(dry, sound.rate, rows, **more)

    def _gain(self, name: str, receiver: int, sound: Sound) -> float:
        """Of a room, whichever of its configurations is in use.

        The first one's usual level is ``LOUDNESS``, or less where the loudest measured place would then have a peak
        above ``LOUDEST``.
        """
        room = name.rpartition("/")[0]
        key = (room, receiver, sound.key)
        if key not in self._gains:
            first = f"{room}/{self._answers.rooms[room][0]}"
            predictor = self._answers.predictor
            predictor.switch(first)
            try:
                number = min(receiver, len(predictor.receivers) - 1)
                _, positions, rirs, _ = predictor.measured(number)
                order = np.argsort((rirs.astype(float) ** 2).sum(axis=1))
                usual, loudest = Meter(sound.rate), Meter(sound.rate)
                for meter, row in ((usual, order[len(rirs) // 2]), (loudest, order[-1])):
                    meter.add(predictor.auralise(sound.samples, sound.rate, positions[row], receiver=number))
            finally:
                predictor.switch(name)
            self._gains[key] = min(_to_usual(usual.loudness), LOUDEST / max(loudest.peak, 1e-12))
        return self._gains[key]

    def _lowered(self, of: tuple, peak: float) -> float:
        """By how much all of a room is lowered, so that none of it clips, nor what reaches this peak."""
        with self._lock:
            before = self._limits.get(of, 1.0)
            if peak * before > FULL_SCALE:
                self._limits[of] = FULL_SCALE / peak
                for key in [key for key, (room, _) in self._files.items() if room == of]:
                    # louder than what follows: not given again, but it may be playing
                    _, heard = self._files.pop(key)
                    self._files[heard.file] = None, heard
            return self._limits.get(of, 1.0)

    def _write(self, samples: np.ndarray, rate: int, gain: float, lowered: float) -> Heard:
        import soundfile

        name = f"{secrets.token_hex(16)}.wav"
        soundfile.write(self._folder / name, samples.T, rate, subtype="PCM_16", format="WAV")
        return Heard(name, len(samples), samples.shape[1] / rate, 20 * np.log10(gain), 20 * np.log10(lowered))

    def _keep(self, key: Hashable, of: tuple | None, heard: Heard) -> None:
        """Keep a file, and remove the one that was not asked for longest where there are too many."""
        with self._lock:
            self._files[key] = of, heard
            while len(self._files) > MOST_FILES:
                self._drop(next(iter(self._files)))

    def _drop(self, key: Hashable) -> None:
        _, old = self._files.pop(key)
        (self._folder / old.file).unlink(missing_ok=True)

    def path(self, file: str) -> Path | None:
        """Where one of the latest files lies; None for any other name."""
        with self._lock:
            known = {heard.file for _, heard in self._files.values()}
        return self._folder / file if file in known else None


def _to_usual(loudness: float) -> float:
    """The gain that brings a loudness in LUFS to ``LOUDNESS``; 1 for silence."""
    return 10 ** ((LOUDNESS - loudness) / 20) if np.isfinite(loudness) else 1.0
