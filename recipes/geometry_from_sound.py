r"""How well the box around a receiver is estimated from a dozen RIRs, in rooms whose geometry is known.

    python recipes/geometry_from_sound.py --rooms ../shared/data/r3vival/* ../shared/data/haa-reconstruction/* \
        --json recipes/results/geometry-from-sound.json

Rooms not seen while it was made: shoeboxes, some furnished, as the corpus draws and simulates them, and shoeboxes of
pyroomacoustics' image sources up to order 12 with scattering objects and noise; 12 positions of each. Of measured
rooms, training measurements alone, against the box around all their surfaces, which is the room where that is a box
(R3VIVAL, HAA's dampened room and hallway) and the outermost walls elsewhere. Every room twice: with z = 0 probably the
floor, and without. The check of given geometry is tried with the true walls, and with one wall moved outwards by 1 m.
Depths around the receiver are compared in simulated rooms of every plan too: of the box, of the panorama network, of a
box around the positions and a constant.
The tables go beside the JSON, as .md.
"""

import argparse
import multiprocessing
from functools import partial
from pathlib import Path
from typing import Any

from haa_peft.commands.ending import command
from haa_peft.errors import InputError, check_seed

with command():  # where another package does not load, it is one line
    import numpy as np
    import torch
    from tqdm import tqdm

    from haa_peft import load_room
    from haa_peft.acoustics.alignment import SPEED_OF_SOUND
    from haa_peft.acoustics.spectrogram import RIR_LENGTH, SAMPLE_RATE
    from haa_peft.commands.outputs import check_report, write_report
    from haa_peft.commands.tables import figure, markdown
    from haa_peft.files import write_atomically
    from haa_peft.geometry.estimate.dispatch import FEWEST_RIRS
    from haa_peft.geometry.estimate.plausibility import check_surfaces
    from haa_peft.geometry.estimate.shoebox import WALLS, estimate_shoebox
    from haa_peft.geometry.estimate.tables import (
        RIGHT,
        compare_with_box,
        depth_errors,
        depth_table,
        summary,
        summary_table,
    )
    from haa_peft.geometry.panorama import Geometry
    from haa_peft.geometry.surfaces import Surfaces
    from haa_peft.rooms.splits import SHOTS, farthest_points
    from haa_peft.simulation.draw import draw_room
    from haa_peft.simulation.simulate import simulate

SIMULATED = ("simulated as the corpus", "image sources")
ANY_PLAN = "simulated, every plan"
Measured = tuple[np.ndarray, np.ndarray, np.ndarray]
"""RIRs (N, 9600), positions (N, 3) m, receiver (3,) m."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", nargs="*", default=[], metavar="ROOM", help="room folders or twins")
    parser.add_argument("--boxes", type=int, default=100, help="shoeboxes drawn as for the corpus (%(default)s)")
    parser.add_argument("--image-sources", type=int, default=50, help="of pyroomacoustics' image sources (%(default)s)")
    parser.add_argument("--any-plan", type=int, default=100, help="rooms of the corpus' plans (%(default)s)")
    parser.add_argument("--seed", type=int, default=1000, help="of simulated rooms; below 1000 were seen (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (%(default)s)")
    parser.add_argument("--json", type=Path, help="write everything here")
    return parser.parse_args()


def corpus_box(seed: int, number: int) -> tuple[str, Measured, Geometry]:
    """The room ``number`` of those of a corpus that are shoeboxes, furnished or not."""
    index = -1
    for _ in range(number + 1):
        index += 1
        while (drawn := draw_room(seed, index)).plan not in ("box", "corridor") or not _is_level(drawn.walls[-1]):
            index += 1
    return corpus_room(seed, index)


def corpus_room(seed: int, index: int) -> tuple[str, Measured, Geometry]:
    """A room of a corpus, with well spread positions."""
    drawn = draw_room(seed, index)
    kept = farthest_points(drawn.positions, SHOTS)
    rirs = simulate(drawn, (seed, index))
    return f"{seed}/{index}", (rirs[kept], drawn.positions[kept], drawn.receiver), drawn.surfaces


def _is_level(ceiling: Any) -> bool:
    return bool(np.ptp(ceiling.corners[:, 2]) == 0)


def image_source_box(seed: int, number: int) -> tuple[str, Measured, Geometry]:
    """A shoebox of uneven walls by image sources, up to five point scatterers, and noise 40 to 70 dB below the peak."""
    import pyroomacoustics as pra

    rng = np.random.default_rng((seed, number, 77))
    size = np.array([*np.exp(rng.uniform(np.log(2.5), np.log(15), 2)), rng.uniform(2.2, 5)])
    absorption = np.exp(rng.uniform(np.log(0.05), np.log(0.7))) * np.exp(rng.normal(0, 0.5, 6))
    names = ("west", "east", "south", "north", "floor", "ceiling")
    materials = {name: pra.Material(float(a)) for name, a in zip(names, absorption.clip(0.02, 0.9), strict=True)}
    room = pra.ShoeBox(size, fs=SAMPLE_RATE, materials=materials, max_order=12, air_absorption=True)
    points = rng.uniform([0.3, 0.3, 0.2], size - 0.3, (400, 3))
    points[:, 2] = points[:, 2].clip(max=2.2)
    receiver = points[0]
    positions = points[np.linalg.norm(points - receiver, axis=1) > 0.5][:SHOTS]
    room.add_source(receiver)
    room.add_microphone_array(positions.T)
    room.compute_rir()
    lead = pra.constants.get("frac_delay_length") // 2
    rirs = np.zeros((SHOTS, RIR_LENGTH))
    for row, (rir,) in zip(rirs, room.rir, strict=True):
        kept = rir[lead : lead + RIR_LENGTH]
        row[: len(kept)] = kept
    time = np.arange(RIR_LENGTH)
    for _ in range(rng.integers(0, 6)):
        scatterer, strength = rng.uniform([0, 0, 0], size), rng.uniform(0.2, 0.8)
        there, back = np.linalg.norm(scatterer - receiver), np.linalg.norm(scatterer - positions, axis=1)
        level = rng.choice([-1, 1], SHOTS) * strength / max(there, 0.3) / back.clip(0.3) / (4 * np.pi)
        rirs += level[:, None] * np.sinc(time - (there + back[:, None]) / SPEED_OF_SOUND * SAMPLE_RATE)
    rirs += rng.normal(size=rirs.shape) * np.abs(rirs).max() * 10 ** (-rng.uniform(40, 70) / 20)
    return f"{seed}/{number}", (rirs, positions, receiver), Surfaces.shoebox(size)


def measured_room(names: list[str], number: int) -> tuple[str, Measured, Geometry]:
    """Training measurements of a room folder, and its surfaces."""
    room = load_room(names[number])
    train = room.splits["train"]
    return room.name, (room.rirs[train], room.positions[train], room.receiver), room.geometry


def assess(make: Any, only_depths: bool, number: int) -> dict[str, Any]:
    """Depths of one room, estimates with and without a floor, and what the check says of right and wrong walls."""
    torch.set_num_threads(1)
    name, measured, truth = make(number)
    low, high = truth.bounds()
    estimate = estimate_shoebox(*measured)
    if only_depths:
        return {"room": name, "depth_error": depth_errors(*measured, estimate, truth)}
    free = estimate_shoebox(*measured, floor=None)
    axis, side = divmod(np.random.default_rng(number).integers(6), 2)
    wrong_low, wrong_high = low.copy(), high.copy()
    (wrong_high if side else wrong_low)[axis] += 1 if side else -1
    return {
        "room": name,
        "account": estimate.in_words(),
        "depth_error": depth_errors(*measured, estimate, truth),
        **compare_with_box(estimate, low, high),
        "without_floor": compare_with_box(free, low, high),
        "contradictions": check_surfaces(*measured, _walls(low, high), estimate).contradictions,
        "moved": int(2 * axis + side),
        "moved_found": bool(
            {c.split(":")[0] for c in check_surfaces(*measured, _walls(wrong_low, wrong_high), estimate).contradictions}
            & {WALLS[2 * axis + side]}
        ),
    }


def _walls(low: np.ndarray, high: np.ndarray) -> Surfaces:
    box = Surfaces.shoebox(high - low)
    return Surfaces(box.points + low, box.is_triangle)


def main() -> None:
    args = parse_arguments()
    check_seed(args.seed)
    for flag, value, least in (
        ("--boxes", args.boxes, 0),
        ("--image-sources", args.image_sources, 0),
        ("--any-plan", args.any_plan, 0),
        ("--workers", args.workers, 1),
    ):
        if value < least:
            raise InputError(f"{flag} is {value} but must be at least {least}")
    if not args.rooms and not args.boxes and not args.image_sources and not args.any_plan:
        raise InputError("no rooms: name room folders, or give --boxes, --image-sources or --any-plan")
    check_report(args.json, "boxes-from-sound")
    groups: dict[str, tuple[Any, int]] = {
        SIMULATED[0]: (partial(corpus_box, args.seed), args.boxes),
        SIMULATED[1]: (partial(image_source_box, args.seed), args.image_sources),
        ANY_PLAN: (partial(corpus_room, args.seed), args.any_plan),
    }
    for name in args.rooms:
        room = load_room(name)  # every room is checked before any is simulated
        if room.surfaces is None or len(room.splits["train"]) < FEWEST_RIRS:
            raise InputError(f"{name}: needs planes to compare with, and {FEWEST_RIRS} training measurements")
        kind = room.source
        group = "R3VIVAL" if "R3VIVAL" in kind else ("HAA or reconstruction" if "Hearing Anything" in kind else kind)
        listed = groups.setdefault(group, (partial(measured_room, []), 0))
        listed[0].args[0].append(name)
        groups[group] = (listed[0], listed[1] + 1)
    found: dict[str, list[dict[str, Any]]] = {}
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:  # forked threads of torch would hang
        for group, (make, count) in groups.items():
            if count:
                rows = pool.imap(partial(assess, make, group == ANY_PLAN), range(count))
                found[group] = list(tqdm(rows, total=count, desc=group, unit="room"))
    boxes = {group: rows for group, rows in found.items() if group != ANY_PLAN}
    summaries = {group: summary(rows) for group, rows in boxes.items()}
    free = {group: summary([row["without_floor"] for row in rows]) for group, rows in boxes.items()}
    checks = {
        group: {
            "rooms": len(rows),
            "false_alarms": float(np.mean([bool(row["contradictions"]) for row in rows])),
            "moved_wall_found": float(np.mean([row["moved_found"] for row in rows])),
        }
        for group, rows in boxes.items()
    }
    about = {"seed": args.seed, "floor": summaries, "no_floor": free, "check": checks, "rooms": found}
    print("\n" + page(about))
    if args.json is not None:
        print(write_report(args.json, "boxes-from-sound", about))
        write_atomically(args.json.with_suffix(".md"), page(about).encode())


def page(about: dict[str, Any]) -> str:
    """Tables of what was found, as Markdown."""
    parts = [f"# The box around the receiver, from sound\n\nSimulated rooms of seed {about['seed']}."]
    parts += ["With z = 0 probably the floor:", summary_table(about["floor"])]
    parts += ["With nothing assumed of z:", summary_table(about["no_floor"])]
    parts += ["Depth around the receiver, mean error of its logarithm as a percentage:", depth_table(about["rooms"])]
    cells = [["true planes given", "rooms", "contradicted %", "one wall 1 m further out, found %"]]
    for group, check in about["check"].items():
        shares = (figure(check[key], 100, 0) for key in ("false_alarms", "moved_wall_found"))
        cells.append([group, str(check["rooms"]), *shares])
    parts.append(markdown(cells))
    cells = [["room", "estimated m", "true m", "walls within 25 cm", "in 90 % interval", "confident", "of those right"]]
    for group, rows in about["rooms"].items():
        for row in rows if group not in (*SIMULATED, ANY_PLAN) else ():
            sizes = (" x ".join(f"{value:.2f}" for value in row[key]) for key in ("size", "true_size"))
            right = [error <= RIGHT for error in row["wall_error_m"]]
            sure = [ok for ok, confident in zip(right, row["confident"], strict=True) if confident]
            counts = (sum(right), sum(row["inside_interval"]), len(sure), sum(sure))
            cells.append([row["room"], *sizes, *map(str, counts)])
    if len(cells) > 1:
        parts.append(markdown(cells))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    with command():
        main()
