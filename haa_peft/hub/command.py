"""``haa-peft push`` and ``pull``: stored adapters to the Hugging Face Hub and back."""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

from haa_peft.commands.options import add_store_folder
from haa_peft.errors import InputError


def add(commands: Any) -> None:
    """Declare them."""
    parser = commands.add_parser(
        "push",
        help="put stored adapters on the Hugging Face Hub",
        description="Put stored adapters into a repository of the Hugging Face Hub, which is made if it is not there.",
        example="haa-peft push classroom-twin/base user/rooms --private",
    )
    parser.set_defaults(command=_push)
    parser.add_argument("names", nargs="*", metavar="NAME", help="adapters, such as hallway/panel1")
    parser.add_argument("repository", metavar="REPOSITORY", help="user/repository, or user/repository@branch")
    parser.add_argument("--all", action="store_true", help="all adapters of the store")
    parser.add_argument("--private", action="store_true", help="a new repository is seen by you alone")
    add_store_folder(parser)
    parser = commands.add_parser(
        "pull",
        help="store adapters of the Hugging Face Hub",
        description="Store the adapters of a repository of the Hugging Face Hub.",
        example="haa-peft pull user/rooms/classroom-twin/base",
    )
    parser.set_defaults(command=_pull)
    parser.add_argument("address", metavar="ADDRESS", help="user/repository, @revision after it for another than the "
                        "main branch, and /room/configuration after that for one adapter")  # fmt: skip
    parser.add_argument("--replace", action="store_true", help="replace adapters of the same names that differ")
    parser.add_argument("--dry-run", action="store_true", help="list the adapters")
    add_store_folder(parser)


def _quiet() -> None:
    """Lines of this command alone, without huggingface_hub's bars and warnings."""
    from haa_peft.hub.problems import hub

    warnings.filterwarnings("ignore", "Not enough free disk space")
    utils = hub(".utils")
    utils.disable_progress_bars()
    utils.logging.set_verbosity_error()


def _push(args: argparse.Namespace) -> None:
    _quiet()
    from haa_peft.hub.address import Address
    from haa_peft.hub.push import push
    from haa_peft.store.names import AdapterName, iterate_names, store_folder

    address, store = Address.parse(args.repository), store_folder(args.store)
    if address.name is not None:
        raise InputError(f"{args.repository} must be user/repository: adapters lie there under their own names")
    if bool(args.names) == args.all:
        raise InputError("name adapters before the repository, or give --all without names")
    names = list(iterate_names(store)) if args.all else [AdapterName.parse(name) for name in args.names]
    if not names:
        raise InputError(f"store {store} holds nothing to push")
    for packs, url in push(store, names, address, private=args.private):
        for pack in packs:
            print(f"{pack.name}: pushed, licence of the data {pack.card['room'].get('licence')}")
        print(url)


def _pull(args: argparse.Namespace) -> None:
    _quiet()
    from haa_peft.hub.address import Address
    from haa_peft.hub.pull import list_adapters, pull
    from haa_peft.store.names import store_folder

    address, store = Address.parse(args.address), store_folder(args.store)
    if args.dry_run:
        print("\n".join(map(str, list_adapters(address))))
        return
    count, problems = 0, 0
    for name, outcome, problem in pull(address, store, replace=args.replace):
        if problem is not None and address.name is not None:
            raise problem
        count, problems = count + 1, problems + (problem is not None)
        print(f"{name}: {outcome}" if problem is None else f"FAILED {problem}")
    if problems:
        print(f"error: {problems} of {count} adapters are left out", file=sys.stderr)
        sys.exit(1)
