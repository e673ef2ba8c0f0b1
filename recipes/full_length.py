"""Predictions at full length against measurements: ISO metrics, and how alike late fields are at a distance.

    python recipes/full_length.py ../shared/data/r3vival/{000,050,100,RB} ../shared/data/measured/unis-a-l
        ../shared/data/measured/{rs-office-1,riris-balder} --simulated --out recipes/results/full-length

Each seed draws 12 training measurements at random; all others test. The backbone with levels fitted to the 12 is
continued to the measurements' own rate and length, its late field diffuse or the references'. `nearest` is the nearest
training measurement, aligned to the target. With `--simulated`, two lines of microphones in a box simulated by
pyroomacoustics are a room too. Needs matplotlib (`pip install "haa-peft[plots]"`).
"""

import argparse
import dataclasses
import io
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from haa_peft.commands.ending import command
from haa_peft.errors import InputError

with command():  # where another package does not load, it is one line
    import numpy as np
    from scipy import fft
    from tqdm import tqdm

    from haa_peft import load_backbone, load_room
    from haa_peft.acoustics import iso_metrics
    from haa_peft.acoustics.alignment import SPEED_OF_SOUND
    from haa_peft.acoustics.resampling import resample
    from haa_peft.commands.tables import figure, markdown
    from haa_peft.files import write_atomically, write_json
    from haa_peft.geometry.surfaces import Surfaces
    from haa_peft.levels.fitting import fit_levels
    from haa_peft.model.predict import predict_rirs
    from haa_peft.model.tensors import RoomTensors
    from haa_peft.model.xrir import XRIR
    from haa_peft.rendering.bands import CENTRES, band_filters
    from haa_peft.rendering.render import Renderer
    from haa_peft.rooms.room import Room
    from haa_peft.rooms.splits import SHOTS

K = 8
MOST_TESTED = 40
"""Positions of a room and a seed."""
METRICS = {"edt_s": "EDT %", "t20_s": "T20 %", "t30_s": "T30 %", "c50_db": "C50 dB"}
DIGITS = {"edt_s": 1, "t20_s": 1, "t30_s": 1, "c50_db": 2}
OCTAVES = ("125", "250", "500", "1000", "2000", "4000")
PREDICTORS = ("nearest", "modelled 0.435 s", "full, references", "full, diffuse")
WINDOW_S = (0.03, 0.2)
"""After the direct sound, in which late fields are compared."""
APART_M = (0.02, 0.045, 0.075, 0.15, 0.25, 0.4, 0.7, 1.2, 2.0)
"""Between these, pairs of positions are one point of a figure."""
COMPARED = (500, 1000, 2000)
"""Octaves in which they are."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help="room folder or HAA folder")
    parser.add_argument("--simulated", action="store_true", help="lines of microphones in a simulated box too")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the draws (default: 0 1 2)")
    parser.add_argument("--backbone", default="small", help="bundled name or checkpoint file (default: small)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of page, figure and all numbers")
    return parser.parse_args()


def simulated_lines() -> Room:
    """A box of 6 x 5 x 3 m with T60 of some 0.4 s: two lines of 40 microphones, 3 cm apart, and 20 places elsewhere."""
    import pyroomacoustics as pra

    size, receiver = np.array([6.0, 5.0, 3.0]), np.array([1.3, 1.7, 1.4])
    along = 0.03 * np.arange(40)[:, None]
    places = np.concatenate([
        [2.6, 3.4, 1.5] + along * [1, 0, 0],
        [4.3, 1.2, 1.1] + along * [0, 0.8, 0.6],
        np.random.default_rng(0).uniform([0.5, 0.5, 0.6], [5.5, 4.5, 2.4], (20, 3)),
    ])  # fmt: skip
    absorption, order = pra.inverse_sabine(0.4, size)
    box = pra.ShoeBox(size, fs=32_000, materials=pra.Material(absorption), max_order=min(order, 40))
    box.add_source(receiver)
    box.add_microphone_array(places.T)
    box.compute_rir()
    length = 16_000
    late = pra.constants.get("frac_delay_length") // 2  # of the simulator
    rirs = np.zeros((len(places), length), dtype=np.float32)
    for row, (rir,) in zip(rirs, box.rir, strict=True):
        cut = rir[late : late + length]
        row[: len(cut)] = cut
    splits = {"train": np.arange(12), "valid": np.array([], int), "test": np.arange(12, len(places))}
    room = Room("simulated", "lines", resample(rirs, 32_000), places, receiver, Surfaces.shoebox(size), splits, 1.0)
    return dataclasses.replace(room, recorded=lambda _: (rirs, 32_000))


def drawn(room: Room, seed: int) -> Room:
    """The room with 12 training positions at random and others that test."""
    order = np.random.default_rng(seed).permutation(len(room.positions))
    splits = {"train": order[:SHOTS], "valid": order[:0], "test": np.sort(order[SHOTS : SHOTS + MOST_TESTED])}
    return room.with_splits(splits)


def predictions(backbone: XRIR, room: Room) -> tuple[dict[str, tuple[np.ndarray, int]], np.ndarray, int]:
    """RIRs (N, T) with their rates by every predictor at the test positions, and those measured there with theirs."""
    assert room.recorded is not None
    recorded, rate = room.recorded(10.0)
    recorded = recorded / room.scale
    train, test = room.splits["train"], room.splits["test"]
    places = room.positions[test]
    backbone.eval()
    modelled = predict_rirs(backbone, RoomTensors.of_room(room), places - room.receiver, K, 0,
                            levels=fit_levels(backbone, room, K))  # fmt: skip
    late = Renderer(recorded[train], rate, room.positions[train], room.receiver, room.geometry.bounds(), room.name)
    asked = {"sample_rate": rate, "samples": round(late.full_s * rate), "seed": 0}
    found = {name: np.stack(list(late.render(modelled, places, K, diffuse=name.endswith("diffuse"), **asked)))
             for name in PREDICTORS[2:]}  # fmt: skip
    nearest = np.linalg.norm(places[:, None] - room.positions[train], axis=-1).argmin(axis=1)
    apart = [np.linalg.norm(x - room.receiver, axis=1) for x in (places, room.positions[train][nearest])]
    moved = (apart[0] - apart[1]) / SPEED_OF_SOUND * rate
    shifted = [_later(rir, round(delay)) for rir, delay in zip(recorded[train][nearest], moved, strict=True)]
    closest = np.stack(shifted) * (apart[1] / apart[0])[:, None]
    continued = {name: (rirs, rate) for name, rirs in found.items()}
    return {"nearest": (closest, rate), "modelled 0.435 s": (modelled, 22_050), **continued}, recorded[test], rate


def _later(rir: np.ndarray, samples: int) -> np.ndarray:
    return np.pad(rir[max(0, -samples) :], (max(0, samples), max(0, -samples)))[: len(rir)]


def metric_errors(
    rirs: np.ndarray, rate: int, measured: np.ndarray, measured_rate: int
) -> dict[str, dict[str, np.ndarray]]:
    """Absolute errors (N,) by band and metric, times in percent; NaN where one of the two is not defined."""
    found, true = iso_metrics(rirs, rate), iso_metrics(measured, measured_rate)
    return {
        band: {
            name: np.abs(found[band][name] - true[band][name]) / (1 if name == "c50_db" else true[band][name] / 100)
            for name in METRICS
        }
        for band in ("broadband", *OCTAVES)
    }


def likeness(rirs: np.ndarray, rate: int, distances: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Correlation (P, 3) of late fields, in octaves, of pairs (P, 2) of RIRs (N, T) at distances (N,) m."""
    padded = fft.next_fast_len(rirs.shape[1] + rate // 10, real=True)
    filters = band_filters(fft.rfftfreq(padded, 1 / rate))[[CENTRES.index(octave) for octave in COMPARED]]
    bands = fft.irfft(fft.rfft(rirs, padded)[:, None] * filters, padded)
    found = np.zeros((len(pairs), len(COMPARED)))
    for row, (i, j) in zip(found, pairs, strict=True):
        start = max(distances[[i, j]]) / SPEED_OF_SOUND
        one, other = (bands[n, :, slice(*(round((start + s) * rate) for s in WINDOW_S))] for n in (i, j))
        row[:] = (one * other).sum(axis=1) / np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1) + 1e-30)
    return found


def diffuse(distance: np.ndarray) -> np.ndarray:
    """Correlation (P, 3) in octaves of a diffuse field at distances (P,) m: sinc(kd), averaged over each."""
    frequency = np.array(COMPARED)[:, None] * 2 ** np.linspace(-0.5, 0.5, 41)
    return np.sinc(2 * frequency * distance[:, None, None] / SPEED_OF_SOUND).mean(axis=-1)


def compared(backbone: XRIR, rooms: list[Room], seeds: list[int]) -> Iterator[tuple]:
    """Room, whether it holds decays, errors by predictor, and distances and likeness of pairs of test positions."""
    for room, seed in tqdm([(room, seed) for room in rooms for seed in seeds], unit="draw"):
        one = drawn(room, seed)
        found, measured, rate = predictions(backbone, one)
        errors = {name: metric_errors(*rirs, measured, rate) for name, rirs in found.items()}
        places = one.positions[one.splits["test"]]
        pairs = np.stack(np.triu_indices(len(places), 1), axis=1)
        apart = np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1)
        pairs, apart = pairs[apart < APART_M[-1]], apart[apart < APART_M[-1]]
        away = np.linalg.norm(places - one.receiver, axis=1)
        alike = {name: likeness(*found[name], away, pairs) for name in PREDICTORS[2:]}
        t30 = iso_metrics(measured, rate, bands=())["broadband"]["t30_s"]
        yield (
            room,
            np.isfinite(t30).mean() > 0.5,
            errors,
            apart,
            {"measured": likeness(measured, rate, away, pairs), **alike},
        )


def error_rows(errors: dict) -> list[dict]:
    """Means over positions and seeds, and at how many positions they are defined."""
    rows = []
    for (group, name), parts in errors.items():
        for band in ("broadband", *OCTAVES):
            both = {metric: np.concatenate([part[band][metric] for part in parts]) for metric in METRICS}
            mean = {metric: float(np.nanmean(x)) if np.isfinite(x).any() else None for metric, x in both.items()}
            defined = {metric: int(np.isfinite(x).sum()) for metric, x in both.items()}
            rows.append({"rooms": group, "predictor": name, "band": band, "positions": len(both["c50_db"]), **mean,
                         "defined": defined})  # fmt: skip
    return rows


def error_tables(rows: list[dict]) -> str:
    """Broadband errors, and those in octaves for each metric."""
    cells = [["rooms", "predictor", *METRICS.values(), "T30 defined", "of"]]
    for row in rows:
        if row["band"] == "broadband":
            shown = [figure(row[metric], 1, DIGITS[metric]) for metric in METRICS]
            cells.append([row["rooms"], row["predictor"], *shown, str(row["defined"]["t30_s"]), str(row["positions"])])
    text = [f"Broadband:\n\n{markdown(cells)}"]
    for metric, title in METRICS.items():
        cells = [["rooms", "predictor", *(f"{band} Hz" for band in OCTAVES)]]
        for group, name in dict.fromkeys((row["rooms"], row["predictor"]) for row in rows):
            own = {row["band"]: row for row in rows if (row["rooms"], row["predictor"]) == (group, name)}
            cells.append([group, name, *(figure(own[band][metric], 1, DIGITS[metric]) for band in OCTAVES)])
        text.append(f"{title}:\n\n{markdown(cells)}")
    return "\n\n".join(text)


def likeness_rows(alike: dict) -> list[dict]:
    """Mean correlations by group, distance and octave."""
    rows = []
    for group, parts in alike.items():
        apart = np.concatenate([distance for distance, _ in parts])
        for low, high in pairwise(APART_M):
            inside = (apart >= low) & (apart < high)
            if inside.sum() < 5:
                continue
            values = {name: np.concatenate([found[name] for _, found in parts])[inside] for name in parts[0][1]}
            values = {"sinc(kd)": diffuse(apart[inside]), **values}
            for i, octave in enumerate(COMPARED):
                means = {name: float(value[:, i].mean()) for name, value in values.items()}
                rows.append({"rooms": group, "metres": float(apart[inside].mean()), "pairs": int(inside.sum()),
                             "octave": octave, **means})  # fmt: skip
    return rows


def departure(rows: list[dict]) -> str:
    """By how much correlations depart from measured ones, in a sentence."""
    names = (*PREDICTORS[2:], "sinc(kd)")
    means = [f"{name} {np.mean([abs(row[name] - row['measured']) for row in rows]):.2f}" for name in names]
    return f"Mean difference from what is measured: {', '.join(means)}."


def likeness_table(rows: list[dict]) -> str:
    names = ["sinc(kd)", "measured", *PREDICTORS[2:]]
    cells = [["rooms", "octave Hz", "m apart", "pairs", *names]]
    cells += [[row["rooms"], str(row["octave"]), f"{row['metres']:.2f}", str(row["pairs"]),
               *(f"{row[name]:.2f}" for name in names)] for row in rows]  # fmt: skip
    return markdown(cells)


def draw(rows: list[dict]) -> bytes:
    """Correlation against distance in each group, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(row["rooms"] for row in rows))
    picture = Figure(figsize=(3.4 * len(COMPARED), 2.7 * len(groups)), layout="constrained", dpi=80)
    FigureCanvasAgg(picture)
    axes = picture.subplots(len(groups), len(COMPARED), squeeze=False, sharey=True)
    distance = np.geomspace(APART_M[0], APART_M[-1], 200)
    for axis_row, group in zip(axes, groups, strict=True):
        for axis, octave in zip(axis_row, COMPARED, strict=True):
            axis.semilogx(distance, diffuse(distance)[:, COMPARED.index(octave)], "0.6", label="sinc(kd)")
            own = [row for row in rows if row["rooms"] == group and row["octave"] == octave]
            for name, style in zip(("measured", *PREDICTORS[2:]), ("ko-", "s--", "^-"), strict=True):
                axis.semilogx([row["metres"] for row in own], [row[name] for row in own], style, label=name, ms=4)
            axis.set(title=f"{group}, {octave} Hz", ylim=(-0.3, 1.05))
            axis.title.set_fontsize(9)
            axis.grid(alpha=0.25)
        axis_row[0].set_ylabel("correlation")
    for axis in axes[-1]:
        axis.set_xlabel("m apart")
    axes[0, 0].legend(fontsize=7, frameon=False)
    content = io.BytesIO()
    picture.savefig(content, format="png")
    return content.getvalue()


def main() -> None:
    args = parse_arguments()
    if not args.rooms and not args.simulated:
        raise InputError("no rooms: name room folders or --simulated")
    rooms = [load_room(path) for path in args.rooms] + ([simulated_lines()] if args.simulated else [])
    for room in rooms:
        if room.recorded is None or len(room.positions) < SHOTS + 2:
            raise InputError(f"{room.name} must be read from a folder and hold at least {SHOTS + 2} measurements")
    errors, alike = defaultdict(list), defaultdict(list)
    for room, decays, found, apart, late in compared(load_backbone(args.backbone), rooms, args.seeds):
        group = room.room if room.room == "r3vival" else room.name
        for name, values in found.items() if decays else ():
            errors[group, name].append(values)
        alike[group].append((apart, late))
    rows = error_rows(errors)
    late_rows = likeness_rows(alike)
    drawn_from = f"12 measurements at random, seeds {', '.join(map(str, args.seeds))}, K = {K}"
    page = f"""# Full length against measurements

Mean absolute errors by ISO 3382-1 at up to {MOST_TESTED} other positions; {drawn_from}. Backbone with fitted levels. An
error is defined where both values are; `of` counts the positions of all seeds. Rooms whose measurements hold a T30 at
less than half of the positions are only in the second part.

{error_tables(rows)}

## How alike late fields are

Correlation of RIRs at two test positions, {1000 * WINDOW_S[0]:.0f} to {1000 * WINDOW_S[1]:.0f} ms after the direct
sound. {departure(late_rows)}

![Correlation against distance, measured and predicted](coherence.png)

{likeness_table(late_rows)}

Made by `python recipes/full_length.py` with rooms {", ".join(room.name for room in rooms)}; all numbers:
`full-length.json`.
"""
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out / "coherence.png", draw(late_rows))
    write_json(args.out / "full-length.json", {"k": K, "seeds": args.seeds, "errors": rows, "likeness": late_rows})
    write_atomically(args.out / "README.md", page.encode())
    print(f"{args.out / 'README.md'}: {len(rooms)} rooms, {drawn_from}")


if __name__ == "__main__":
    with command():
        main()
