"""The runs of a study as they were kept, one JSON file each."""

from __future__ import annotations

import dataclasses
import json
import lzma
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.commands.tables import COLUMNS
from haa_peft.errors import InputError
from haa_peft.files import write_atomically
from haa_peft.rooms.room import SIMULATED

ARCHIVE = "runs.tar.xz"
GROUPS = ("baseline", "adapter", "full")
BASELINES = ("nearest", "linear", "energy", "backbone")
REQUIRED = {"errors": [key for _, key, *_ in COLUMNS], "truth": ["edt_s"]}
KINDS = ("measured", "reconstructed", "simulated")


@dataclass(frozen=True)
class RunResult:
    """One predictor in one configuration, with one seed and one number of measurements.

    Attributes
    ----------
    run, label, group : name of the row in tables, the same for humans, one of ``GROUPS``.
    room, configuration, reconstruction : what it was tested in, and whether that was rendered from published fits.
    trained_on : ``room/configuration`` whose measurements trained the weights; None for baselines.
    positions : (N,) indices of the tested positions in the room.
    positions_xyz, receiver_xyz, references_xyz : (N, 3), (3,) and (shots, 3) metres in room coordinates.
    floor_plan : (W, 2, 2) m, walls as segments (x, y) seen from above.
    errors : per metric (N,) absolute errors, NaN where undefined; :func:`haa_peft.evaluation.evaluate.errors`.
    truth : ``edt_s``, ``c50_db`` and ``t60_s``, each (N,), as measured.
    decay_curves : ``position`` (C,) indices into ``positions``, ``time_s`` (M,), ``true_db``, ``predicted_db`` (C, M).
    """

    study: str
    run: str
    group: str
    room: str
    configuration: str
    reconstruction: bool
    seed: int
    shots: int
    k: int
    split: str
    trained_on: str | None
    settings: dict[str, Any]
    room_fingerprint: str
    backbone: dict[str, Any]
    versions: dict[str, Any]
    commit: str
    splits: dict[str, list[int]]
    trainable_parameters: int
    bytes: int
    seconds: float | None
    best_step: int | None
    steps: int | None
    validation: list
    positions: np.ndarray
    positions_xyz: np.ndarray
    receiver_xyz: np.ndarray
    references_xyz: np.ndarray
    floor_plan: np.ndarray
    errors: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]
    decay_curves: dict[str, np.ndarray]
    label: str = ""

    @property
    def name(self) -> str:
        """``room/configuration`` that it was tested in."""
        return f"{self.room}/{self.configuration}"

    @cached_property
    def places(self) -> dict[int, tuple]:
        """The room and the point in it, to a centimetre, of every tested position."""
        points = map(tuple, self.positions_xyz.round(2).tolist())
        return {position: (self.room, *point) for position, point in zip(self.positions.tolist(), points, strict=True)}

    @property
    def draw(self) -> tuple[int, ...]:
        """The draw of training positions, whatever the number of measurements: those that it left, which validate."""
        return tuple(sorted(self.splits["valid"]))

    @property
    def is_seedless(self) -> bool:
        """Whether it is the same for all seeds of one draw: nothing is trained, and no positions are displaced."""
        return self.group == "baseline" and not self.settings.get("position_error")

    @property
    def is_transfer(self) -> bool:
        """Whether the weights were trained in another configuration than they were tested in."""
        return self.trained_on not in (None, self.name)

    @property
    def kind(self) -> str:
        """One of ``KINDS``: where the true RIRs come from; twins, and drawn rooms, are simulated."""
        if self.reconstruction:
            return "reconstructed"
        return "simulated" if self.room == SIMULATED or self.room.endswith("-twin") else "measured"


def read_results(folder: Path) -> list[RunResult]:
    """All runs below ``folder/runs``, or in ``folder/runs.tar.xz``, the same packed.

    A damaged file, or two of the same run, is an ``InputError`` that names it.
    """
    found: dict[tuple, str] = {}
    results = []
    for inside, content in _files(folder):
        name = str(folder / inside)
        result = _read(name, content)
        key = (result.run, result.name, result.trained_on, result.split, result.shots, result.seed)
        if key in found:
            raise InputError(f"{name} and {found[key]} hold the same run; remove one of them")
        found[key] = name
        results.append(result)
    if not results:
        raise InputError(f"{folder} has no results in runs/*.json; run the study first")
    return results


def for_every_seed(results: Sequence[RunResult]) -> list[RunResult]:
    """Results, and copies of those that do not depend on the seed for the other seeds of their draws."""
    seeds: dict[tuple, set[int]] = {}
    own: dict[tuple, set[int]] = {}
    for r in results:
        seeds.setdefault((r.name, r.draw), set()).add(r.seed)
        own.setdefault((r.name, r.run, r.shots), set()).add(r.seed)
    copies = {
        (r.name, r.run, r.shots, seed): dataclasses.replace(r, seed=seed)
        for r in results
        if r.is_seedless
        for seed in sorted(seeds[r.name, r.draw] - own[r.name, r.run, r.shots])
    }
    return [*results, *copies.values()]


def unpack(folder: Path) -> None:
    """Make ``folder/runs`` of ``folder/runs.tar.xz``, as results are kept in the repository, unless it is there."""
    if (folder / ARCHIVE).exists() and not (folder / "runs").exists():
        partial = folder / "runs.partial"
        shutil.rmtree(partial, ignore_errors=True)
        for name, content in _files(folder):
            write_atomically(partial / name, content)
        (partial / "runs").rename(folder / "runs")
        partial.rmdir()


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name below ``folder`` and content of every result."""
    if (folder / "runs").exists() or not (folder / ARCHIVE).exists():
        for path in sorted((folder / "runs").rglob("*.json")):
            yield path.relative_to(folder).as_posix(), path.read_bytes()
        return
    try:
        with tarfile.open(folder / ARCHIVE) as packed:
            for member in sorted(packed.getmembers(), key=lambda member: member.name):
                file = packed.extractfile(member)
                if file is not None and member.name.startswith("runs/") and ".." not in member.name:
                    yield member.name, file.read()
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
        raise InputError(f"{folder / ARCHIVE} cannot be read ({error}); restore it, or remove it") from None


def _read(name: str, content: bytes) -> RunResult:
    try:
        entry = json.loads(content)
        fields = {f.name: entry[f.name] for f in dataclasses.fields(RunResult) if f.name != "label"}
        if entry["group"] not in GROUPS:
            raise ValueError(f"group is {entry['group']!r} but must be one of {', '.join(GROUPS)}")
        for part, metrics in REQUIRED.items():
            fields[part] = {metric: entry[part][metric] for metric in metrics} | entry[part]
        count = len(entry["positions"])
        curves = entry["decay_curves"]
        shape = (len(curves["position"]), len(curves["time_s"]))
        fields |= {
            "positions": np.array(entry["positions"], dtype=int),
            "positions_xyz": np.array(entry["positions_xyz"], dtype=float).reshape(count, 3),
            "receiver_xyz": np.array(entry["receiver_xyz"], dtype=float).reshape(3),
            "references_xyz": np.array(entry["references_xyz"], dtype=float).reshape(-1, 3),
            "floor_plan": np.array(entry["floor_plan"], dtype=float).reshape(-1, 2, 2),
            # null, an undefined value, becomes NaN
            "errors": {m: np.array(v, dtype=float).reshape(count) for m, v in fields["errors"].items()},
            "truth": {m: np.array(v, dtype=float).reshape(count) for m, v in fields["truth"].items()},
            "decay_curves": {
                "position": np.array(curves["position"], dtype=int),
                "time_s": np.array(curves["time_s"], dtype=float),
                "true_db": np.array(curves["true_db"], dtype=float).reshape(shape),
                "predicted_db": np.array(curves["predicted_db"], dtype=float).reshape(shape),
            },
        }
        return RunResult(**fields, label=entry.get("label") or "")
    except KeyError as error:
        reason = f"it has no {error}"
    except (ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:100]
    raise InputError(f"{name} is no result of a run ({reason}); remove it and run it again")


def run_names(results: Sequence[RunResult]) -> list[str]:
    """Runs in the order of tables: baselines, then by trained weights."""
    found = {r.run: r for r in results}

    def place(run: str) -> tuple:
        is_known = run in BASELINES
        weights = found[run].trainable_parameters
        return GROUPS.index(found[run].group) > 0, BASELINES.index(run) if is_known else len(BASELINES), weights, run

    return sorted(found, key=place)


def trained_names(results: Sequence[RunResult]) -> list[str]:
    """The runs that are no baselines, in the same order."""
    baselines = {r.run for r in results if r.group == "baseline"}
    return [run for run in run_names(results) if run not in baselines]


def configurations(results: Sequence[RunResult]) -> list[str]:
    """``room/configuration`` of all that were tested in."""
    return sorted({r.name for r in results})


def usual_shots(results: Sequence[RunResult]) -> int:
    """The number of measurements that most configurations were tested with, of several the largest."""
    tested = {(r.shots, r.name) for r in results}
    return max({shots for shots, _ in tested}, key=lambda shots: (sum(s == shots for s, _ in tested), shots))


def comparable(results: Sequence[RunResult]) -> list[RunResult]:
    """Runs with the usual number of measurements, and those that were only tested with another one."""
    usual = usual_shots(results)
    numbers = {run: {r.shots for r in results if r.run == run} for run in {r.run for r in results}}
    return [r for r in results if r.shots == usual or len(numbers[r.run]) == 1]


def with_shared_seeds(results: Sequence[RunResult]) -> list[RunResult]:
    """Results of the seeds that all runs have, whose means alone can be compared; all results if there are none."""
    seeds = set.intersection(*({r.seed for r in results if r.run == run} for run in run_names(results)))
    return [r for r in results if r.seed in seeds] or list(results)


def over_shots(results: Sequence[RunResult]) -> list[RunResult]:
    """Runs tested with several numbers of measurements, in the configurations tested with all of these numbers."""
    shots = {run: {r.shots for r in results if r.run == run} for run in run_names(results)}
    kept = [r for r in results if len(shots[r.run]) > 1]
    numbers = {r.shots for r in kept}
    complete = {name for name in configurations(kept) if {r.shots for r in kept if r.name == name} == numbers}
    return [r for r in kept if r.name in complete]


def mean_error(results: Sequence[RunResult], run: str, metric: str) -> float:
    """Mean over configurations of the mean error at all tested positions of all seeds, NaN if there is none."""
    found: dict[str, list[np.ndarray]] = {}
    for r in results:
        if r.run == run:
            found.setdefault(r.name, []).append(r.errors[metric])
    means = [mean_defined(np.concatenate(values)) for values in found.values()]
    return mean_defined(np.array(means))


def of_backbone(results: Sequence[RunResult], run: str) -> float:
    """Errors of a run divided by those of the backbone: the geometric mean over EDT, C50, T60 and configurations."""
    logs = []
    for name in configurations([r for r in results if r.run == run]):
        here = [r for r in results if r.name == name]
        for metric in ("edt_s", "c50_db", "t60_percent"):
            with np.errstate(divide="ignore", invalid="ignore"):
                logs.append(np.log(mean_error(here, run, metric) / mean_error(here, "backbone", metric)))
    return float(np.exp(mean_defined(np.array(logs))))


def mean_defined(values: np.ndarray) -> float:
    """Mean of what is finite in values (N,), a scalar; NaN if nothing is."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")
