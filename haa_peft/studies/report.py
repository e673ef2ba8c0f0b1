"""The report of a study: a Markdown page with tables, intervals and figures, made from its runs alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from haa_peft.commands.tables import figure, markdown
from haa_peft.errors import InputError
from haa_peft.files import write_atomically
from haa_peft.studies import figures
from haa_peft.studies.results import (
    KINDS,
    RunResult,
    comparable,
    configurations,
    for_every_seed,
    mean_error,
    of_backbone,
    over_shots,
    read_results,
    run_names,
    trained_names,
    usual_shots,
    with_shared_seeds,
)
from haa_peft.studies.statistics import compare_runs
from haa_peft.studies.tables import (
    HEARD,
    SHOWN,
    against_table,
    configuration_table,
    in_words,
    listed,
    mean_table,
    shots_table,
    title_of,
    transfer_table,
    verdict_table,
)

NOTES = {
    "measured": "",
    "reconstructed": "These rooms are *reconstructions*, not measured: RIRs rendered from published acoustic fits.",
    "simulated": "These rooms are simulated, not measured.",
}
PAGE = "README.md"
METHOD = (
    "Negative is better. In brackets 95 % intervals of the paired difference (bootstrap over tested positions, draws "
    "of training positions, and seeds that share a draw), then the difference in just-noticeable differences (JND; ISO "
    '3382-1:2009, table A.1: 5 % of EDT and 1 dB of C80, used for T60 and C50 too). "Better" and "worse" where the '
    'interval excludes zero, "equal" where it lies within 0.05 %. Intervals are not corrected for their number: where '
    "nothing differs, one in twenty still excludes zero. With few positions, draws or seeds they are a little short. "
    "Only positions and seeds that both rows have count. A run with another number of measurements is compared as it "
    "is, with fewer references too."
)


def write_report(
    folder: Path,
    *,
    compare_with: str,
    title: str,
    question: str,
    show: Sequence[str] | None = None,
    pairs: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write ``folder/README.md``, its figures and ``details.md`` about the runs below ``folder/runs``.

    The page is what a person reads: means, winners, figures. The details are every difference with its interval and
    every configuration.

    Parameters
    ----------
    folder : of the results.
    compare_with : the run that all others are held against, besides the backbone and nearest neighbour.
    title, question : what the page is called, and what it answers.
    show : runs in maps and decay curves; by default nearest neighbour, the backbone, an adapter and ``compare_with``.
    pairs : runs that are held against each other too, the second being the one that the first may be better than.

    Returns
    -------
    The path of the page.

    Raises
    ------
    InputError
        When a run that is named is none of the folder's.
    """
    kept = read_results(folder)
    results = for_every_seed(kept)
    names = run_names(results)
    pairs = [pair for pair in pairs if set(pair) <= set(names)]  # runs in some rooms only may be in none of these
    for run in (compare_with, *(show or ())):
        if run not in names:
            raise InputError(f"{run} is no run of {folder} but must be one of {', '.join(names)}")
    adapters = [run for run in trained_names(results) if run != compare_with]
    adapter = "lora" if "lora" in adapters else next(iter(adapters), "")
    show = list(dict.fromkeys(show or [r for r in ("nearest", "backbone", adapter, compare_with) if r in names]))
    styles = figures.run_styles(results)
    page = [f"# {title}", question, "## What this page covers", _contents(kept), *_summary(results)]
    details = [f"# {title}: details", "The page is [README.md](README.md).", METHOD]
    for kind in KINDS:
        here = [r for r in results if r.kind == kind]
        if here:
            page += _kind(here, kind, folder, compare_with, show, styles)
            details += _kind_in_detail(here, kind, compare_with)
    page += _pairs(results, pairs)
    details += _together(results, compare_with)
    page.append("## Details\n\nDifferences with intervals, and every configuration: [details.md](details.md).")
    for name, parts in (("details.md", details), (PAGE, page)):
        write_atomically(folder / name, ("\n\n".join(part for part in parts if part) + "\n").encode())
    return folder / PAGE


def _kind(
    results: list[RunResult], kind: str, folder: Path, compare_with: str, show: list[str], styles: dict
) -> list[str]:
    """The part of the page about the rooms of one kind."""
    own = [r for r in results if not r.is_transfer]
    every = comparable(own)
    usual = with_shared_seeds(every)
    seeds = listed(r.seed for r in usual)
    parts = [f"## {kind.capitalize()} rooms", NOTES[kind], _winners(usual, compare_with)]
    parts += [
        f"### Mean errors in {kind} rooms",
        f"Means over configurations of mean absolute errors at all tested positions of seeds {seeds}, with "
        f"{usual_shots(own)} measurements where the run's label names no other number. "
        "*Unchanged*: in how many runs validation kept the backbone as it was.",
        markdown(mean_table(usual)),
        _embed(figures.plot_size(usual, folder / f"size-{kind}.png", styles), "errors against weights and bytes"),
    ]
    for room in sorted({r.room for r in usual}):
        here = [r for r in usual if r.room == room]
        parts.append(_embed(figures.plot_maps(here, folder / f"map-{room}-{kind}.png", show), f"EDT errors in {room}"))
        curves = figures.plot_decay_curves(here, folder / f"decay-{room}-{kind}.png", show, styles)
        parts.append(_embed(curves, f"decay curves in {room}"))
    several = over_shots(own)
    if several:
        chart = figures.plot_shots(own, folder / f"shots-{kind}.png", styles)
        where = f"Means over {', '.join(configurations(several))}."
        table = markdown(shots_table(several, compare_with))
        parts += [f"### Number of measurements, {kind}", where, table, _embed(chart, "errors against measurements")]
    transfers = [r for r in results if r.shots == usual_shots(own)]
    chart = figures.plot_transfer(transfers, folder / f"transfer-{kind}.png")
    if chart:
        parts += [
            f"### Weights of another configuration, {kind}",
            "EDT errors with weights trained in another configuration, against the backbone without adaptation, and "
            "against weights trained where they are tested; references are those of the tested configuration.",
            markdown(transfer_table(transfers)),
            _embed(chart, "transfer"),
        ]
    return parts


def _kind_in_detail(results: list[RunResult], kind: str, compare_with: str) -> list[str]:
    """Differences and configurations, for the rooms of one kind."""
    every = comparable([r for r in results if not r.is_transfer])
    usual = with_shared_seeds(every)
    names = run_names(usual)
    parts = [f"## {kind.capitalize()} rooms", f"### Differences in {kind} rooms"]
    for other in dict.fromkeys((compare_with, "backbone", "nearest")):
        if other in names and len(names) > 1:
            parts += [f"Against `{other}`:", markdown(against_table(every, other))]
    parts.append(f"### Each configuration, {kind}")
    for column in HEARD:
        parts += [f"{column[0]}, the lowest in bold:", markdown(configuration_table(usual, column))]
    if compare_with in names:
        parts += [f"Against `{compare_with}`:", markdown(verdict_table(every, compare_with))]
    return parts


def _several(results: list[RunResult]) -> tuple[dict[str, list[RunResult]], dict[str, list[RunResult]]]:
    """Results of each kind of room, and of several kinds together."""
    own = comparable([r for r in results if not r.is_transfer])
    groups = {kind: [r for r in own if r.kind == kind] for kind in KINDS if any(r.kind == kind for r in own)}
    several: dict[str, list[RunResult]] = {}
    if len(groups) == len(KINDS):
        several["measured and reconstructed"] = groups["measured"] + groups["reconstructed"]
    if len(groups) > 1:
        several["all"] = own
    return groups, several


def _together(results: list[RunResult], compare_with: str) -> list[str]:
    """The details of rooms of several kinds together."""
    parts: list[str] = []
    for name, here in _several(results)[1].items():
        parts += [f"## {name.capitalize()} rooms", f"{len(configurations(here))} rooms, each of the same weight."]
        parts += [markdown(mean_table(with_shared_seeds(here)))]
        if compare_with in run_names(here):
            parts += [f"Against `{compare_with}`:", markdown(against_table(here, compare_with))]
    return parts


def _pairs(results: list[RunResult], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """The pairs of runs that were asked for, in rooms of each kind and of several."""
    if not pairs:
        return []
    groups, several = _several(results)
    cells = [["run", "against", "rooms", *(title_of(column) for column in SHOWN)]]
    for run, other in pairs:
        for name, here in {**groups, **several}.items():
            found = [in_words(compare_runs(here, run, other, metric)) for _, metric, *_ in SHOWN]
            cells.append([run, other, name, *found])
    return ["## Pairs", METHOD, markdown(cells)]


def _contents(results: Sequence[RunResult]) -> str:
    lines = []
    for kind in KINDS:
        rooms = []
        for name in configurations([r for r in results if r.kind == kind]):
            here = [r for r in results if r.name == name]
            every = len(np.unique(np.concatenate([r.positions for r in here])))
            each = listed(len(r.positions) for r in here)
            rooms.append(f"{name} ({each} positions" + (f" a seed, {every} in all)" if str(every) != each else ")"))
        if rooms:
            lines.append(f"{kind} rooms: {', '.join(rooms)}. {NOTES[kind]}".strip())
    backbones = listed(f"{r.backbone.get('origin')} ({str(r.backbone.get('fingerprint'))[:12]})" for r in results)
    lines += [
        f"positions: {listed(r.split for r in results)}; seeds {listed(r.seed for r in results)}; "
        f"K = {listed(r.k for r in results)} references of {listed(r.shots for r in results)} measurements",
        f"backbone {backbones}",
        "versions: " + listed(f"{name} {version}" for r in results for name, version in r.versions.items())
        + f"; commit {listed(r.commit[:12] for r in results)}; {len(results)} runs",
    ]  # fmt: skip
    labels = {r.run: r.label for r in results if r.label and r.label != r.run}
    lines += [f"`{run}`: {labels[run]}" for run in run_names(results) if run in labels]
    lines += _acceptance(results) + _draws(results)
    return "\n".join(f"- {line}" for line in lines)


def _acceptance(results: Sequence[RunResult]) -> list[str]:
    """By how many standard errors weights had to be better to be kept."""
    found = {r.settings["training"]["caution"] for r in results if "caution" in r.settings.get("training", ())}
    kept = ", ".join(f"`--caution {caution:g}`" for caution in sorted(found))
    line = f"acceptance of trained weights: {kept}; numbers made with other values are not comparable"
    return [line] if found else []


def _draws(results: Sequence[RunResult]) -> list[str]:
    """How many draws of training positions and seeds there are where, and what intervals therefore do not hold."""
    where: dict[tuple[int, int], list[str]] = {}
    for name in configurations(results):
        here = [r for r in results if r.name == name]
        where.setdefault((len({r.draw for r in here}), len({r.seed for r in here})), []).append(name)
    lines = []
    for (draws, seeds), names in where.items():
        counts = f"{draws} draw{'s' * (draws > 1)} of training positions, {seeds} seed{'s' * (seeds > 1)}"
        missing = ["the choice of training positions"] * (draws == 1) + ["training's randomness"] * (seeds == 1)
        without = f"; intervals do not include {' and '.join(missing)}" if missing else ""
        lines.append(f"{', '.join(names)}: {counts}{without}")
    return lines


def _summary(results: Sequence[RunResult]) -> list[str]:
    """All runs in one figure, the best first."""
    own = with_shared_seeds(comparable([r for r in results if not r.is_transfer]))
    if "backbone" not in run_names(own):
        return []
    ranked = sorted((of_backbone(own, run), run) for run in run_names(own))
    rows = [["run", "errors, % of the backbone's"], *([run, figure(ratio, 100)] for ratio, run in ranked)]
    note = (
        "Geometric means of the ratios of mean errors, over EDT, C50 and T60 and all configurations that a run was "
        "tested in."
    )
    return ["## In one figure", note, markdown(rows)]


def _winners(results: Sequence[RunResult], compare_with: str) -> str:
    """A paragraph: the lowest means, and where full fine-tuning and nearest neighbour win."""
    trained = trained_names(results)
    lowest = []
    for column in HEARD:
        errors = {run: mean_error(results, run, column[1]) for run in run_names(results)}
        best = min(errors, key=lambda run: errors[run] if errors[run] == errors[run] else np.inf)
        lowest.append(f"{title_of(column)} `{best}` ({figure(errors[best], *column[2:])} {column[0].split()[-1]})")
    sentences = ["Lowest mean errors: " + ", ".join(lowest) + "."]
    full = {r.run for r in results if r.group == "full"}
    of_full = compare_with if compare_with in full else next((run for run in trained if run in full), "")
    others = [run for run in trained if run not in full]
    if of_full and others:
        sentences.append(_wins(results, of_full, "full fine-tuning", others, "adapter"))
    if trained and "nearest" in run_names(results):
        sentences.append(_wins(results, "nearest", "nearest neighbour", trained, "trained run"))
    return " ".join(sentences)


def _wins(results: Sequence[RunResult], winner: str, title: str, others: Sequence[str], kind: str) -> str:
    """Where a run is better than all or some of the others, by the intervals."""
    everywhere: dict[str, list[str]] = {}
    somewhere: dict[str, list[str]] = {}
    count = 0
    for name in configurations(results):
        here = [r for r in results if r.name == name]
        for column in HEARD:
            beaten = [run for run in others if compare_runs(here, winner, run, column[1]).verdict == "better"]
            count += 1
            if len(beaten) == len(others):
                everywhere.setdefault(name, []).append(title_of(column))
            elif beaten:
                who = ", ".join(f"`{run}`" for run in beaten) if len(beaten) < 5 else f"{len(beaten)} of {len(others)}"
                somewhere.setdefault(name, []).append(f"{title_of(column)}: {who}")

    def places(found: dict[str, list[str]], mark: str) -> str:
        return "; ".join(f"{name} ({mark.join(metrics)})" for name, metrics in found.items())

    wins = sum(len(metrics) for metrics in everywhere.values())
    text = f"{title.capitalize()} (`{winner}`) is better than every {kind} in {wins} of {count} cases"
    text += f" (a configuration and a metric each): {places(everywhere, ', ')}." if wins else "."
    return text + (f" It is better than some in {places(somewhere, '; ')}." if somewhere else "")


def _embed(path: Path | None, text: str) -> str:
    return f"![{text}]({path.name})" if path else ""
