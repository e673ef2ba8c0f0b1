"""What the page shows and plays is what the predictor gives."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from haa_peft import RoomPredictor
from haa_peft.acoustics.iso import iso_metrics
from haa_peft.errors import InputError
from haa_peft.listening import dry_sound
from haa_peft.page import words
from haa_peft.page.answers import MOST_STOPS, Answers, read_path, read_position, stops, timed
from haa_peft.page.curves import decay_curves
from haa_peft.page.hearing import LOUDNESS, MOST_FILES, Asked, Hearing, Sound
from haa_peft.page.responses import links, response_file

STORE = Path(__file__).parents[2] / "adapters"
NAMES = ["classroom-twin/base", "classroom-twin/panel"]
HERE = np.array([4.9, 2.0, 1.3])
CLICK = Sound("click", np.eye(1, 2400)[0], 24_000)


@pytest.fixture(scope="module")
def answers():
    return Answers(RoomPredictor.load(NAMES[0], store=STORE), NAMES)


@pytest.fixture
def hearing(answers, tmp_path):
    return Hearing(answers, tmp_path)


def test_configurations_are_those_of_a_room():
    predictor = RoomPredictor.load(NAMES[0], store=STORE)
    found = Answers(predictor, [*NAMES, "hf://user/rooms/hall/a", "hf://user/rooms/hall/b"]).rooms
    assert found == {"classroom-twin": ["base", "panel"], "hf://user/rooms/hall": ["a", "b"]}


@pytest.mark.parametrize(
    ("name", "receiver"),
    [("classroom-twin/rotation", 0), ("../../etc", 0), (None, 0), (["a"], 0), (NAMES[0], 1), (NAMES[0], "x"),
     (NAMES[0], -1), (NAMES[0], True)],
)  # fmt: skip
def test_what_is_not_offered_is_refused(answers, name, receiver):
    with pytest.raises(InputError, match="not among those offered|receiver is"):
        answers.use(name, receiver)


@pytest.mark.parametrize("band", ["broadband", "1000"])
def test_metrics_are_those_of_the_prediction(answers, band):
    answers.use(NAMES[0])
    place = answers.at(HERE, band, 0)
    predictor = RoomPredictor.load(NAMES[0], store=STORE)
    rir = predictor.predict(HERE) * predictor.scale
    np.testing.assert_allclose(place.rir, rir[0], rtol=1e-5, atol=1e-9)
    expected = iso_metrics(rir, 22_050, bands=() if band == "broadband" else (1000,))[band]
    assert place.values["c50"] == pytest.approx(expected["c50_db"][0], rel=1e-4)
    assert place.values["edt"] == pytest.approx(expected["edt_s"][0], rel=1e-4)
    _, positions, rirs, _ = predictor.measured()
    row = np.linalg.norm(positions - HERE, axis=1).argmin()
    assert place.away == pytest.approx(np.linalg.norm(positions[row] - HERE))
    known = iso_metrics(rirs[[row]], 22_050, bands=() if band == "broadband" else (1000,))[band]
    assert place.there["d50"] == pytest.approx(known["d50"][0])
    assert place.deviations["c50"] > 0


def test_the_table_says_differences_in_just_noticeable_ones(answers):
    answers.use(NAMES[0])
    place = answers.at(HERE, "broadband", 0)
    said = words.table(place, "broadband")
    apart = place.values["c50"] - place.there["c50"]
    assert f"{apart:+.1f}".replace("-", "&minus;") in said  # 1 dB each
    assert f"{place.values['edt']:.2f} ±" in said
    relative = (place.values["edt"] / place.there["edt"] - 1) / 0.05
    assert f"{relative:+.1f}".replace("-", "&minus;") in said


def test_decay_curves_of_an_exponential_decay_are_straight():
    rate, t60 = 22_050, 0.4
    time = np.arange(9600) / rate
    rng = np.random.default_rng(0)
    rirs = rng.standard_normal((3, 9600)) * 10 ** (-3 * time / t60)
    rirs[:, 0] = 3
    for band in ("broadband", "1000"):
        at, curves = decay_curves(rirs, rate, band)
        for curve in curves:
            inside = (at[: len(curve)] > 0.02) & (curve > -40)
            slope = np.polyfit(at[: len(curve)][inside], curve[inside], 1)[0]
            assert slope == pytest.approx(-60 / t60, rel=0.06)
            assert np.diff(curve).max() < 0.01  # where noise is taken off


def test_a_path_is_walked_at_its_speed():
    corners = read_path("1 1; 3, 1; 3 2", 1.2)
    np.testing.assert_array_equal(corners, [[1, 1, 1.2], [3, 1, 1.2], [3, 2, 1.2]])
    rows = timed(corners, 0.5)
    assert (np.diff(rows[:, 0]) > 0).all()
    assert rows[-1, 0] == pytest.approx(3 / 0.5)
    assert len(np.unique(rows[:, 1:], axis=0)) <= MOST_STOPS
    so_far = np.concatenate([[0], np.linalg.norm(np.diff(rows[:, 1:], axis=0), axis=1).cumsum()])
    np.testing.assert_allclose(so_far, rows[:, 0] * 0.5, atol=3 / (MOST_STOPS - 1) + 0.05)
    np.testing.assert_allclose(rows[[0, -1], 1:], corners[[0, -1]])
    apart = np.linalg.norm(np.diff(stops(corners), axis=0), axis=1)
    assert apart.max() <= 0.25 + 1e-9


@pytest.mark.parametrize("text", ["", "1 1", "1 1; 2", "1 1; a b", "1 1; nan 2", "1 1; 2 2 2", "1e9 1; 2 2", None, 5,
                                  "; ".join(["1 1"] * 201)])  # fmt: skip
def test_what_is_no_path_is_refused(text):
    with pytest.raises(InputError, match="path"):
        read_path(text, 1.0)


@pytest.mark.parametrize("speed", [0, -1, 100, "fast", None, True, float("nan")])
def test_what_is_no_speed_is_refused(speed):
    with pytest.raises(InputError, match="speed is"):
        timed(read_path("1 1; 2 2", 1.0), speed)


@pytest.mark.parametrize("given", [None, "1", float("nan"), 1e9, True, [1]])
def test_what_is_no_position_is_refused(given):
    with pytest.raises(InputError, match="must be"):
        read_position(given, 1, 1)


def test_a_click_is_heard_as_the_response(answers, hearing):
    """Both configurations with one gain, whichever would clip: files differ as the responses do."""
    gains = []
    for name in (*NAMES, NAMES[0]):
        answers.use(name)
        heard = hearing.render(name, 0, HERE, CLICK, Asked())
        samples, rate = soundfile.read(hearing.path(heard.file))
        predictor = RoomPredictor.load(name, store=STORE)
        rir = predictor.predict(HERE, sample_rate=24_000, length="full")[0] * predictor.scale
        rir = np.pad(rir, (0, len(samples) - len(rir)))
        gain = (samples @ rir) / (rir @ rir)
        assert rate == 24_000
        np.testing.assert_allclose(samples, gain * rir, atol=4e-5)  # a step of 16 bits
        assert 20 * np.log10(gain) == pytest.approx(heard.gain_db + heard.lowered_db, abs=0.01)
        gains.append(gain)
    assert gains[2] == pytest.approx(gains[1], rel=1e-3)


def test_loudness_is_made_equal_where_asked(answers, hearing):
    pyln = pytest.importorskip("pyloudnorm")
    samples, rate = dry_sound()
    for asked in (Asked(equal=True), Asked("dry")):
        answers.use(NAMES[0])
        heard = hearing.render(NAMES[0], 0, HERE, Sound("dry", samples, rate), asked)
        found, _ = soundfile.read(hearing.path(heard.file))
        assert pyln.Meter(rate).integrated_loudness(found) == pytest.approx(LOUDNESS + heard.lowered_db, abs=0.1)


def test_nothing_clips(answers, hearing):
    answers.use(NAMES[0])
    near = answers.predictor.receivers[0] + [0.3, 0, 0]
    heard = hearing.render(NAMES[0], 0, near, Sound("noise", np.sign(np.sin(np.arange(24_000) / 3)), 24_000), Asked())
    found, _ = soundfile.read(hearing.path(heard.file))
    assert abs(found).max() <= 0.991


def test_only_the_latest_files_are_kept(answers, hearing, tmp_path):
    answers.use(NAMES[0])
    first = hearing.render(NAMES[0], 0, HERE, CLICK, Asked("dry"))
    assert hearing.render(NAMES[0], 0, HERE, CLICK, Asked("dry")) == first
    for i in range(MOST_FILES):
        hearing.render(NAMES[0], 0, HERE + 0.01 * (i + 1), CLICK, Asked("dry"))
    assert len(list(tmp_path.glob("*.wav"))) == MOST_FILES
    assert hearing.path(first.file) is None
    assert hearing.path("../answers.py") is None


def test_binaural_sound_is_not_offered_without_hrtfs(answers, hearing):
    assert hearing.outputs == ["dry", "mono"]
    answers.use(NAMES[0])
    with pytest.raises(InputError, match="must be one of dry, mono"):
        hearing.render(NAMES[0], 0, HERE, CLICK, Asked("binaural"))


def test_a_walk_that_is_too_long_is_refused(answers, hearing):
    answers.use(NAMES[0])
    rows = np.array([[0, 1, 1, 1.3], [31, 2, 2, 1.3]])
    with pytest.raises(InputError, match="takes 31 s but at most 30 s"):
        hearing.render(NAMES[0], 0, rows, CLICK, Asked())


def asked_for(address):
    """Of a link, as the server gets it."""
    from urllib.parse import parse_qsl

    kind, _, query = address.partition("?")
    return kind, dict(parse_qsl(query))


def test_files_hold_the_responses(answers, tmp_path):
    sofar = pytest.importorskip("sofar")
    predictor = RoomPredictor.load(NAMES[1], store=STORE)
    expected = predictor.predict(HERE, sample_rate=48_000, length="full")[0] * predictor.scale
    addresses = links(NAMES[1], 0, "4.9 2", 1.3)
    kind, query = asked_for(addresses["rir.wav"])
    samples, rate = soundfile.read(io.BytesIO(response_file(answers, kind, **query)))
    assert rate == 48_000
    np.testing.assert_allclose(samples, expected, atol=1e-7)
    path = links(NAMES[1], 0, "4.9 2; 5.9 2", 1.3)
    assert set(path) == {"rirs.sofa"}
    kind, query = asked_for(path["rirs.sofa"])
    (tmp_path / "found.sofa").write_bytes(response_file(answers, kind, **query))
    sofa = sofar.read_sofa(str(tmp_path / "found.sofa"), verbose=False)
    assert sofa.Data_SamplingRate == 48_000
    np.testing.assert_allclose(sofa.SourcePosition[:, 0], [4.9, 5.15, 5.4, 5.65, 5.9])
    np.testing.assert_allclose(sofa.Data_IR[0, 0], expected, atol=1e-6)  # in a batch of five


@pytest.mark.parametrize(
    "changed",
    [{"name": "classroom-twin/rotation"}, {"name": "../base"}, {"positions": "99 1"}, {"positions": "a"},
     {"height": "x"}, {"height": "nan"}, {"receiver": "7"}, {"positions": "1 1; 2 2"}, {"positions": "1 1; 1e4 1"}],
)  # fmt: skip
def test_other_files_are_not_made(answers, changed):
    query = {"name": NAMES[0], "receiver": "0", "positions": "4.9 2", "height": "1.3", **changed}
    with pytest.raises(InputError):
        response_file(answers, "rir.wav", **query)


def test_a_sound_that_would_clip_lowers_its_room_and_what_plays_stays(answers, hearing, monkeypatch):
    monkeypatch.setattr("haa_peft.page.hearing.LOUDEST", 50.0)
    monkeypatch.setattr("haa_peft.page.hearing.LOUDNESS", -3.0)
    answers.use(NAMES[0])
    far, near = (answers.predictor.receivers[0] + [0, -away, 0] for away in (5, 0.5))
    first = hearing.render(NAMES[0], 0, far, CLICK, Asked())
    lowered = hearing.render(NAMES[0], 0, near, CLICK, Asked())
    assert lowered.lowered_db < first.lowered_db
    assert hearing.path(first.file).is_file()
    again = hearing.render(NAMES[0], 0, far, CLICK, Asked())
    assert again.file != first.file
    assert again.lowered_db == lowered.lowered_db


def test_what_several_ask_for_at_once_is_one_file(answers, hearing, tmp_path):
    def ask(_):
        answers.use(NAMES[0])
        return hearing.render(NAMES[0], 0, HERE, CLICK, Asked())

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(ask, range(8)))
    assert len(found) == len(list(tmp_path.glob("*.wav"))) == 1
    assert hearing.path(found.pop().file).is_file()
