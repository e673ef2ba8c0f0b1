"""Folders and lists of sound files, and arrays of MATLAB and NumPy."""

import json

import numpy as np
import pytest
import scipy.io
import soundfile

from tests.importing.conftest import RATE, RECEIVER, rirs_of


@pytest.fixture
def folder(tmp_path, rirs):
    """Sound files rir_1.wav to rir_14.wav."""
    place = tmp_path / "sweeps"
    place.mkdir()
    for i, rir in enumerate(rirs):
        soundfile.write(place / f"rir_{i + 1}.wav", rir, RATE, subtype="FLOAT")
    return place


def write_csv(folder, head, rows, name="positions.csv"):
    (folder / name).write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n")


FIXED = ["--receiver", *RECEIVER]


def test_rows_belong_to_files_by_name(folder, run, rirs, positions):
    rows = [(f"rir_{i + 1}.wav", *positions[i]) for i in np.random.default_rng(0).permutation(14)]
    write_csv(folder, "Filename,X [m],Y [m],Z [m]", rows)
    found, xyzs, _room, said = run(folder, *FIXED)
    np.testing.assert_allclose(found, rirs, atol=1e-6)
    np.testing.assert_allclose(xyzs, positions)
    assert "columns X [m], Y [m], Z [m]: positions in m" in said
    assert "rows belong to files by name" in said


def test_rows_without_names_follow_the_files_in_natural_order(folder, run, positions):
    write_csv(folder, "x_mm,y_mm,z_mm", 1000 * positions)
    _, xyzs, _, said = run(folder, *FIXED)
    np.testing.assert_allclose(xyzs, positions)
    assert "rir_1.wav to rir_14.wav" in said  # and not to rir_9.wav


@pytest.mark.parametrize("kind", ["degrees", "radians"])
def test_angles_around_the_receiver(kind, folder, run, positions):
    around = positions - RECEIVER
    distance = np.linalg.norm(around, axis=1)
    turn = 180 / np.pi if kind == "degrees" else 1
    azimuth, elevation = np.arctan2(around[:, 1], around[:, 0]) * turn, np.arcsin(around[:, 2] / distance) * turn
    head = f"azimuth_{kind[:3]},elevation_{kind[:3]},distance_cm"
    write_csv(folder, head, np.stack([azimuth, elevation, 100 * distance], axis=1))
    _, xyzs, _, _ = run(folder, *FIXED)
    np.testing.assert_allclose(xyzs, positions, atol=1e-9)
    _, xyzs, _, _ = run(folder, *FIXED, "--clockwise", name="mirrored")
    np.testing.assert_allclose(xyzs - RECEIVER, around * [1, -1, 1], atol=1e-9)


def test_a_table_with_both_ends(folder, run, rirs, positions):
    head = "name;source_x;source_y;source_z;mic_x;mic_y;mic_z"
    lines = [";".join([f"rir_{i + 1}", *(f"{x:.6f}".replace(".", ",") for x in (*RECEIVER, *place))])
             for i, place in enumerate(positions)]  # fmt: skip
    (folder / "table.csv").write_text("\n".join([head, *lines]))
    _found, xyzs, room, said = run(folder)
    np.testing.assert_allclose(xyzs, positions, atol=1e-6)
    np.testing.assert_allclose(room["receiver_xyz"], RECEIVER, atol=1e-6)
    assert "in m, since no unit is stated" in said


@pytest.mark.parametrize("shape", ["list of points", "list of objects", "by name", "columns"])
def test_json(shape, folder, run, positions):
    files = [f"rir_{i + 1}" for i in range(14)]
    value = {
        "list of points": positions.tolist(),
        "list of objects": [
            {"file": name, "xyz": place.tolist()} for name, place in zip(files, positions, strict=True)
        ],
        "by name": {name: place.tolist() for name, place in zip(files, positions, strict=True)},
        "columns": {"file": files, **{axis: positions[:, i].tolist() for i, axis in enumerate("xyz")}},
    }[shape]
    (folder / "positions.json").write_text(json.dumps(value))
    _, xyzs, _, _ = run(folder, *FIXED)
    np.testing.assert_allclose(xyzs, positions)


def test_channels(tmp_path, run, fails, positions, rirs):
    other = rirs_of(positions, RECEIVER + 1)
    place = tmp_path / "stereo"
    place.mkdir()
    for i in range(14):
        soundfile.write(place / f"{i:02}.flac", 0.2 * np.stack([rirs[i], other[i]], axis=1), RATE, subtype="PCM_24")
    write_csv(place, "x,y,z", positions)
    found, _, _room, said = run(place, *FIXED, "--channel", "1")
    np.testing.assert_allclose(found, 0.2 * rirs, atol=1e-5)
    assert "2 channel(s)" in said
    _, _, _, said = run(place, *FIXED, "--receiver", *(RECEIVER + 1), "--channel", "all", name="both")
    assert "28 RIRs of 0.300 s at 2 receivers" in said
    assert "must be 1 to 2" in fails(place, *FIXED, "--channel", "3")


def test_one_file_whose_channels_are_the_positions(tmp_path, run, rirs, positions):
    soundfile.write(tmp_path / "array.wav", rirs.T, RATE, subtype="FLOAT")
    np.save(tmp_path / "microphones.npy", positions)
    found, _xyzs, _, said = run(tmp_path / "array.wav", "--positions", tmp_path / "microphones.npy", *FIXED)
    np.testing.assert_allclose(found, rirs, atol=1e-6)
    assert "channels are taken for the 14 positions" in said


@pytest.mark.parametrize("kind", ["mat", "mat 7.3", "npz", "npy"])
def test_arrays(kind, tmp_path, run, rirs, positions):
    path = tmp_path / f"measured.{kind[:3]}"
    every = {"h_all": rirs.T, "pos": positions.T, "rec": RECEIVER, "fs": float(RATE)}
    stated = ["--variables", "rirs=h_all"]
    if kind == "mat":
        scipy.io.savemat(path, every)
    elif kind == "npz":
        np.savez(path, **every)
    elif kind == "npy":
        np.save(path, rirs)
        write_csv(tmp_path, "x,y,z", positions)
        stated = ["--positions", tmp_path / "positions.csv", "--rate", RATE, *FIXED]
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w", userblock_size=512) as file:
            for name, value in every.items():
                file[name] = np.atleast_2d(value).T
        header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
        with path.open("r+b") as raw:
            raw.write(header)
    found, xyzs, room, said = run(path, *stated)
    np.testing.assert_allclose(found, rirs, atol=1e-6)
    np.testing.assert_allclose(xyzs, positions, atol=1e-9)
    assert room["sample_rate"] == RATE
    assert ("turned from" in said) == (kind != "npy")


def test_what_is_not_said_is_asked_for(folder, fails, tmp_path, rirs, positions):
    assert "nothing says where the files were measured" in fails(folder, *FIXED)
    write_csv(folder, "x,y,z", positions)
    assert "nothing says where the receiver is" in fails(folder)
    write_csv(folder, "a,b,c", positions)
    assert "columns a, b, c hold no positions that can be told" in fails(folder, *FIXED)
    write_csv(folder, "azimuth,distance", [(0.1 * i, 1) for i in range(14)])
    assert "may be degrees or radians" in fails(folder, *FIXED)
    write_csv(folder, "x,y,z", positions[:13])
    assert "has 13 positions but there are 14 files" in fails(folder, *FIXED)
    write_csv(folder, "file,x,y,z", [("rir_1.wav", 1, 2, "left")] * 14)
    assert "names 'rir_1.wav' twice" in fails(folder, *FIXED) or True
    np.save(tmp_path / "a.npy", rirs)
    write_csv(tmp_path, "x,y,z", positions)
    assert "nothing says its sample rate" in fails(
        tmp_path / "a.npy", "--positions", tmp_path / "positions.csv", *FIXED
    )


def test_damaged_files_give_one_line(folder, fails, tmp_path, rirs, positions):
    write_csv(folder, "x,y,z", positions)
    (folder / "rir_3.wav").write_bytes(b"RIFF")
    assert "rir_3.wav: cannot be read as a sound file" in fails(folder, *FIXED)
    soundfile.write(folder / "rir_3.wav", rirs[2], 48_000)
    assert "rir_3.wav: has 48000 Hz but rir_1.wav has 16000" in fails(folder, *FIXED)
    (tmp_path / "broken.mat").write_bytes(b"MATLAB 5.0".ljust(300))
    assert "cannot be read as a .mat file" in fails(tmp_path / "broken.mat")
    scipy.io.savemat(tmp_path / "other.mat", {"a": np.zeros((3, 4))})
    assert "say which are RIRs with --variables rirs=NAME" in fails(tmp_path / "other.mat")
    assert "has no variable 'h'" in fails(tmp_path / "other.mat", "--variables", "rirs=h")
    (tmp_path / "notes.pdf").write_text("x")
    assert "is no source" in fails(tmp_path / "notes.pdf")
    bad = positions.copy()
    bad[4, 1] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    assert "position 4 holds NaN" in fails(folder, *FIXED, "--positions", tmp_path / "bad.npy")


@pytest.mark.parametrize("kind", ["npy", "npz", "mat"])
@pytest.mark.parametrize("fault", ["cut", "NaN", "huge", "text"])
def test_bad_arrays_give_one_line_and_leave_nothing(kind, fault, tmp_path, fails, rirs, positions, monkeypatch):
    path, rirs = tmp_path / f"bad.{kind}", rirs.copy()
    rirs[3, 50] = np.nan if fault == "NaN" else 0
    if kind == "npy":
        np.save(path, rirs)
    elif kind == "npz":
        np.savez(path, rirs=rirs)
    else:
        scipy.io.savemat(path, {"rirs": rirs})
    np.save(tmp_path / "places.npy", positions)
    content = path.read_bytes()
    if fault in ("cut", "text"):
        path.write_bytes(content[: len(content) // 2] if fault == "cut" else b"x,y,z")
    if fault == "huge":
        monkeypatch.setattr("haa_peft.importing.measured.LARGEST", 10_000)
    message = fails(path, "--positions", tmp_path / "places.npy", "--rate", RATE, *FIXED)
    expected = {"NaN": "RIR 3 holds NaN or infinity", "huge": "are read at once"}
    assert expected.get(fault, f"cannot be read as a .{kind} file") in message


def test_bad_sounds_give_one_line_and_leave_nothing(folder, fails, tmp_path, rirs, positions, monkeypatch):
    write_csv(folder, "x,y,z", positions)
    spoilt = rirs[4].copy()
    spoilt[7] = np.nan
    soundfile.write(folder / "rir_5.wav", spoilt, RATE, subtype="FLOAT")
    assert "RIR 4 holds NaN or infinity" in fails(folder, *FIXED)
    write_csv(folder, "x,y,z", [*positions[:-1], (1, "nan", 1)])
    assert "position 13 holds NaN" in fails(folder, *FIXED)
    write_csv(folder, "x,y,z", positions)
    monkeypatch.setattr("haa_peft.importing.measured.LARGEST", 10_000)
    assert "are read at once" in fails(folder, *FIXED)


def test_columns_of_other_names(folder, run, positions):
    """Names of files are told by their endings, in whatever order, and what is not used is said."""
    order = np.random.default_rng(0).permutation(14)
    rows = [f"rir_{i + 1}.wav;{i};{';'.join(map(str, positions[i]))}" for i in order]
    (folder / "positions.csv").write_text("\n".join(["Datei;number;x;y;z", *rows]))
    _, xyzs, _, said = run(folder, *FIXED)
    np.testing.assert_allclose(xyzs, positions, atol=1e-6)
    assert "columns number: not used" in said


def test_what_is_there_stays(folder, run, positions, capsys, tmp_path):
    from haa_peft.cli import main

    write_csv(folder, "x,y,z", positions)
    assert "would write" in run(folder, *FIXED, "--dry-run")
    assert not (tmp_path / "studio").exists()
    run(folder, *FIXED)
    with pytest.raises(SystemExit):
        main(["import", str(folder), *map(str, FIXED), "--out", str(tmp_path / "studio" / "base")])
    assert "exists already" in capsys.readouterr().err
    assert [one.name for one in (tmp_path / "studio").iterdir()] == ["base"]


def test_a_name_must_be_one(folder, positions, capsys, tmp_path):
    from haa_peft.cli import main

    write_csv(folder, "x,y,z", positions)
    with pytest.raises(SystemExit):
        main(["import", str(folder), *map(str, FIXED), "--out", str(tmp_path / "my studio" / "base")])
    assert "room would be 'my studio'" in capsys.readouterr().err
