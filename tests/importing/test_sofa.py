"""Files of each convention, written with sofar; what is read is compared with what was put in."""

import json
import re

import numpy as np
import pytest

from haa_peft import load_room
from tests.importing.conftest import RATE, RECEIVER, rirs_of

BASE = {"Data_SamplingRate": float(RATE), "Data_SamplingRate_Units": "hertz", "GLOBAL_License": "CC BY 4.0"}


def ears(receiver, view):
    """Of a head that looks along an azimuth, left and right."""
    aside = 0.09 * np.array([-np.sin(view), np.cos(view), 0])
    return np.stack([receiver + aside, receiver - aside])


def delays_of(rirs, rate=RATE):
    return np.abs(rirs).argmax(axis=1) / rate * 343


def test_srir_with_the_room_as_geometry(sofa, run, rirs, positions):
    moved = np.array([-3.0, 1.0, 0.5])
    path = sofa(
        "SingleRoomSRIR", GLOBAL_RoomType="shoebox", Data_IR=rirs[:, None], Data_Delay=np.zeros((1, 1)),
        SourcePosition=positions + moved, ListenerPosition=np.tile(RECEIVER + moved, (14, 1)),
        RoomCornerA=np.array([[3.0, 5.0, 3.2]]), RoomCornerB=moved[None], RoomCorners=0.0,
        RoomCorners_Type="cartesian", RoomCorners_Units="metre", **BASE,
    )  # fmt: skip
    found, xyzs, room, said = run(path)
    np.testing.assert_allclose(found, rirs, atol=1e-6)
    np.testing.assert_allclose(xyzs, positions, atol=1e-9)
    np.testing.assert_allclose(room["room_size"], [6.0, 4.0, 2.7])
    np.testing.assert_allclose(room["receiver_xyz"], RECEIVER)
    assert (room["sample_rate"], room["licence"], room["configuration"]) == (RATE, "CC BY 4.0", "base")
    assert "SourcePosition varies" in said
    assert "14 positions vary" in said


def test_srir_whose_listener_moves_is_turned_round(sofa, run, rirs, positions, tmp_path):
    path = sofa(
        "SingleRoomSRIR", GLOBAL_RoomType="reverberant", GLOBAL_RoomDescription="a studio", Data_IR=rirs[:, None],
        Data_Delay=np.zeros((1, 1)), SourcePosition=np.tile(RECEIVER, (14, 1)), ListenerPosition=positions, **BASE,
    )  # fmt: skip
    _found, xyzs, room, said = run(path)
    np.testing.assert_allclose(xyzs, positions)
    np.testing.assert_allclose(room["receiver_xyz"], RECEIVER)
    assert room["geometry"] == "none"
    assert "source at (2.00, 1.50, 1.20) stays fixed" in said
    assert load_room(tmp_path / "studio" / "base").name == "studio/base"


@pytest.mark.parametrize(("convention", "version"), [("GeneralFIR", "1.0"), ("SingleRoomDRIR", "0.3"),
                                                     ("SingleRoomDRIR", "0.2"), ("SimpleFreeFieldHRIR", "0.4"),
                                                     ("SimpleFreeFieldHRIR", "1.0")])  # fmt: skip
@pytest.mark.parametrize("units", ["degree, degree, metre", "radian, radian, metre", "metre"])
def test_two_ears_and_sources_around_them(convention, version, units, sofa, run, positions):
    around = positions - RECEIVER
    distance = np.linalg.norm(around, axis=1)
    spherical = np.stack([np.arctan2(around[:, 1], around[:, 0]), np.arcsin(around[:, 2] / distance), distance], axis=1)
    turn = np.array([180 / np.pi, 180 / np.pi, 1])
    places = around if units == "metre" else spherical * (turn if units.startswith("deg") else 1)
    own = np.array([[0.0, 0.09, 0], [0, -0.09, 0]])
    view = {} if convention == "GeneralFIR" else {"ListenerUp": np.array([[0.0, 0, 1]])}
    both = np.stack([rirs_of(around, ear) for ear in ears(np.zeros(3), 0)], axis=1)
    path = sofa(
        convention, version, Data_IR=both, Data_Delay=np.zeros((1, 2)), SourcePosition=places,
        SourcePosition_Type="cartesian" if units == "metre" else "spherical", SourcePosition_Units=units,
        ReceiverPosition=own if convention == "GeneralFIR" else own[..., None], ReceiverPosition_Type="cartesian",
        ReceiverPosition_Units="metre", ListenerPosition=np.zeros((1, 3)), ListenerView=np.array([[1.0, 0, 0]]),
        ListenerView_Type="cartesian", ListenerView_Units="metre", **view, **BASE,
    )  # fmt: skip
    found, xyzs, room, said = run(path, "--channel", "2")
    np.testing.assert_allclose(xyzs, around, atol=1e-6)
    np.testing.assert_allclose(room["receiver_xyz"], [0, -0.09, 0], atol=1e-9)
    np.testing.assert_allclose(found, both[:, 1], atol=1e-6)
    assert ("is old and was read as" in said) == (version != "1.0")
    assert ("for heads in a free field" in said) == convention.startswith("SimpleFree")


def mimo(sofa, positions, microphones, every):
    """Of RIRs (R, E, T)."""
    return sofa(
        "SingleRoomMIMOSRIR", GLOBAL_RoomType="reverberant", GLOBAL_RoomDescription="a studio",
        Data_IR=every.swapaxes(1, 2)[None], Data_Delay=np.zeros((1, len(microphones), 1)),
        ReceiverPosition=microphones, ReceiverPosition_Type="cartesian", ReceiverPosition_Units="metre",
        EmitterPosition=positions, EmitterPosition_Type="cartesian", EmitterPosition_Units="metre",
        ListenerPosition=np.zeros((1, 3)), SourcePosition=np.zeros((1, 3)), **BASE,
    )  # fmt: skip


def test_a_mimo_file_is_a_room_of_several_receivers_or_of_one(sofa, run, fails, positions, tmp_path):
    microphones = np.array([[1.0, 1, 1], [2.0, 3, 1.5], [4.0, 1, 1.2]])
    every = np.stack([rirs_of(positions, microphone) for microphone in microphones])
    path = mimo(sofa, positions, microphones, every)
    assert "14 source positions and 3 receiver positions vary" in fails(path)
    assert "--channel is 4 but must be 1 to 3" in fails(path, "--channel", "4")
    found, xyzs, room, _ = run(path, "--receiver", "2", "3", "1.5")
    np.testing.assert_allclose(found, every[1], atol=1e-6)
    found, xyzs, room, _ = run(path, "--receiver", *positions[5], name="turned")
    np.testing.assert_allclose(found, every[:, 5], atol=1e-6)
    np.testing.assert_allclose(xyzs, microphones)
    found, xyzs, room, said = run(path, "--channel", "all", name="all")
    assert "42 RIRs of 0.300 s at 3 receivers; 36 train, 3 validate, 3 test" in said
    np.testing.assert_allclose(found, every.reshape(42, -1), atol=1e-6)
    np.testing.assert_allclose(xyzs, np.tile(positions, (3, 1)))
    np.testing.assert_allclose(room["receivers"], microphones)
    assert room["receiver_of"] == [0] * 14 + [1] * 14 + [2] * 14
    views = load_room(tmp_path / "studio" / "all").at_receivers
    np.testing.assert_allclose([view.receiver for view in views], microphones)
    assert "is none of the points" in fails(path, "--receiver", "9", "9", "9")


def test_six_loudspeakers_by_eight_microphones_are_one_room(sofa, run, tmp_path):
    rng = np.random.default_rng(4)
    loudspeakers, microphones = (rng.uniform([0.3, 0.3, 0.5], [5.7, 3.7, 2.0], (count, 3)) for count in (6, 8))
    every = np.stack([rirs_of(loudspeakers, microphone) for microphone in microphones])
    late = mimo(sofa, loudspeakers, microphones, np.pad(every, ((0, 0), (0, 0), (40, 0))))
    found, _, room, said = run(late, "--channel", "all", "--repair", "latency")
    assert "48 RIRs of" in said
    assert "at 8 receivers; 48 train, 0 validate, 0 test" in said
    assert said.count("repaired latency") == 1  # one for all, so that they stay in time with each other
    np.testing.assert_allclose(delays_of(found), delays_of(every.reshape(48, -1)), atol=4 / RATE * 343)
    pair = np.array(room["receiver_of"]) == 5
    assert pair.sum() == 6
    assert [len(view.splits["train"]) for view in load_room(tmp_path / "studio" / "base").at_receivers] == 8 * [6]


@pytest.mark.parametrize(("convention", "version"), [("GeneralFIR-E", "2.0"), ("GeneralFIRE", "1.0")])
def test_emitters_vary_and_delays_are_put_back(convention, version, sofa, run, positions):
    rirs = rirs_of(positions, RECEIVER)
    late = np.full(14, 20.25)
    early = np.zeros_like(rirs)  # as the file holds them, its delays taken out
    early[:, :-20] = rirs[:, 20:]
    data = early.T[None, None] if version == "2.0" else early[None, None]
    path = sofa(
        convention, version, Data_IR=data, Data_Delay=late[None, None],
        EmitterPosition=positions[..., None] if version == "1.0" else positions, EmitterPosition_Type="cartesian",
        EmitterPosition_Units="metre", SourcePosition=np.zeros((1, 3)), SourcePosition_Type="cartesian",
        SourcePosition_Units="metre", ReceiverPosition=np.zeros((1, 3)), ListenerPosition=RECEIVER[None], **BASE,
    )  # fmt: skip
    found, xyzs, _room, _said = run(path)
    np.testing.assert_allclose(xyzs, positions, atol=1e-9)
    later = delays_of(found) - delays_of(rirs)
    np.testing.assert_allclose(np.median(later), 0.25 / RATE * 343, atol=0.02)
    assert np.abs(later).max() <= 343 / RATE * 1.01
    spectrum, before = np.fft.rfft(found[0], 8192), np.fft.rfft(rirs[0], 8192)
    phase = np.angle(spectrum[300:800] * before[300:800].conj())  # a quarter of a sample, by its phase
    np.testing.assert_allclose(phase, -2 * np.pi * np.arange(300, 800) / 8192 * 0.25, atol=0.05)


def test_a_head_that_turns(sofa, run, fails, positions):
    views = np.radians([0.0, 90.0, 180.0])
    loudspeakers = positions - RECEIVER
    data = np.stack([np.stack([rirs_of(loudspeakers, ear) for ear in ears(np.zeros(3), view)]) for view in views])
    path = sofa(
        "MultiSpeakerBRIR", "0.3", Data_IR=data, Data_Delay=np.zeros((1, 2, 14)), ListenerPosition=np.zeros((1, 3)),
        ListenerView=np.stack([np.cos(views), np.sin(views), 0 * views], axis=1), ListenerView_Type="cartesian",
        ListenerView_Units="metre", ListenerUp=np.array([[0.0, 0, 1]]), SourcePosition=np.zeros((1, 3)),
        SourcePosition_Type="cartesian", SourcePosition_Units="metre", EmitterPosition=loudspeakers[..., None],
        EmitterPosition_Type="cartesian", EmitterPosition_Units="metre", **BASE,
    )  # fmt: skip
    assert "turns to 3 azimuths (0, 90, 180, ...); choose one with --view" in fails(path, "--channel", "1")
    assert "but the listener looks at 0, 90, 180" in fails(path, "--channel", "1", "--view", "45")
    found, xyzs, room, _ = run(path, "--channel", "1", "--view", "90")
    np.testing.assert_allclose(room["receiver_xyz"], [-0.09, 0, 0], atol=1e-9)
    np.testing.assert_allclose(delays_of(found), np.linalg.norm(xyzs - [-0.09, 0, 0], axis=1), atol=0.015)


def simple(sofa, **changes):
    places = np.random.default_rng(2).uniform(0.5, 3, (5, 3))
    fields = {"GLOBAL_RoomType": "reverberant", "GLOBAL_RoomDescription": "a studio", "Data_Delay": np.zeros((1, 1)),
              "Data_IR": rirs_of(places, np.zeros(3))[:, None], "SourcePosition": places,
              "ListenerPosition": np.zeros((5, 3)), **BASE}  # fmt: skip
    return sofa("SingleRoomSRIR", **{**fields, **changes})


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ({"values": 1.0}, "the same source and the same receiver position"),
        ({"values": np.nan}, "a position holds NaN"),
        ({"Units": "furlong"}, "unit 'furlong' is none of mm, cm, m, in, ft"),
        ({"Type": "spherical", "Units": "metre"}, "must have degree, degree, metre"),
        ({"Type": "pixels"}, "is 'pixels' but must be cartesian or spherical"),
        ({"renamed": "Sources"}, "has no SourcePosition"),
    ],
)
def test_wrong_files_give_one_line(spoilt, message, sofa, spoil, fails):
    assert message in fails(spoil(simple(sofa), "SourcePosition", **spoilt))


def test_a_rate_that_is_none(sofa, spoil, fails):
    assert "SamplingRate is [16000.5]" in fails(spoil(simple(sofa), "Data.SamplingRate", values=16000.5))


def test_nan_in_an_rir(sofa, fails):
    rirs = rirs_of(np.ones((5, 3)), np.zeros(3))[:, None]
    rirs[1, 0, 5] = np.nan
    assert "RIR 1 holds NaN" in fails(simple(sofa, Data_IR=rirs))


def test_other_files_give_one_line(sofa, fails, tmp_path, monkeypatch):
    path = simple(sofa)
    whole = path.read_bytes()
    for name, content in (("cut.sofa", whole[: len(whole) // 2]), ("text.sofa", b"x,y,z\n"), ("empty.sofa", b"")):
        (tmp_path / name).write_bytes(content)
        assert "cannot be read as a SOFA file" in fails(tmp_path / name)
    transfer = sofa("GeneralTF", "2.0", name="tf.sofa")
    assert "holds TF data (GeneralTF)" in fails(transfer)
    assert "no such file" in fails(tmp_path / "none.sofa")
    assert "--rate does not go with this source" in fails(path, "--rate", "48000")
    assert "--clockwise goes with azimuths" in fails(path, "--clockwise")
    monkeypatch.setattr("haa_peft.importing.measured.LARGEST", 10_000)
    assert "are read at once" in fails(path)


def test_the_shared_file_is_said_to_be_what_it_is(shared_data, run):
    path = shared_data / "sofa" / "UniS_Room_A_BRIR_16k.sofa"
    pytest.importorskip("sofar")
    said = run(path, "--channel", "1", "--dry-run")
    assert "labelled SimpleFreeFieldHRIR" in said
    assert "37 measurements x 2 receivers" in said
    assert "azimuths count clockwise" in said
    assert "would refuse" in said
    found, xyzs, room, said = run(path, "--channel", "1", "--repair", name="left")
    # against the folder that was made of the same file by hand: latency -7.04 samples, azimuths clockwise
    by_hand = shared_data / "measured" / "unis-a-l"
    places = np.load(by_hand / "xyzs.npy") - json.loads((by_hand / "room.json").read_text())["receiver_xyz"]
    mine = xyzs - room["receiver_xyz"]
    np.testing.assert_allclose(np.linalg.norm(mine, axis=1), np.linalg.norm(places, axis=1), atol=0.02)
    taken = float(re.search(r"(-[\d.]+) samples taken off", said)[1])
    assert taken == pytest.approx(-7.04, abs=0.6)
    same = [
        np.corrcoef(a[: len(b)], b[: len(a)])[0, 1] for a, b in zip(found, np.load(by_hand / "RIRs.npy"), strict=True)
    ]
    assert np.median(same) > 0.7  # half a sample apart
