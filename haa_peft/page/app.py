"""The page: controls, and what follows when one changes."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.resources import files as resources
from typing import Any

import numpy as np

from haa_peft.environment import package
from haa_peft.errors import InputError
from haa_peft.maps.metrics import BANDS, BROADBAND, METRICS
from haa_peft.page import words
from haa_peft.page.answers import Answers, read_path, read_position, timed
from haa_peft.page.drawing import draw_decay, draw_plan
from haa_peft.page.hearing import BINAURAL, DRY, MONO, Asked, Hearing
from haa_peft.page.responses import links
from haa_peft.page.sounds import KINDS, LARGEST_MB, LONGEST_S

POINT, PATH = "point", "path"
MOST_PREPARED = 6
"""Other configurations that are prepared."""
OUTPUT_TEXTS = {MONO: "Mono, in the room", BINAURAL: "Binaural, in the room (headphones)", DRY: "Dry, without the room"}
PLAYER = '<audio controls preload="auto" aria-label="The sound at the chosen position"></audio>'
PLAN = (
    '<div class="plan" tabindex="0" role="application" aria-label="Floor plan. Arrow keys move the position by 0.1 m, '
    'with shift by 0.5 m; the fields below take metres.">${value}</div>'
)
NO_HRTF = ("Binaural sound needs a set of HRTFs: start the page with <code>--hrtf FILE.sofa</code>. "
           "What plays in mono is what one microphone would record.")  # fmt: skip


def text_of(file: str) -> str:
    """A file that lies beside this one."""
    return resources("haa_peft.page").joinpath(file).read_text(encoding="utf-8")


class Page:
    """The gradio page over answers and sounds.

    Parameters
    ----------
    answers, hearing : of the rooms that are offered.
    """

    def __init__(self, answers: Answers, hearing: Hearing) -> None:
        self._gr: Any = package("gradio", "the page", "listen")
        self._answers, self._hearing = answers, hearing
        self._first = answers.names[0]
        self._beside, self._latest = ThreadPoolExecutor(1, "prepare"), object()

    def blocks(self) -> Any:
        """The ``gradio.Blocks``."""
        gr = self._gr
        with gr.Blocks(title="Listen to a room", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
            gr.HTML(words.INTRODUCTION)
            with gr.Row(equal_height=False):
                with gr.Column(min_width=300):
                    self._add_room()
                with gr.Column(min_width=300):
                    self._add_sound()
            gr.HTML(words.ABOUT)
            self._connect(blocks)
        return blocks

    def _add_room(self) -> None:
        gr, answers = self._gr, self._answers
        _, number = answers.use(self._first)
        place, height = answers.start(number), answers.usual_height(number)
        rooms = answers.rooms
        room = self._first.rpartition("/")[0]
        count = len(answers.predictor.receivers)
        self.room = gr.Dropdown(list(rooms), value=room, label="Room", visible=len(rooms) > 1, elem_id="room")
        self.configuration = gr.Radio(
            rooms[room], value=self._first.rpartition("/")[2], label="Configuration", elem_id="configuration"
        )
        self.receiver = gr.Dropdown([str(i) for i in range(count)], value="0", label="Fixed point ★", visible=count > 1,
                                    elem_id="receiver")  # fmt: skip
        with gr.Row():
            names = [(words.NAMES[key][0], key) for key in METRICS]
            self.metric = gr.Dropdown(names, value="c50", label="Map of", elem_id="metric", min_width=140)
            self.band = gr.Dropdown([(_band_text(band), band) for band in BANDS], value=BROADBAND, label="Frequencies",
                                    elem_id="band", min_width=140)  # fmt: skip
        self.mode = gr.Radio([("Click: one position", POINT), ("Draw: a path", PATH)], value=POINT, label="On the plan",
                             elem_id="mode")  # fmt: skip
        self.plan = gr.HTML("", html_template=PLAN, js_on_load=text_of("plan.js"), elem_id="plan",
                            apply_default_css=False, points=[place[:2].tolist()], mode=POINT)  # fmt: skip
        with gr.Row():
            field = functools.partial(gr.Number, min_width=80, step=0.1)
            self.x = field(float(place[0]), label="x (m)", elem_id="x")
            self.y = field(float(place[1]), label="y (m)", elem_id="y")
            self.height = field(height, label="Height (m)", elem_id="height")
        with gr.Row(visible=False) as self.path_row:
            self.path = gr.Textbox("", label="Path: x y; x y; ... (m)", elem_id="path", min_width=180, scale=3)
            self.speed = gr.Number(1.0, label="Speed (m/s)", elem_id="speed", min_width=90, step=0.1)

    def _add_sound(self) -> None:
        gr = self._gr
        outputs = [(OUTPUT_TEXTS[output], output) for output in OUTPUT_TEXTS if output in self._hearing.outputs]
        self.player = gr.HTML("", html_template=PLAYER, js_on_load=text_of("player.js"), elem_id="player", sound="")
        self.caption = gr.HTML(elem_id="caption")
        self.status = gr.HTML(words.status("Loading the room ..."), elem_id="status")
        self.output = gr.Radio(outputs, value=MONO, label="Hear it", elem_id="output")
        if self._hearing.hrtf is None:
            gr.HTML(f'<p class="note">{NO_HRTF}</p>')
        with gr.Accordion("Sound and listening", open=False, elem_id="more"):
            self.upload = gr.File(label=f"Your own dry sound, up to {LONGEST_S:g} s and {LARGEST_MB} MB; without one, "
                                  "a bundled one plays", type="filepath", file_count="single",
                                  file_types=sorted(set(KINDS.values())), height=110, elem_id="upload")  # fmt: skip
            self.head = gr.Radio(words.STAR_ENDS, value="receiver", label="Where I am", elem_id="head")
            self.looks = gr.Checkbox(True, label="I look at the sound", elem_id="looks",
                                     visible=self._hearing.hrtf is not None)  # fmt: skip
            self.facing = gr.Slider(-180, 180, 0, step=5, label="I look towards (degrees from x towards y)",
                                    visible=False, elem_id="facing")  # fmt: skip
            self.equal = gr.Checkbox(False, label="Same loudness everywhere", elem_id="equal")
        self.decay = gr.HTML(elem_id="decay", elem_classes="decay", apply_default_css=False)
        self.table = gr.HTML(elem_id="table", apply_default_css=False)
        self.files = gr.HTML(elem_id="files", apply_default_css=False)

    def _connect(self, blocks: Any) -> None:
        gr = self._gr
        which = [self.room, self.configuration, self.receiver]
        where = [self.mode, self.x, self.y, self.height, self.path, self.speed]
        sound = [self.upload, self.output, self.head, self.looks, self.facing, self.equal]
        plan = {"fn": self._plan, "inputs": [*which, self.metric, self.band, self.height], "outputs": self.plan}
        hear = {"fn": self._hear, "inputs": [*which, *where, self.band, *sound],
                "outputs": [self.player, self.caption, self.decay, self.table, self.files, self.plan,
                            self.status]}  # fmt: skip
        quiet = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}
        rooms = [self.configuration, self.receiver, self.x, self.y, self.height, self.path]
        self.room.input(self._room, self.room, [*rooms, self.status], **quiet).success(**hear, **quiet).success(
            **plan, **quiet
        )
        self.looks.input(lambda looks: gr.Slider(visible=not looks), self.looks, self.facing, **quiet)
        self.mode.input(self._mode, self.mode, [self.path_row, self.plan], **quiet)
        Page._placed.__annotations__["event"] = gr.EventData  # by which gradio knows what to give
        self.plan.place(self._placed, self.mode, [self.x, self.y, self.path], **quiet).success(**hear, **quiet)
        heard = [self.configuration.input, self.receiver.input, self.band.input, self.output.input, self.head.input,
                 self.looks.input, self.facing.release, self.equal.input, self.upload.upload,
                 self.upload.clear, self.mode.input]  # fmt: skip
        for field in (self.x, self.y, self.height, self.path, self.speed):
            heard += [field.submit, field.blur]
        gr.on(heard, **hear, **quiet)
        shown = [self.configuration.input, self.receiver.input, self.metric.input, self.band.input, self.height.submit,
                 self.height.blur]  # fmt: skip
        gr.on(shown, **plan, **quiet)
        blocks.load(**hear, **quiet)
        blocks.load(**plan, **quiet)

    # what happens then

    def _use(self, room: object, configuration: object, receiver: object) -> tuple[str, int]:
        return self._answers.use(f"{room}/{configuration}", receiver)

    def _room(self, room: str) -> Any:
        gr, answers = self._gr, self._answers

        def change() -> list[Any]:
            if room not in answers.rooms:
                raise InputError(f"room {room!r:.80} is not among those offered here; choose one of the list")
            configurations = answers.rooms[room]
            _, number = answers.use(f"{room}/{configurations[0]}")
            place, count = answers.start(number), len(answers.predictor.receivers)
            return [
                gr.Radio(configurations, value=configurations[0]),
                gr.Dropdown([str(i) for i in range(count)], value="0", visible=count > 1),
                float(place[0]), float(place[1]), answers.usual_height(number), "", words.status(""),
            ]  # fmt: skip

        return self._or_say(change, 6)[0]

    def _mode(self, mode: str) -> Any:
        gr = self._gr
        return gr.Row(visible=mode == PATH), gr.HTML(mode=PATH if mode == PATH else POINT)

    def _placed(self, mode: str, event: Any) -> Any:
        points = [[float(x), float(y)] for x, y in event.points]
        if mode == PATH:
            return self._gr.skip(), self._gr.skip(), "; ".join(f"{x:g} {y:g}" for x, y in points)
        return *points[0], self._gr.skip()

    def _hear(
        self, room: str, configuration: str, receiver: str, mode: str, x: Any, y: Any, height: Any, path: str,
        speed: Any, band: str, upload: str | None, output: str, head: str, looks: bool, facing: Any,
        equal: bool,
    ) -> Any:  # fmt: skip
        gr = self._gr
        name = f"{room}/{configuration}"
        turned = None if looks or not isinstance(facing, int | float) else float(facing)
        asked = Asked(output, head, turned, bool(equal))

        def corners() -> np.ndarray:
            if mode == PATH:
                return read_path(path, float(read_position(0, 0, height)[2]))
            return read_position(x, y, height)[None]

        def played() -> list[Any]:
            _, number = self._answers.use(name, receiver)
            places, sound = corners(), self._hearing.sound(upload)
            rows = timed(places, speed) if mode == PATH else places[0]
            heard = self._hearing.render(name, number, rows, sound, asked)
            length = np.linalg.norm(np.diff(places, axis=0), axis=1).sum()
            where = f"along {length:.1f} m" if mode == PATH else f"at {x:g} {y:g} {height:g} m"
            kept = bool(self._answers.predictor.card.get("recordings"))
            flat = "; ".join(f"{place[0]:g} {place[1]:g}" for place in places)
            return [
                gr.HTML(value=f"sounds/{heard.file}", sound=str(sound.key)),
                words.caption(heard, asked, f"{name} {where}", sound.rate, kept),
                gr.skip(), gr.skip(),
                words.files(links(name, number, flat, float(places[0, 2])), heard.file),
                gr.HTML(points=places[:, :2].tolist()),
                words.status(f"{name}: ready to play."),
            ]  # fmt: skip

        def seen() -> list[Any]:
            _, number = self._answers.use(name, receiver)
            place = self._answers.at(corners()[0], band, number)
            decay, table = draw_decay(place, self._answers.rate, band), words.table(place, band)
            return [gr.skip(), gr.skip(), decay, table, gr.skip(), gr.skip(), gr.skip()]

        if mode == PATH and not str(path or "").strip():
            yield [*(gr.skip() for _ in range(6)), words.status("Draw a path on the plan, or write its corners.")]
            return
        yield [*(gr.skip() for _ in range(6)), words.status(f"{name}: computing ...")]
        heard, wrong = self._or_say(played, 6)
        yield heard
        if not wrong:
            yield self._or_say(seen, 6)[0]
            if mode == POINT:
                others = [one for one in self._answers.rooms[room] if one != configuration]
                self._prepare([f"{room}/{one}" for one in others], receiver, corners()[0], band, upload, asked)

    def _prepare(
        self, names: list[str], receiver: str, position: np.ndarray, band: str, upload: str | None, asked: Asked
    ) -> None:
        """Make the same of other configurations while nobody waits, so that swapping to them is quick."""
        self._latest = latest = object()

        def prepare() -> None:
            for name in names[:MOST_PREPARED]:
                if self._latest is not latest:
                    return
                with suppress(InputError):
                    _, number = self._answers.use(name, receiver)
                    self._hearing.render(name, number, position, self._hearing.sound(upload), asked)
                    self._answers.at(position, band, number)

        self._beside.submit(prepare)

    def _plan(self, room: str, configuration: str, receiver: str, metric: str, band: str, height: Any) -> Any:
        gr = self._gr
        try:
            name, number = self._use(room, configuration, receiver)
            z = float(read_position(0, 0, height)[2])
            place, references, *_ = self._answers.predictor.measured(number)
            about = f"Floor plan of {name} at a height of {z:g} m"
            of = BROADBAND if metric == "sti" else band
            plan = self._answers.plan(number, z)
            if not self._answers.has_map(metric, of, number, z):
                yield gr.HTML(value=draw_plan(place, references, plan, None, about))
                self._use(room, configuration, receiver)  # a generator may go on in another thread
            field = self._answers.map(metric, of, number, z)
            yield gr.HTML(value=draw_plan(place, references, plan, field, f"{about}: {words.NAMES[metric][0]}"))
        except InputError as error:
            yield gr.HTML(value=words.status(str(error), wrong=True))

    def _or_say(self, answer: Callable[[], list[Any]], others: int) -> tuple[list[Any], bool]:
        """What a handler gives, and whether it failed; then all but the status, the last one, stays as it was."""
        try:
            return answer(), False
        except InputError as error:
            said = str(error)
        except Exception:
            logging.getLogger("haa_peft").exception("the page failed")
            said = "This failed; the terminal says why."
        return [*(self._gr.skip() for _ in range(others)), words.status(said, wrong=True)], True


def _band_text(band: str) -> str:
    return "all" if band == BROADBAND else f"octave of {band} Hz"
