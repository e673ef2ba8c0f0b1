"""Stored adapters one by one: the card of each, a line of a table, and whether it is what it should be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from haa_peft.commands.sentences import acceptance_of
from haa_peft.errors import InputError, one_line
from haa_peft.files import read_plain
from haa_peft.store.card import parse_card
from haa_peft.store.folder import read_files
from haa_peft.store.names import AdapterName
from haa_peft.store.parts import CARD, LARGEST_BYTES, PREPARED, damaged, listed_files

if TYPE_CHECKING:
    from haa_peft.model.xrir import XRIR
    from haa_peft.store.pack import RoomPack


def read_card(store: Path, name: AdapterName) -> dict:
    """The card of an entry, whose other files are there; they are not read.

    Raises
    ------
    InputError
        When there is no such entry, or its card is damaged or a file is missing. Whether files are those that the card
        describes is :func:`~haa_peft.store.folder.read_files`' business.
    """
    folder = name.folder(store)
    try:
        card = parse_card(name, read_plain(folder / CARD, LARGEST_BYTES[CARD]))
        there = {path.name for path in folder.iterdir()}
    except OSError:  # it is damaged, or just being replaced
        return parse_card(name, read_files(store, name)[CARD])
    missing = [file_name for file_name in listed_files(card) if file_name not in there]
    if missing:
        raise damaged(name, f"{missing[0]} is missing")
    return card


def described(card: dict) -> list[str]:
    """Method, trained weights, kB, backbone and what training came to: a line of a table."""
    made, training = card["backbone"], card["training"]
    size, weights = f"{training['adapter_bytes'] / 1000:.0f}", str(training["trainable_parameters"])
    of = f"{made['origin'][:40]} {made['fingerprint'][:8]}"
    return [one_line(text, 60) for text in (card["method"]["method"], weights, size, of, kept_briefly(card))]


def kept_briefly(card: dict) -> str:
    """Which weights an adapter has, in some twenty characters; ``-`` where its card does not say."""
    acceptance = acceptance_of(card["training"])
    if acceptance is None:
        return "-"
    if not acceptance.accepted:
        return "levels alone" if card.get("levels") else "unchanged"
    return f"step {card['training'].get('best_step')}, loss {-acceptance.gain_percent:+.1f} %"


def verify_pack(backbone: XRIR, pack: RoomPack, store: Path) -> None:
    """Raise ``InputError`` unless a pack's adapter fits, and what it keeps prepared is what the backbone gives."""
    from haa_peft.inference.packs import check_backbone, levels_of, load_parent, prepare_pack
    from haa_peft.model.checkpoint import fingerprint

    check_backbone(pack, fingerprint(backbone), backbone.origin)
    levels_of(pack)
    parent = None if pack.parent is None else load_parent(store, pack, backbone)
    expected = prepare_pack(backbone, pack, parent).prepared or {}
    for name, tensor in (pack.prepared or {}).items():
        fits = tensor.shape == expected[name].shape
        # a GPU's convolutions may have computed it with TF32
        if not fits or not float((tensor - expected[name]).norm()) <= 1e-2 * float(expected[name].norm()):
            raise InputError(
                f"{pack.name}: {name} in {PREPARED} is not what backbone and adapter give; "
                "restore or retrain the adapter"
            )
