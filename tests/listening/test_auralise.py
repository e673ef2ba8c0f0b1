"""Sounds in rooms: at rest they are a convolution, and along a path nothing clicks."""

import numpy as np
import pytest
import soundfile
from scipy.signal import convolve

from haa_peft import RoomPredictor, load_room
from haa_peft.cli import main
from haa_peft.errors import InputError
from haa_peft.listening import command, dry_sound, in_room, read_path, stream
from haa_peft.listening.convolve import CHUNK, heard_along, intervals, sent_along
from haa_peft.store.folder import write_pack
from haa_peft.store.names import AdapterName
from tests.listening.test_spatial import spaced_ears, write_sofa
from tests.store.test_store import make_pack

RATE = 16_000
PLACE = [4.0, 1.0, 1.3]


@pytest.fixture
def store(room_folder, tiny_backbone, tmp_path):
    room = load_room(room_folder)
    for configuration, shift in (("base", 0.01), ("other", 0.3)):
        write_pack(tmp_path / "store", make_pack(room, tiny_backbone, AdapterName("studio", configuration), shift))
    return tmp_path / "store"


@pytest.fixture
def predictor(store, tiny_backbone):
    return RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)


@pytest.fixture
def dry():
    return np.random.default_rng(0).standard_normal(RATE).astype(np.float32)


@pytest.mark.parametrize("head", ["receiver", "source"])
@pytest.mark.parametrize("path", [PLACE, [[0.0, *PLACE], [0.4, *PLACE], [2.0, *PLACE]]], ids=["position", "path"])
def test_at_rest_it_is_a_convolution(path, head, predictor, dry):
    rir = predictor.predict(PLACE, sample_rate=RATE, length="full")[0] * predictor.scale
    expected = convolve(dry.astype(float), rir.astype(float), method="direct")
    found = predictor.auralise(dry, RATE, path, head=head)
    assert found.dtype == np.float32
    assert found.shape == (1, len(expected))
    np.testing.assert_allclose(found[0], expected, atol=1e-6 * abs(expected).max())


def moved(speed, echo=0.5, seconds=2.0, hop=0.05):
    """Poses and edges in samples of a straight path, RIRs with a direct sound and an echo, and delays in samples."""
    edges = np.append(np.arange(0, seconds * RATE, hop * RATE), seconds * RATE).astype(int)
    poses = np.zeros((len(edges), 5))
    poses[:, 0] = 3 + speed * edges / RATE
    rirs = np.zeros((len(edges), 1, 2000))
    taps = np.arange(2000)
    for rir, x in zip(rirs, poses[:, 0], strict=True):
        for length, gain in ((x, 1 / x), (12 - x, echo / (12 - x))):
            rir[0] += gain * np.sinc(taps - length / 343 * RATE)
    return poses, edges, rirs, poses[:, 0] / 343 * RATE


def splatter_db(sound, frequency, width=60.0):
    """Energy farther than ``width`` Hz from a sine, against that nearer, dB."""
    power = np.abs(np.fft.rfft(sound * np.blackman(len(sound)))) ** 2
    away = np.abs(np.fft.rfftfreq(len(sound), 1 / RATE) - frequency) > width
    return 10 * np.log10(power[away].sum() / power[~away].sum())


@pytest.mark.parametrize("moving", [sent_along, heard_along])
def test_along_a_path_a_sine_has_no_clicks(moving):
    """A switch without a cross-fade splatters more than 15 dB more."""
    poses, edges, rirs, delays = moved(1.0)
    sine = np.sin(2 * np.pi * 500 * np.arange(edges[-1]) / RATE)
    _, parts = intervals(poses, edges)
    middle = slice(4000, edges[-1] - 4000)
    faded = np.concatenate(list(moving(sine, rirs, delays, parts)), axis=1)[0, middle]
    naive = np.zeros(edges[-1] + 2000)
    for start, stop, first, _ in parts:
        piece = convolve(sine[start:stop], rirs[first, 0])
        naive[start : start + len(piece)] += piece
    assert splatter_db(faded, 500) < -60
    assert splatter_db(naive[middle], 500) > -45
    steps = np.abs(np.diff(faded, 2)).max()
    assert steps < 1.1 * (2 * np.pi * 500 / RATE) ** 2 * np.abs(faded).max()


@pytest.mark.parametrize(("moving", "speed"), [(sent_along, 2.0), (sent_along, -1.2), (heard_along, 2.0)])
def test_a_sine_that_moves_is_shifted_after_doppler(moving, speed):
    """In the free field, p(t) = sin(2 pi f s) / d(s): sent at s and heard at t = s + d(s) / c."""
    poses, edges, rirs, delays = moved(speed, echo=0.0, seconds=1.5)
    t, frequency = np.arange(edges[-1]) / RATE, 3000.0
    sine, (_, parts) = np.sin(2 * np.pi * frequency * t), intervals(poses, edges)
    found, faded = (np.concatenate(list(moving(sine, rirs, own, parts)), axis=1)[0] for own in (delays, 0 * delays))
    if moving is sent_along:
        sent = (t - 3 / 343) / (1 + speed / 343)
        distance = 3 + speed * sent
    else:
        distance = 3 + speed * t
        sent = t - distance / 343
    middle = slice(4000, len(t) - 4000)
    expected = (np.sin(2 * np.pi * frequency * sent) / distance)[middle]
    power = (expected**2).mean()
    assert ((found[middle] - expected) ** 2).mean() < 0.02**2 * power
    assert ((faded[middle] - expected) ** 2).mean() > 0.3**2 * power  # cross-fades alone


def test_a_jump_is_a_cross_fade():
    poses, edges, rirs, delays = moved(1.0, seconds=0.5)
    poses[5:, 0] += 4
    rirs[5:], delays[5:] = rirs[5:, :, ::-1], 100
    _, parts = intervals(poses, edges)
    for moving in (sent_along, heard_along):
        assert np.isfinite(np.concatenate(list(moving(np.ones(edges[-1]), rirs, delays, parts)), axis=1)).all()


def test_along_a_path_it_begins_and_ends_as_at_its_ends(predictor, dry):
    there = [1.0, 3.0, 1.3]
    path = [[0.3, *PLACE], [0.6, *there]]
    sound = np.concatenate([dry[:3200], np.zeros(9600), dry[:3200]])
    found = predictor.auralise(sound, RATE, path)[0]
    rirs = predictor.predict([PLACE, there], sample_rate=RATE, length="full") * predictor.scale
    first, last = (convolve(dry[:3200].astype(float), rir) for rir in rirs)
    expected = np.zeros(len(found))
    expected[: len(first)] = first
    expected[12_800:] += last
    np.testing.assert_allclose(found, expected, atol=1e-5 * abs(expected).max())


def test_a_moving_head_hears_the_tail_where_it_is_then(predictor):
    """A click at the start is heard by each place's own RIR at the time when the head is there."""
    there = [1.0, 3.0, 1.3]
    click = np.zeros(RATE // 10)
    click[0] = 1
    path = [[0.1, *PLACE], [0.2, *there]]
    heard, sent = (predictor.auralise(click, RATE, path, head=head)[0] for head in ("source", "receiver"))
    here, last = predictor.predict([PLACE, there], sample_rate=RATE, length="full") * predictor.scale
    late = slice(RATE // 4, len(last))
    np.testing.assert_allclose(heard[late], last[late], atol=1e-5 * abs(last).max())
    np.testing.assert_allclose(sent[: len(here)], here, atol=1e-5 * abs(here).max())


def click(at=0, count=200):
    sound = np.zeros(count)
    sound[at] = 1
    return sound


@pytest.mark.parametrize(("head", "sign"), [("receiver", 1), ("source", -1)])
def test_the_direct_sound_comes_from_the_other_end(head, sign, predictor):
    """Of a head at the receiver from the position; of one at the position from the receiver."""
    receiver = predictor.receivers[0]
    away = np.array(PLACE) - receiver
    distance = np.linalg.norm(away)
    arrival = slice(*(np.array([-0.0005, 0.001]) * RATE + distance / 343 * RATE).round().astype(int))
    for facing, (x, y) in ((0, away[:2]), (90, [away[1], -away[0]]), (None, [sign * np.hypot(*away[:2]), 0])):
        w, left, up, front = predictor.auralise(click(), RATE, PLACE, output="ambisonics", head=head, facing=facing)[
            :, arrival
        ]
        for channel, share in ((front, x), (left, y), (up, away[2])):
            np.testing.assert_allclose(channel @ w / (w @ w), sign * share / distance, atol=1e-5)


def test_the_first_ambisonics_channel_is_the_mono_sound(predictor, dry):
    path = [[0.0, *PLACE], [0.5, 1.0, 3.0, 1.3]]
    mono = predictor.auralise(dry, RATE, path)
    found = predictor.auralise(dry, RATE, path, output="ambisonics")
    assert found.shape == (4, mono.shape[1])
    np.testing.assert_allclose(found[:1], mono, atol=1e-6 * abs(mono).max())


@pytest.mark.parametrize("head", ["receiver", "source"])
def test_ears_at_rest_hear_a_convolution(head, predictor, dry):
    ears = {"output": "binaural", "hrtf": spaced_ears(), "head": head}
    responses = predictor.auralise(click(), RATE, PLACE, facing=(20, 5), **ears)[:, :-199]
    path = [[0.0, *PLACE, 20, 5], [0.5, *PLACE, 20, 5], [1.0, *PLACE, 20, 5]]
    found = predictor.auralise(dry, RATE, path, **ears)
    expected = np.stack([convolve(dry.astype(float), one.astype(float)) for one in responses])
    np.testing.assert_allclose(found, expected, atol=2e-6 * abs(expected).max())


def test_a_head_that_turns_ends_as_one_that_is_turned(predictor):
    ears = {"output": "binaural", "hrtf": spaced_ears()}
    turning = predictor.auralise(click(3000, 3200), RATE, [[0.0, *PLACE, 350], [0.1, *PLACE, 380]], **ears)
    turned = predictor.auralise(click(3000, 3200), RATE, PLACE, facing=20, **ears)
    np.testing.assert_allclose(turning, turned, atol=1e-6 * abs(turned).max())


def test_several_channels_are_averaged(predictor, dry):
    both = np.stack([dry, np.zeros_like(dry)], axis=1)
    half, whole = (predictor.auralise(one, RATE, PLACE) for one in (both, dry))
    np.testing.assert_allclose(half, whole / 2, atol=1e-6 * abs(whole).max())


WRONG = [
    ({"dry": np.array([0.0, np.nan])}, "dry holds NaN or infinity"),
    ({"dry": []}, "dry is"),
    ({"rate": 100}, "sample_rate is 100 but must be a whole number from 8000"),
    ({"where": [1.0, 2.0]}, r"path is \(2,\) but must be a position \(3,\) in m, or rows"),
    ({"where": [[0, *PLACE], [0, *PLACE]]}, "path: time 0 s does not follow 0 s"),
    ({"where": [[0, *PLACE], [1, 9.0, 1.0, 1.0]]}, "lies outside studio/base"),
    ({"where": [[0, 2.0, 1.5, 1.2]]}, "lies at the receiver"),
    ({"head": "ear"}, "head is 'ear' but must be one of receiver, source"),
    ({"output": "quad"}, "output is 'quad' but must be one of mono"),
    ({"output": "binaural"}, "binaural output needs hrtf"),
    ({"output": "ambisonics", "hrtf": "head.sofa"}, "another output needs none"),
    ({"output": "binaural", "hrtf": "no.sofa"}, "no.sofa: cannot be read as a SOFA file"),
    ({"output": "ambisonics", "facing": [1, 2, 3]}, "facing is .* but must be yaw, or yaw and pitch, in degrees"),
    ({"output": "ambisonics", "facing": 0, "where": [[0, *PLACE, 90]]}, "the path has a column yaw"),
    ({"facing": 0}, "mono output hears all directions alike"),
]
"""Arguments, and what is said of them."""


def test_what_cannot_be_is_said(predictor, dry):
    for change, message in WRONG:
        given = {"dry": dry, "rate": RATE, "where": PLACE, **change}
        more = {key: given[key] for key in ("head", "output", "hrtf", "facing") if key in given}
        with pytest.raises(InputError, match=message):
            predictor.auralise(given["dry"], given["rate"], given["where"], **more)


@pytest.mark.parametrize("head", ["receiver", "source"])
def test_a_long_sound_comes_in_blocks(head, predictor):
    sound = np.ones(3 * CHUNK, dtype=np.float32)
    blocks = [block.shape[1] for block in stream(predictor, sound, RATE, PLACE, head=head)]
    assert max(blocks) <= CHUNK
    assert sum(blocks) == len(sound) + round(predictor.full_length * RATE) - 1


def test_the_command_offers_what_there_is():
    assert (command.OUTPUTS, command.HEADS) == (in_room.OUTPUTS, in_room.HEADS)


def test_the_dry_sound_is_the_same_each_time():
    sound, rate = dry_sound()
    dry_sound.cache_clear()
    np.testing.assert_array_equal(dry_sound()[0], sound)
    assert rate == 48_000
    assert np.abs(sound).max() == pytest.approx(0.7)
    notes, claps, speech = np.split(sound, [3 * rate, round(4.8 * rate)])
    loud = [np.sqrt((part**2).mean()) for part in (notes, claps, speech)]
    assert min(loud) > 0.01


def test_a_path_of_a_table(tmp_path):
    file = tmp_path / "path.csv"
    file.write_text("# a walk\ntime, x, y, z, yaw\n0,1,2,1.5,350\n1.5,2,2,1.5,10\n")
    np.testing.assert_array_equal(read_path(file), [[0, 1, 2, 1.5, 350], [1.5, 2, 2, 1.5, 10]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,z\n1,2,3\n", "must begin with time,x,y,z"),
        ("", "must begin with time,x,y,z"),
        ("time,x,y,z\n0,1,2\n", "row 2 has 3 cells"),
        ("time,x,y,z\n0,1,2,high\n", "must be numbers"),
        ("time,x,y,z\n", "but must be a position"),
        ("time,x,y,z\n0,1,2,inf\n", "NaN or infinity"),
    ],
)
def test_a_bad_table_is_said(text, message, tmp_path):
    file = tmp_path / "path.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_path(file)


def run(*arguments):
    main(["auralise", *map(str, arguments)])


def files_said(capsys):
    said = capsys.readouterr().out.splitlines()
    return [line for line in said if not line.startswith("note: ")]


def test_two_configurations_get_one_gain(predictor, store, tiny_backbone_file, tmp_path, capsys):
    dry = np.random.default_rng(1).uniform(-0.5, 0.5, (4000, 1))
    soundfile.write(tmp_path / "dry.wav", dry, RATE, subtype="FLOAT")
    out = [tmp_path / "a.wav", tmp_path / "b.flac"]
    common = ["--dry", tmp_path / "dry.wav", "--position", *PLACE, "--store", store, "--backbone", tiny_backbone_file]
    run("studio/base", "studio/other", *common, "--out", *out)
    heard = []
    for name in ("studio/base", "studio/other"):
        predictor.switch(name)
        heard.append(predictor.auralise(dry, RATE, PLACE)[0])
    gain = 10 ** (-1 / 20) / max(abs(one).max() for one in heard)
    for file, one in zip(out, heard, strict=True):
        written, rate = soundfile.read(file)
        assert rate == RATE
        np.testing.assert_allclose(written, one * gain, atol=1e-6)
    said = files_said(capsys)
    assert all(f"gain {20 * np.log10(gain):+.2f} dB," in line for line in said)
    run("studio/base", "studio/other", *common, "--out", *out, "--same-loudness")
    lufs = [line.rsplit(", ", 1)[1] for line in files_said(capsys)]
    assert lufs[0] == lufs[1]
    assert lufs[0].endswith(" LUFS")


@pytest.mark.parametrize(("output", "channels"), [("binaural", 2), ("ambisonics", 4)])
def test_files_of_ears_and_ambisonics(output, channels, predictor, store, tiny_backbone_file, tmp_path):
    soundfile.write(tmp_path / "dry.wav", click()[:, None], RATE, subtype="FLOAT")
    (tmp_path / "path.csv").write_text("time,x,y,z,yaw\n0,4,1,1.3,0\n0.1,4,1.2,1.3,30\n")
    write_sofa(tmp_path / "head.sofa", spaced_ears(count=100))
    more = {"hrtf": tmp_path / "head.sofa"} if output == "binaural" else {}
    run("studio/base", "--dry", tmp_path / "dry.wav", "--path", tmp_path / "path.csv", "--store", store, "--backbone",
        tiny_backbone_file, "--out", tmp_path / "a.wav", "--output", output,
        *(word for key, value in more.items() for word in (f"--{key}", value)))  # fmt: skip
    written, _ = soundfile.read(tmp_path / "a.wav")
    expected = predictor.auralise(click(), RATE, read_path(tmp_path / "path.csv"), output=output, **more)
    assert len(expected) == channels
    np.testing.assert_allclose(written.T, expected * (10 ** (-1 / 20) / abs(expected).max()), atol=1e-5)


COMMANDS = [
    (["--position", "1", "1", "1", "--out", "a.wav", "--output", "binaural"], "--output binaural needs --hrtf"),
    (["--position", "1", "1", "1", "--out", "a.mp3"], "--out is 'a.mp3' but must end in .wav or .flac"),
    (["--position", "1", "1", "1", "--out", "a.wav", "b.wav"], "--out names 2 files but there are 1 adapters"),
    (["--out", "a.wav"], "one of --position and --path is needed"),
    (["--position", "1", "1", "1", "--out", "a.wav", "--gain", "200"], "--gain 200 would clip; give at most"),
    (["--path", "no.csv", "--out", "a.wav"], "no.csv: cannot be read as a table"),
    (["--position", "1", "1", "1", "--dry", "no.wav", "--out", "a.wav"], "--dry no.wav: cannot be read as sound"),
]
"""Ends of command lines, and what is said of them."""


def test_a_wrong_command_is_one_line(store, tiny_backbone_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for more, message in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            run("studio/base", "--store", store, "--backbone", tiny_backbone_file, *more)
        assert stopped.value.code == 2
        said = capsys.readouterr().err.strip()
        assert said.count("\n") == 0
        assert message in said
        assert not (tmp_path / "a.wav").exists()
