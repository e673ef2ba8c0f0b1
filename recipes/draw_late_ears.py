"""Check what two ears hear in a room's late field: its coherence, and its energies against the predicted RIR's.

    python recipes/draw_late_ears.py classroom-twin/base --hrtf kemar.sofa --out coherence.png

At the positions of the references, from 60 ms after the sound was sent to the end of what is modelled. The coherence is
held against the HRTFs' own mean over the sphere, and against a formula that knows no HRTFs, sinc(f / 550 Hz) (1 -
f / 2700 Hz) (Borss and Martin, AES 35th Conference, 2009). Needs matplotlib and sofar
(`pip install "haa-peft[plots,import]"`).
"""

import argparse
import io
from pathlib import Path

from haa_peft.commands.ending import command
from haa_peft.errors import InputError

with command():  # where another package does not load, it is one line
    import numpy as np
    from scipy import fft
    from scipy.signal import butter, sosfiltfilt
    from scipy.spatial import cKDTree

    from haa_peft import RoomPredictor
    from haa_peft.commands.outputs import check_writable
    from haa_peft.environment import package
    from haa_peft.files import write_atomically
    from haa_peft.listening import read_hrtf
    from haa_peft.listening.hrtf import Hrtf, diffuse_coherence, sphere_weights

RATE, FRAME, START_S, END_S = 48_000, 2048, 0.06, 0.43
BAND = (200.0, 8000.0)
SEEDS = 4
"""Of the diffuse field, at each position."""
OCTAVES = (250, 500, 1000, 2000, 4000)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="stored adapter")
    parser.add_argument("--hrtf", type=Path, required=True, metavar="FILE.sofa", help="of the ears")
    parser.add_argument("--store", help="folder of adapters (default: $HAA_PEFT_STORE or ./adapters)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.out.suffix.lower() != ".png":
        raise InputError(f"--out is {str(args.out)!r} but must end in .png")
    package("matplotlib", f"--out {args.out}", "plots")
    check_writable(args.out)
    hrtf = read_hrtf(args.hrtf)
    predictor = RoomPredictor.load(args.name, store=args.store)
    places, click = predictor.measured(0).positions, np.ones(1)
    asked = [{"position_or_path": place, "seed": seed, "receiver": 0} for place in places for seed in range(SEEDS)]
    ears = [predictor.auralise(click, RATE, output="binaural", hrtf=hrtf, **one) for one in asked]
    one = [predictor.auralise(click, RATE, **one) for one in asked]
    frequency, heard = coherence(ears)
    own, formula = mean_of(hrtf, frequency), borss_martin(frequency)
    write_atomically(args.out, draw(frequency, heard, own, formula))
    band = (frequency >= BAND[0]) & (frequency <= BAND[1])
    for what, expected in (("the HRTFs' mean", own), ("the formula", formula)):
        print(f"coherence against {what}: {np.sqrt(((heard - expected)[band] ** 2).mean()):.3f} (root mean square)")
    levels = 10 * np.log10(energies(ears) / energies(one))
    print("energies of the ears against the RIR's, dB: "
          + ", ".join(f"{octave} Hz {level:+.2f}" for octave, level in zip(OCTAVES, levels, strict=True)))  # fmt: skip
    print(f"{args.out}: {len(places)} positions in {predictor.name}, {SEEDS} seeds each")


def coherence(responses: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies and the real part of the coherence (F,) of pairs (2, T), over all and five neighbours."""
    window, cross, power = np.hanning(FRAME), np.zeros(FRAME // 2 + 1), np.zeros((2, FRAME // 2 + 1))
    for pair in responses:
        for start in range(round(START_S * RATE), round(END_S * RATE) - FRAME, FRAME // 2):
            frame = pair[:, start : start + FRAME].astype(float)
            spectra = fft.rfft(window * frame) / np.linalg.norm(frame)
            cross += (spectra[0] * spectra[1].conj()).real
            power += np.abs(spectra) ** 2
    near = np.ones(5) / 5
    cross, *both = (np.convolve(row, near, "same") for row in (cross, *power))
    return fft.rfftfreq(FRAME, 1 / RATE), cross / np.sqrt(both[0] * both[1])


def mean_of(hrtf: Hrtf, frequency: np.ndarray) -> np.ndarray:
    """Coherence (F,) of the HRTFs, averaged over the sphere."""
    size = 8 * hrtf.hrirs.shape[-1]
    _, found = diffuse_coherence(fft.rfft(hrtf.hrirs, size), sphere_weights(cKDTree(hrtf.directions)))
    return np.interp(frequency, fft.rfftfreq(size, 1 / hrtf.rate), found)


def borss_martin(frequency: np.ndarray) -> np.ndarray:
    """Their formula at frequencies (F,) in Hz."""
    return np.sinc(frequency / 550) * (1 - frequency / 2700).clip(0)


def energies(responses: list[np.ndarray]) -> np.ndarray:
    """Of octaves (5,), the channels' mean over all responses (C, T)."""
    late = slice(round(START_S * RATE), round(END_S * RATE))
    filters = [butter(2, [octave / 2**0.5, octave * 2**0.5], "band", fs=RATE, output="sos") for octave in OCTAVES]
    return np.mean([[(sosfiltfilt(sos, one, axis=-1)[:, late] ** 2).sum(axis=-1).mean() for sos in filters]
                    for one in responses], axis=0)  # fmt: skip


def draw(frequency: np.ndarray, heard: np.ndarray, own: np.ndarray, formula: np.ndarray) -> bytes:
    """The three coherences, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained", dpi=80)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.semilogx(frequency[1:], own[1:], color="black", linewidth=2.4, label="mean of the HRTFs over the sphere")
    axes.semilogx(frequency[1:], heard[1:], color="#d62728", linewidth=1.3, label="late field as heard")
    axes.semilogx(frequency[1:], formula[1:], color="#1f77b4", linestyle="--", linewidth=1.3, label="Borss and Martin")
    axes.set(xlim=(50, BAND[1]), ylim=(-0.5, 1.05), xlabel="Hz", ylabel="interaural coherence")
    axes.set_xticks([63, 125, 250, 500, 1000, 2000, 4000, 8000], [63, 125, 250, 500, "1k", "2k", "4k", "8k"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    content = io.BytesIO()
    figure.savefig(content, metadata={"Software": None})
    return content.getvalue()


if __name__ == "__main__":
    with command():
        main()
