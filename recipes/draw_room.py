"""Draw a room as an adapter predicts it: decay curves at test positions, and a map of C50 on the floor plan.

    python recipes/draw_room.py ../shared/data/r3vival/050 --adapter r3vival/050 --out room.png

Left and middle, at the test positions nearest to the receiver and farthest from it: the measured decay, the predicted
one and that of the nearest training measurement. Right, predicted C50 over the floor at the receiver's height; marks
are filled with what was measured there. Needs matplotlib (`pip install "haa-peft[plots]"`).
"""

import argparse
import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from haa_peft.commands.ending import command
from haa_peft.errors import InputError

with command():  # where another package does not load, it is one line
    import numpy as np

    from haa_peft import RoomPredictor, load_room
    from haa_peft.acoustics import iso_metrics
    from haa_peft.commands.outputs import check_writable
    from haa_peft.files import write_atomically
    from haa_peft.rooms.room import Room

CLEARANCE = 0.3
"""Metres that the map stays away from walls, and from the receiver."""
LINES = {
    "measured": {"color": "black", "linewidth": 2.4},
    "predicted": {"color": "#d62728", "linewidth": 1.5},
    "nearest measurement": {"color": "#1f77b4", "linewidth": 1.3, "linestyle": "--"},
}
MARKS = {"train": ("s", 34, "reference"), "test": ("o", 60, "test position")}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", metavar="ROOM", help="room folder, HAA folder, twin or simulated room")
    parser.add_argument("--adapter", required=True, metavar="NAME", help="stored adapter of that room")
    parser.add_argument("--store", help="folder of adapters (default: $HAA_PEFT_STORE or ./adapters)")
    parser.add_argument("--step", type=float, default=0.2, help="m between the points of the map (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.out.suffix.lower() != ".png":
        raise InputError(f"--out is {str(args.out)!r} but must end in .png")
    if not 0.05 <= args.step <= 2:
        raise InputError(f"--step is {args.step} but must be from 0.05 to 2 m")
    if find_spec("matplotlib") is None:
        raise InputError('drawing needs the package matplotlib; pip install "haa-peft[plots]"')
    check_writable(args.out)
    room = load_room(args.room).alone("drawing")
    if not len(room.splits["test"]):
        raise InputError(f"{room.name} has no test positions, so nothing measured to hold predictions against")
    predictor = RoomPredictor.load(args.adapter, store=args.store)
    write_atomically(args.out, draw(room, predictor, args.step))
    print(f"{args.out}: {room.name} as {predictor.name} predicts it")


def draw(room: Room, predictor: RoomPredictor, step: float) -> bytes:
    """Both parts of the figure, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained", dpi=80)
    FigureCanvasAgg(figure)
    *curves, plan = figure.subplots(1, 3, width_ratios=[1, 1, 1.7])
    test = room.splits["test"]
    order = test[np.linalg.norm(room.positions[test] - room.receiver, axis=1).argsort(kind="stable")]
    for axis, position in zip(curves, (order[0], order[-1]), strict=True):
        draw_decay(axis, room, predictor, int(position))
    curves[0].set_ylabel("remaining energy (dB)")
    curves[0].legend(frameon=False, loc="lower left", fontsize=8)
    draw_map(plan, room, predictor, step)
    figure.suptitle(room.name, fontsize=11)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def draw_decay(axis: Any, room: Room, predictor: RoomPredictor, position: int) -> None:
    """Schroeder curves of the measured and the predicted RIR, and of the nearest training measurement."""
    train = room.splits["train"]
    nearest = train[np.linalg.norm(room.positions[train] - room.positions[position], axis=1).argmin()]
    predicted = predictor.predict(room.positions[position])[0]
    rirs = (room.rirs[position], predicted, room.rirs[nearest])
    for (name, look), rir in zip(LINES.items(), rirs, strict=True):
        left = np.cumsum(np.square(rir[::-1], dtype=np.float64))[::-1]
        level = 10 * np.log10(np.maximum(left / left[0], 1e-6))
        time = np.arange(len(rir)) / predictor.sample_rate
        axis.plot(time, level, label=name, **look)
    away = np.linalg.norm(room.positions[position] - room.receiver)
    axis.set(title=f"test position {position}, {away:.1f} m away", xlabel="time (s)", ylim=(-45, 2), xlim=(0, 0.4))
    axis.title.set_fontsize(9)
    axis.grid(alpha=0.25)


def draw_map(axis: Any, room: Room, predictor: RoomPredictor, step: float) -> None:
    """Predicted C50 at the receiver's height in colours, the measured one inside circles of the same colours."""
    low, high = room.geometry.bounds()
    x, y = (np.arange(low[i] + CLEARANCE, high[i] - CLEARANCE + 1e-9, step) for i in range(2))
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    points = np.column_stack([grid, np.full(len(grid), room.receiver[2])])
    clear = np.linalg.norm(points - room.receiver, axis=1) > CLEARANCE
    clarity = np.full(len(points), np.nan)
    clarity[clear] = c50(predictor.predict(points[clear]), predictor.sample_rate)
    measured = c50(room.rirs, predictor.sample_rate)
    every = np.concatenate([clarity, measured])
    limits = np.percentile(every[np.isfinite(every)], [2, 98])
    look = {"cmap": "viridis", "vmin": limits[0], "vmax": limits[1]}
    image = axis.pcolormesh(x, y, clarity.reshape(len(x), len(y)).T, shading="nearest", rasterized=True, **look)
    for split, (shape, size, label) in MARKS.items():
        rows = room.splits[split]
        axis.scatter(
            *room.positions[rows, :2].T, c=measured[rows], s=size, marker=shape, label=label,
            edgecolors="black", linewidths=1.2, **look,
        )  # fmt: skip
    axis.plot(*room.receiver[:2], "*", color="#ff1744", markersize=14, markeredgecolor="black", label="receiver")
    axis.figure.colorbar(image, ax=axis, label="C50 (dB)")
    axis.set(title="predicted C50 (map), measured C50 (marks)", xlabel="x (m)", ylabel="y (m)", aspect="equal",
             xlim=(low[0], high[0]), ylim=(low[1], high[1]))  # fmt: skip
    axis.title.set_fontsize(9)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, fontsize=8, frameon=False)


def c50(rirs: np.ndarray, sample_rate: int) -> np.ndarray:
    """Clarity (N,) in dB by ISO 3382-1, broadband."""
    return np.asarray(iso_metrics(rirs, sample_rate, bands=())["broadband"]["c50_db"])


if __name__ == "__main__":
    with command():
        main()
