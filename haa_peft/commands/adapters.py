"""``haa-peft adapters``: those that are stored, what they say of themselves, and new ones made of them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haa_peft.commands.options import add_geometry, add_json, add_room, add_seed_and_json, add_store, check_k, open_room
from haa_peft.commands.outputs import check_report, write_report
from haa_peft.commands.parser import Parser
from haa_peft.environment import EnvironmentProblem
from haa_peft.errors import InputError, one_line
from haa_peft.satellites import satellite

if TYPE_CHECKING:
    from haa_peft.store.pack import RoomPack


def add(commands: Any) -> None:
    """Declare them."""
    parser = commands.add_parser(
        "adapters",
        help="list, show, verify, blend and match stored adapters",
        description="Stored adapters.",
        example="haa-peft adapters list",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    one = actions.add_parser(
        "list", help="a table of all, or of a room", example="haa-peft adapters list classroom-twin --store adapters"
    )
    one.set_defaults(command=_list)
    one.add_argument("room", metavar="ROOM", nargs="?", help="whose adapters are wanted (default: all rooms)")
    add_store(one)
    one = actions.add_parser(
        "show",
        help="the card of one, as JSON, and a picture of its device",
        example="haa-peft adapters show classroom-twin/base --plot device.png",
    )
    one.set_defaults(command=_show)
    one.add_argument("name", metavar="NAME", help="adapter, such as hallway/panel1")
    one.add_argument("--plot", type=Path, metavar="FILE", help="draw what the device sends in each direction")
    add_store(one)
    one = actions.add_parser(
        "verify", help="check files and weights", example="haa-peft adapters verify classroom-twin/base"
    )
    one.set_defaults(command=_verify)
    one.add_argument("name", metavar="NAME", nargs="?", help="adapter (default: all)")
    add_store(one)
    _add_blend(actions)
    one = actions.add_parser(
        "match",
        help="rank stored adapters on a few measurements of a room",
        example="haa-peft adapters match classroom-twin/base --shots 4",
    )
    one.set_defaults(command=_match)
    add_room(one)
    one.add_argument("--k", type=int, help="references for each measurement (default: 8, or all others if fewer)")
    add_json(one)
    add_store(one)
    add_geometry(one)


def _add_blend(actions: Any) -> None:
    parser: Parser = actions.add_parser(
        "blend",
        help="store an adapter between others, such as a panel half open",
        example="haa-peft adapters blend classroom-twin/panel --of classroom-twin/base classroom-twin/panel",
    )
    parser.set_defaults(command=_blend)
    add_room(parser)
    parser.add_argument("--of", nargs="+", required=True, metavar="NAME", help="stored adapters")
    parser.add_argument("--shares", nargs="+", type=float, metavar="SHARE", help="of each (default: equal, 1 together)")
    parser.add_argument("--name", help="of the new adapter (default: that of the room, @blend)")
    parser.add_argument("--k", type=int, default=8, help="references for each target (default: 8)")
    add_seed_and_json(parser, "of a random phase")
    add_store(parser)
    add_geometry(parser)


def _show(args: argparse.Namespace) -> None:
    from haa_peft.store.folder import read_pack
    from haa_peft.store.names import AdapterName, store_folder

    pack = read_pack(store_folder(args.store), AdapterName.parse(args.name), tensors=args.plot is not None)
    print(json.dumps(pack.card, indent=1))
    if args.plot is None:
        return
    from haa_peft.inference.packs import levels_of

    levels = levels_of(pack)
    if levels is None:
        raise InputError(f"{pack.name} has no fitted levels, so nothing is known of its device; train it anew")
    satellite("levels", "--plot").draw_directivity(levels, str(pack.name), args.plot)


def _list(args: argparse.Namespace) -> None:
    from haa_peft.commands.stored import described, read_card
    from haa_peft.commands.tables import stream_markdown
    from haa_peft.store.card import NewerCardError
    from haa_peft.store.names import AdapterName, iterate_names, store_folder

    store = store_folder(args.store)
    if args.room is not None:
        AdapterName.parse(f"{args.room}/any")
    seen = {"damaged": 0, "newer": 0, "all": 0}

    def rows() -> Iterator[list[str]]:
        for name in iterate_names(store, args.room):
            seen["all"] += 1
            try:
                yield [str(name), *described(read_card(store, name))]
            except EnvironmentProblem:
                raise
            except Exception as error:  # whatever a damaged card does, the others follow
                if not isinstance(error, InputError):
                    print(one_line(f"FAILED {name}: {type(error).__name__}: {error}"))
                word = "newer" if isinstance(error, NewerCardError) else "damaged"
                seen[word] += 1
                yield [str(name), word, "-", "-", "-", "-"]

    for line in stream_markdown(["adapter", "method", "weights", "kB", "backbone", "training"], rows()):
        print(line)
    if args.room is not None and not seen["all"]:
        raise InputError(f"store {store} has no adapters of a room {args.room}; `haa-peft adapters list` shows all")
    if seen["newer"]:
        print("newer: made by a newer haa-peft; update")
    _end(seen["damaged"] + seen["newer"], seen["all"])


def _verify(args: argparse.Namespace) -> None:
    from haa_peft.store.folder import read_pack
    from haa_peft.store.names import AdapterName, iterate_names, store_folder

    store = store_folder(args.store)
    names = [AdapterName.parse(args.name)] if args.name else iterate_names(store)
    verify = _verifier(args.backbone, store)
    failed = count = 0
    for name in names:
        count += 1
        try:
            verify(read_pack(store, name))
            print(f"{name}: ok")
        except EnvironmentProblem:
            raise
        except Exception as error:  # whatever a damaged pack does, the others follow
            failed += 1
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            print(one_line(f"FAILED {name}: {reason.removeprefix(f'{name}: ')}"))
    _end(failed, count)


def _end(failed: int, count: int) -> None:
    """With status 1 where some cannot be used."""
    if failed:
        print(f"error: {failed} of {count} adapters cannot be used; `haa-peft adapters verify` says why",
              file=sys.stderr)  # fmt: skip
        sys.exit(1)


def _verifier(backbone: str, store: Path) -> Callable[[RoomPack], None]:
    from haa_peft.commands.stored import verify_pack
    from haa_peft.model.checkpoint import load_backbone

    loaded = load_backbone(backbone)
    return lambda pack: verify_pack(loaded, pack, store)


def _blend(args: argparse.Namespace) -> None:
    from haa_peft.commands.job import store_blend
    from haa_peft.model.checkpoint import load_backbone
    from haa_peft.store.names import AdapterName

    check_report(args.json, "blend")
    shares = args.shares or [1 / len(args.of)] * len(args.of)
    room = open_room(args).alone("haa-peft adapters blend")
    check_k(args.k, room)
    name = AdapterName.parse(args.name or f"{room.room}/{room.configuration}@blend")
    backbone = load_backbone(args.backbone)
    store_blend(args, name, room, backbone, shares)


def _match(args: argparse.Namespace) -> None:
    from haa_peft.matching import BARE, fit_table, identify
    from haa_peft.model.checkpoint import load_backbone
    from haa_peft.store.names import store_folder

    check_report(args.json, "identify")
    room = open_room(args).alone("haa-peft adapters match")
    match = identify(room, load_backbone(args.backbone), store_folder(args.store), args.k)
    print(f"{room.name}: {match.measurements} measurements, levels of each told from the others\n")
    print(fit_table(match))
    for reason in match.left_out:
        print(f"left out: {reason}")
    if match.noise:
        print(f"{match.noise:.0%} of their spans and octaves are noise and do not count")
    print(match.line)
    if match.fits[0].adapter == BARE:
        print("no stored adapter does better than levels fitted to these measurements; train one")
    if args.json is not None:
        print(write_report(args.json, "identify", {"room": room.name, **match.to_json()}))
