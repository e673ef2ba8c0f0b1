"""A room measured at 14 positions, and the ways in which people keep it."""

import warnings

import numpy as np
import pytest

from haa_peft.cli import main

RATE = 16_000
OPTIONAL = [f"{end}{what}" for end in ("Receiver", "Emitter") for what in ("Descriptions", "View", "Up", "View_Type",
            "View_Units")] + ["MeasurementDate", "RoomTemperature", "RoomTemperature_Units", "RoomVolume",
            "RoomVolume_Units", "RoomCornerA", "RoomCornerB", "RoomCorners", "RoomCorners_Type",
            "RoomCorners_Units"]  # fmt: skip
RECEIVER = np.array([2.0, 1.5, 1.2])


def rirs_of(positions, receiver, rate=RATE, seconds=0.3, seed=0):
    """RIRs (N, T) whose direct sound arrives at distance / 343 m/s, before a tail of noise."""
    distance = np.linalg.norm(positions - receiver, axis=-1)
    time = np.arange(round(seconds * rate)) / rate
    since = time - distance[..., None] / 343
    noise = np.random.default_rng(seed).normal(size=since.shape)
    return np.sinc(since * rate) / distance[..., None] + 0.03 * noise * 10 ** (-3 * since / 0.3) * (since > 0)


@pytest.fixture
def positions():
    return np.random.default_rng(1).uniform([0.3, 0.3, 0.5], [5.7, 3.7, 2.0], (14, 3))


@pytest.fixture
def rirs(positions):
    return rirs_of(positions, RECEIVER)


@pytest.fixture
def run(tmp_path, capsys):
    """Import, and give what was written: RIRs, positions, room.json; and what was printed."""
    import json

    def run(*arguments, name="base"):
        out = tmp_path / "studio" / name
        main(["import", *map(str, arguments), "--out", str(out)])
        if "--dry-run" in arguments:
            return capsys.readouterr().out
        return (np.load(out / "RIRs.npy"), np.load(out / "xyzs.npy"), json.loads((out / "room.json").read_text()),
                capsys.readouterr().out)  # fmt: skip

    return run


@pytest.fixture
def fails(tmp_path, capsys):
    """Import what is wrong; its one line. Nothing is left where it was to be written."""

    def left():
        return sorted((tmp_path / "studio").iterdir()) if (tmp_path / "studio").exists() else None

    def fails(*arguments):
        before = left()
        with pytest.raises(SystemExit) as stopped:
            main(["import", *map(str, arguments), "--out", str(tmp_path / "studio" / "wrong")])
        assert stopped.value.code == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert message.count("\n") == 1
        assert left() == before
        return message

    return fails


@pytest.fixture
def sofa(tmp_path):
    """Write a SOFA file of a convention with some fields; its path."""
    sofar = pytest.importorskip("sofar")

    def write(convention, version="latest", name="room.sofa", delete=(), **fields):
        path = tmp_path / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = sofar.Sofa(convention, version=version)  # with all that is optional
            made.protected = False
            for key, value in fields.items():
                setattr(made, key, value)
            for key in [*OPTIONAL, *delete]:
                if hasattr(made, key) and key not in fields:
                    made.delete(key)
            issues = made.verify(issue_handling="return", mode="read")
            assert "wrong shape" not in str(issues), issues
            sofar.io._write_sofa(str(path), made, 4, verify=False)  # as others write, old and wrong ones too
        return path

    return write


@pytest.fixture
def spoil():
    """Change a SOFA file as only a wrong program would: an attribute of a variable, its values, or its name."""
    netcdf = pytest.importorskip("netCDF4")

    def spoil(path, variable, *, renamed=None, values=None, **attributes):
        with netcdf.Dataset(path, "a") as file:
            for name, value in attributes.items():
                file[variable].setncattr(name, value)
            if values is not None:
                file[variable][:] = values
            if renamed is not None:
                file.renameVariable(variable, renamed)
        return path

    return spoil
