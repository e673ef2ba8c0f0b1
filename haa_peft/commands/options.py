"""Flags that several verbs have, and what they mean."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haa_peft.errors import InputError
from haa_peft.model.phases import PHASES
from haa_peft.store.names import STORE_VARIABLE

if TYPE_CHECKING:
    from haa_peft.rooms.room import Room

DEFAULT_ROOM = "classroom-twin/base"
"""Which every installation can simulate."""


def add_room(parser: Any) -> None:
    """ROOM, ``--receiver`` and ``--shots``."""
    add_receiver(parser)
    parser.add_argument("room", metavar="ROOM", help="room folder, HAA folder, twin (classroom-twin/base) or "
                        "simulated/SEED-INDEX")  # fmt: skip
    parser.add_argument("--shots", type=int, help="measurements to use (default: all training positions)")


def add_receiver(parser: Any) -> None:
    """``--receiver``."""
    parser.add_argument("--receiver", type=int, metavar="N", help="of several, the one, counted from 0 (default: all)")


def add_geometry(parser: Any) -> None:
    """``--geometry`` of every command that reads a room."""
    parser.add_argument("--geometry", metavar="SOURCE", help="instead of the room's own: a mesh or scan, a depth "
                        "panorama, a JSON file with a geometry entry as in room.json, sound (a box, from echoes), "
                        "sound-network (a panorama, by a network), or none")  # fmt: skip


def add_backbone(parser: Any) -> None:
    """``--backbone`` of every command that predicts."""
    parser.add_argument("--backbone", default="small", help="bundled name or checkpoint file (default: %(default)s)")


def add_store(parser: Any) -> None:
    """``--store`` and ``--backbone`` of every command that uses adapters."""
    add_store_folder(parser)
    add_backbone(parser)


def add_store_folder(parser: Any) -> None:
    """``--store`` of commands that need no backbone."""
    parser.add_argument("--store", metavar="FOLDER", help=f"of adapters (default: ${STORE_VARIABLE} or ./adapters)")


def add_seed_and_json(parser: Any, of: str) -> None:
    """``--seed`` and ``--json``."""
    parser.add_argument("--seed", type=int, default=0, help=f"{of} (default: 0)")
    add_json(parser)


def add_json(parser: Any) -> None:
    """``--json``."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report here")


def add_workers(parser: Any, of: str, default: str = "one for each GPU, or each core") -> None:
    """``--workers`` and ``--executor``; ``of`` is what is worked on, in words, and ``default`` how many at once."""
    parser.add_argument("--workers", type=int, help=f"{of} at once (default: {default})")
    parser.add_argument("--executor", metavar="{local,ray}", default="local", help="this machine, or a Ray cluster "
                        "that is running (default: %(default)s)")  # fmt: skip


def add_phase(parser: Any) -> None:
    """``--phase``."""
    parser.add_argument("--phase", choices=PHASES, default=PHASES[0], help="that a waveform starts from: the aligned "
                        "references', or a random one as published (default: references)")  # fmt: skip


def open_room(args: argparse.Namespace) -> Room:
    """The room with the geometry and the number of measurements that were asked for."""
    from haa_peft.rooms.load import load_room

    room = load_room(args.room, args.geometry, args.receiver)
    return room if args.shots is None else room.with_shots(args.shots)


def check_k(k: int, room: Room) -> None:
    """Raise ``InputError`` for more references than a room has."""
    shots = min(len(single.splits["train"]) for single in room.at_receivers)
    if not 1 <= k <= shots:
        raise InputError(f"--k is {k} but {room.name} has {shots} training measurements; give 1 to {shots}")
