"""What a simulated corpus holds: distributions as a page and a figure."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from haa_peft.acoustics.paper import paper_metrics
from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.commands.tables import markdown
from haa_peft.errors import InputError
from haa_peft.files import write_atomically
from haa_peft.simulation.corpus import Corpus

PERCENTILES = (1, 10, 50, 90, 99)
QUANTITIES = {
    "volume": "volume (m3)",
    "t60": "decay time drawn (s)",
    "t60_20_s": "T60 of the RIRs (s)",
    "edt_s": "EDT (s)",
    "c50_db": "C50 (dB)",
    "distance": "distance (m)",
    "absorption": "mean absorption",
}


def corpus_quantities(corpus: Corpus) -> dict[str, np.ndarray]:
    """Per room ``volume``, ``t60`` as drawn, mean ``absorption``; per RIR the paper's metrics, distance; (N,) each."""
    from tqdm import tqdm

    found: dict[str, list[np.ndarray]] = {name: [] for name in QUANTITIES}
    for index in tqdm(range(len(corpus)), desc="measuring", unit="room"):
        row, room = corpus.rows[index], corpus[index]
        for name in ("volume", "t60"):
            found[name].append(np.atleast_1d(row[name]))
        found["absorption"].append(np.atleast_1d(np.mean(row["absorption"])))
        metrics = paper_metrics(room.rirs, SAMPLE_RATE)
        for name in ("t60_20_s", "edt_s", "c50_db"):
            found[name].append(metrics[name])
        found["distance"].append(np.linalg.norm(room.positions - room.receiver, axis=1))
    return {name: np.concatenate(values) for name, values in found.items()}


def write_card(folder: Path, out: Path) -> str:
    """Write ``README.md`` and ``corpus.png`` about a corpus to ``out``; gives the page.

    Raises ``InputError`` without matplotlib.
    """
    if find_spec("matplotlib") is None:
        raise InputError('a data card needs the package matplotlib; pip install "haa-peft[plots]"')
    corpus = Corpus(folder)
    about = corpus.about()
    quantities = corpus_quantities(corpus)
    table = [["", *(f"{p} %" for p in PERCENTILES), "undefined"]]
    for name, label in QUANTITIES.items():
        values = quantities[name]
        defined = values[np.isfinite(values)]
        figures = [f"{v:.3g}" for v in np.percentile(defined, PERCENTILES)]
        table.append([label, *figures, str(len(values) - len(defined))])
    kinds, counts = np.unique(corpus.rows["plan"], return_counts=True)
    share = {
        **{f"plan {kind}": count for kind, count in zip(kinds, counts, strict=True)},
        "directional": np.sum(corpus.rows["directional"]),
        "with obstacles": np.sum(np.array(corpus.rows["obstacles"]) > 0),
    }
    page = "\n".join(
        [
            "# Simulated corpus",
            "",
            f"{len(corpus)} rooms of {about['sources_per_room']} positions, format {about['format']}, "
            f"seed {about['seed']}{', outside the training distribution' if about['odd'] else ''}; "
            f"SHA-256 of the shards {corpus.fingerprint()}.",
            "",
            markdown(table),
            "",
            "Rooms: " + ", ".join(f"{name} {100 * count / len(corpus):.0f} %" for name, count in share.items()) + ".",
            "",
            "RIRs are cut at 0.435 s, so the T60 read from them stays near or below 1 s however long a room decays.",
            "Beyond 17 m sound arrives after 0.05 s: C50, counted from the start, is then undefined or far below 0 dB.",
            "",
            "![distributions](corpus.png)",
            "",
        ]
    )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "corpus.png", _figure(quantities))
    write_atomically(out / "README.md", page.encode())
    return page


def _figure(quantities: dict[str, np.ndarray]) -> bytes:
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6), layout="constrained")
    *axes, last = figure.subplots(2, 4).flat
    for axis, (name, label) in zip(axes, QUANTITIES.items(), strict=True):
        values = quantities[name][np.isfinite(quantities[name])]
        is_wide = name in ("volume", "t60", "t60_20_s", "edt_s") and values.min() > 0
        bins = np.geomspace(values.min(), values.max(), 40) if is_wide else 40
        axis.hist(values, bins=bins, color="tab:blue")
        axis.set(xlabel=label, ylabel="rooms" if name in ("volume", "t60", "absorption") else "RIRs")
        if is_wide:
            axis.set_xscale("log")
    edt, c50 = quantities["edt_s"], quantities["c50_db"]
    last.plot(edt[:20_000], c50[:20_000], ".", markersize=1)
    last.set(xlabel="EDT (s)", ylabel="C50 (dB)", xscale="log")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=80)
    return content.getvalue()
