"""What the page says, as HTML."""

from __future__ import annotations

from html import escape

import numpy as np

from haa_peft.maps.metrics import BROADBAND, METRICS, Metric
from haa_peft.page.answers import Place
from haa_peft.page.hearing import BINAURAL, Asked, Heard

NAMES = {
    "c50": ("Clarity C50", "early against late energy; higher: speech is clearer"),
    "edt": ("Early decay time EDT", "how reverberant it sounds; lower: drier"),
    "t30": ("Reverberation time T30", "how long sound takes to die away by 60 dB"),
    "d50": ("Definition D50", "share of the energy within 50 ms"),
    "level": ("Level", "energy of the response; not calibrated"),
    "sti": ("Speech transmission index STI", "0 to 1, without noise; above 0.6 is good"),
}
NONE = "&ndash;"
"""Where a metric is not defined."""
INTRODUCTION = """<h1>Listen to a room</h1>
<p>A stored adapter predicts how a room sounds between the fixed point <b class="star">★</b> and any other position.
<b>Click the plan</b>, press play, and change the configuration while it plays.</p>"""
ABOUT = """<details><summary>What am I looking at?</summary>
<p><b>Plan.</b> The coloured area is the predicted metric; rings are filled with what was measured. Lines are walls at
the height of the plan, dotted ones stand above or below it. One JND (just noticeable difference) is the least that
listeners notice (ISO 3382-1).</p>
<p><b>±</b> is the standard deviation of a prediction: two errors of three are smaller. <b>&ndash;</b> stands where
0.435 s of response hold too little decay for a metric, mostly T30.</p>
<p><b>Nearest measurement.</b> Predictions are made from the measurements, so near one of them they agree by
construction; trust what they say far from all of them as far as ± allows.</p>
<p><b>Level.</b> All configurations and positions of a room are played with one gain, so that what is louder there is
louder here; “same loudness” takes that away. Sounds are made with the whole response, metrics with its first
0.435 s.</p>
</details>"""
STAR_ENDS = [("I listen at ★, the sound is at ●", "receiver"), ("I listen at ●, the sound is at ★", "source")]


def status(text: str, wrong: bool = False) -> str:
    """A line under the controls, which screen readers read out."""
    return f'<p class="status{" wrong" if wrong else ""}" role="{"alert" if wrong else "status"}">{escape(text)}</p>'


def caption(heard: Heard, asked: Asked, where: str, rate: int, recorded: bool) -> str:
    """What the player plays.

    Parameters
    ----------
    heard, asked : what was made, and how.
    where : the position or the path.
    rate : Hz.
    recorded : whether the pack keeps its recordings.
    """
    kind = {1: "mono", 2: "two ears, for headphones"}[heard.channels] if asked.output != "dry" else "dry, no room"
    parts = [kind, *([where] if asked.output != "dry" else []), f"{heard.seconds:.1f} s at {rate / 1000:g} kHz",
             f"gain {heard.gain_db + heard.lowered_db:+.1f} dB"]  # fmt: skip
    if asked.output == BINAURAL:
        parts.insert(2, "facing the sound" if asked.facing is None else f"facing {asked.facing:g}°")
    if heard.lowered_db < -0.05:
        parts.append(f"of which {heard.lowered_db:.1f} dB so that nothing clips")
    if not recorded and asked.output != "dry":
        parts.append("nothing above 11 kHz, since this adapter keeps no recordings")
    return f'<p class="caption">{escape("; ".join(parts))}</p>'


def table(place: Place, band: str) -> str:
    """All metrics at a place, against the nearest measurement.

    Parameters
    ----------
    place : with the metrics.
    band : that they are of.
    """
    rows = []
    for key, metric in METRICS.items():
        name, about = NAMES[key]
        of = ", all octaves" if key == "sti" and band != BROADBAND else ""
        value, other = place.values[key], place.there[key]
        here = _number(value, metric) + (f" ± {_digits(place.deviations[key], metric)}" if np.isfinite(value) else "")
        step = metric.step([other]) if metric.relative else metric.jnd
        apart = (value - other) / step if np.isfinite(value - other) and step > 0 else np.nan
        rows.append(f"<tr><th scope='row'>{name}{of}<small>{about}</small></th><td>{_with_unit(here, metric)}</td>"
                    f"<td>{_with_unit(_number(other, metric), metric)}</td><td>{_jnd(apart)}</td></tr>")  # fmt: skip
    of = "all frequencies" if band == BROADBAND else f"octave of {band} Hz"
    nearest = " ".join(f"{x:.2f}" for x in place.nearest)
    return (
        f"<table class='metrics'><caption>Metrics here, {of}</caption><thead><tr><th scope='col'>metric</th>"
        f"<th scope='col'>predicted here</th><th scope='col'>measured {place.away:.2f} m away</th>"
        f"<th scope='col'>difference in JND</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
        f"<p class='caption'>The nearest measurement is at {nearest} m; the fixed point ★ at "
        f"{' '.join(f'{x:.2f}' for x in place.receiver)} m.</p>"
    )


def files(addresses: dict[str, str], sound: str | None) -> str:
    """Links to what can be saved.

    Parameters
    ----------
    addresses : of RIRs, by file.
    sound : of what is played.
    """
    texts = {"rir.wav": "Room impulse response (WAV, 48 kHz, 32-bit float)",
             "rirs.sofa": "Room impulse responses (SOFA, 48 kHz)"}  # fmt: skip
    found = [f"<a href='{escape(to)}' download>{texts[kind]}</a>" for kind, to in addresses.items()]
    if sound is not None:
        found.insert(0, f"<a href='sounds/{escape(sound)}' download='heard.wav'>What is played (WAV, 16 bit)</a>")
    return f"<nav class='files' aria-label='Downloads'><b>Download</b> {' '.join(found)}</nav>"


def _digits(value: float, metric: Metric) -> str:
    places = 1 if metric.unit == "dB" else 2
    return f"{value:.{places}f}" if np.isfinite(value) else "?"


def _number(value: float, metric: Metric) -> str:
    return _digits(value, metric).replace("-", "&minus;") if np.isfinite(value) else NONE


def _with_unit(text: str, metric: Metric) -> str:
    return f"{text}&nbsp;{metric.unit}" if text != NONE and metric.unit else text


def _jnd(value: float) -> str:
    if not np.isfinite(value):
        return NONE
    kind = "small" if abs(value) <= 1 else "large"
    return f"<span class='{kind}'>{value:+.1f}</span>".replace("-", "&minus;")
