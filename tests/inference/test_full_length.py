"""Predictions at any rate and length, and the recordings that packs keep for them."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
from safetensors.torch import save

from haa_peft import RoomPredictor, load_room
from haa_peft.cli import main
from haa_peft.errors import InputError
from haa_peft.rooms.recordings import Recordings
from haa_peft.store.card import card_digest
from haa_peft.store.folder import read_pack, write_pack
from haa_peft.store.names import AdapterName
from haa_peft.store.parts import CARD, RECORDINGS, sha256
from tests.store.test_store import make_pack

NAME = AdapterName("studio", "base")
PLACES = [[1.0, 1.0, 1.0], [4.0, 2.0, 1.5]]


@pytest.fixture
def room(room_folder):
    return load_room(room_folder)


@pytest.fixture
def store(room, tiny_backbone, tmp_path):
    """A pack with recordings, and ``studio/base@old`` without."""
    pack = make_pack(room, tiny_backbone)
    write_pack(tmp_path / "store", dataclasses.replace(pack, name=AdapterName("studio", "base", "old"),
                                                       card={**pack.card, "name": "studio/base@old"}))  # fmt: skip
    write_pack(tmp_path / "store", dataclasses.replace(pack, recordings=Recordings.of_room(room)))
    return tmp_path / "store"


@pytest.fixture
def predictor(store, tiny_backbone):
    return RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)


def test_recordings_come_back_72_db_above_their_rounding(room, store, room_folder):
    kept = read_pack(store, NAME).recordings
    recorded = np.load(room_folder / "RIRs.npy")[room.splits["train"]] / room.scale
    assert (kept.sample_rate, kept.rirs.shape, kept.rirs.dtype) == (48_000, (12, 24_000), np.float16)
    spans = np.stack([kept.rirs.astype(np.float64), recorded]).reshape(2, 12, 10, 2400)
    lost, heard = ((spans[0] - spans[1]) ** 2).mean(axis=-1), (spans[1] ** 2).mean(axis=-1)  # in 50 ms each, to the end
    assert (lost < 10**-7.2 * heard + 10**-15).all()  # 72 dB below the signal, or 150 dB below the loudest sample


@pytest.mark.parametrize(("rate", "length", "samples"), [
    (48_000, None, 20_898), (None, 0.6, 13_230), (16_000, 1.0, 16_000), (44_100, "full", None),
])  # fmt: skip
def test_rate_and_length_are_what_is_asked(rate, length, samples, predictor):
    rirs = predictor.predict(PLACES, sample_rate=rate, length=length)
    assert rirs.dtype == np.float32
    assert np.isfinite(rirs).all()
    assert rirs.shape == (2, samples or round(predictor.full_length * 44_100))
    assert predictor.predict(np.zeros((0, 3)), sample_rate=rate, length=length).shape == (0, rirs.shape[1])
    asked = [(predictor.name, PLACES), (predictor.name, PLACES[1]), (predictor.name, [])]
    many, again, none = predictor.predict_many(asked, sample_rate=rate, length=length)
    np.testing.assert_allclose(many, rirs, atol=1e-3 * np.abs(rirs).max())
    np.testing.assert_allclose(again, rirs[1:2], atol=1e-3 * np.abs(rirs).max())
    assert none.shape == (0, rirs.shape[1])
    np.testing.assert_array_equal(predictor.predict(PLACES, sample_rate=rate, length=length), rirs)
    alone = predictor.predict(PLACES[1], sample_rate=rate, length=length)[0]
    assert np.abs(alone - rirs[1]).max() < 1e-3 * np.abs(rirs).max()


def test_what_is_modelled_stays_the_default(predictor, store, tiny_backbone):
    modelled = predictor.predict(PLACES)
    predictor.predict(PLACES, sample_rate=48_000, length="full")
    np.testing.assert_array_equal(predictor.predict(PLACES), modelled)
    np.testing.assert_array_equal(predictor.predict(PLACES, sample_rate=22_050), modelled)
    old = RoomPredictor.load("studio/base@old", store=store, backbone=tiny_backbone)
    np.testing.assert_array_equal(old.predict(PLACES), modelled)  # with recordings or without
    other = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone, phase="diffuse")
    diffuse = other.predict(PLACES)
    (many,) = other.predict_many([("studio/base", PLACES)])
    np.testing.assert_allclose(many, diffuse, atol=1e-3 * np.abs(diffuse).max())
    early = round(0.012 * 22_050)
    assert diffuse.shape == modelled.shape
    assert np.abs(diffuse - modelled)[:, :early].max() < 1e-4 * np.abs(modelled).max()
    assert np.abs(diffuse - modelled)[:, 2000:].max() > 1e-4


def test_a_pack_without_recordings_says_what_is_missing(store, tiny_backbone, caplog):
    old = RoomPredictor.load("studio/base@old", store=store, backbone=tiny_backbone)
    old.predict(PLACES)
    assert not caplog.records
    rirs = old.predict(PLACES, sample_rate=48_000, length="full")
    (said,) = caplog.messages
    assert said.startswith("note: studio/base@old keeps no recordings, so nothing is above 11 kHz")
    above = np.abs(np.fft.rfft(rirs)[:, np.fft.rfftfreq(rirs.shape[1], 1 / 48_000) > 12_000])
    assert (above**2).mean() < 1e-6 * (np.abs(np.fft.rfft(rirs)) ** 2).mean()


@pytest.mark.parametrize(("asked", "why"), [
    ({"sample_rate": 4000}, "sample_rate is 4000 but must be a whole number from 8000 to 384000"),
    ({"sample_rate": 48_000.5}, "sample_rate is 48000.5"),
    ({"length": "long"}, 'length is \'long\' but must be "full" or seconds from 0.01 to 10'),
    ({"length": 11}, "length is 11 but"),
    ({"length": float("nan")}, "length is nan but"),
    ({"length": True}, "length is True but"),
])  # fmt: skip
def test_other_rates_and_lengths_are_refused(asked, why, predictor):
    with pytest.raises(InputError, match=why):
        predictor.predict(PLACES, **asked)


@pytest.mark.parametrize("fault", ["rate", "count", "type", "nan", "bytes"])
def test_damaged_recordings_are_refused(fault, store):
    import torch

    rirs, rate = torch.zeros(12, 24_000, dtype=torch.float16), "48000"
    rirs = {"count": rirs[:5], "type": rirs.float(), "nan": rirs + torch.nan}.get(fault, rirs)
    content = save({"rirs": rirs}, metadata={"sample_rate": "0" if fault == "rate" else rate})
    folder = NAME.folder(store)
    (folder / RECORDINGS).write_bytes(content[:-5] if fault == "bytes" else content)
    card = json.loads((folder / CARD).read_text())
    with pytest.raises(InputError, match=f"{RECORDINGS} is not the file that its card describes"):
        read_pack(store, NAME)  # the digest covers it
    card["files"][RECORDINGS] = sha256((folder / RECORDINGS).read_bytes())
    (folder / CARD).write_text(json.dumps({**card, "digest": card_digest(card)}))
    with pytest.raises(InputError, match=f"studio/base: {RECORDINGS}"):
        read_pack(store, NAME)


def test_commands(room_folder, tiny_backbone_file, tmp_path, capsys):
    given = ["--backbone", str(tiny_backbone_file), "--store", str(tmp_path / "store")]
    adapt = ["adapt", str(room_folder), "--max-steps", "2", "--k", "2", "--run-dir", str(tmp_path / "run"), *given]
    main(adapt)
    card = json.loads((NAME.folder(tmp_path / "store") / CARD).read_text())
    assert card["recordings"] == {"sample_rate": 48_000, "seconds": 0.5, "bytes": 12 * 24_000 * 2}
    page = (NAME.folder(tmp_path / "store") / "README.md").read_text()
    assert "Recordings kept: 0.5 s at 48 000 Hz, 576 kB." in page
    wav = tmp_path / "rir.wav"
    predict = ["predict", "studio/base", "--position", "3", "2", "1.3", "--out", str(wav), *given]
    main([*predict, "--rate", "48000", "--length", "full"])
    rir, rate = soundfile.read(wav)
    assert rate == 48_000
    assert len(rir) > 0.435 * rate * 0.999
    assert f"{len(rir) / rate:.3f} s at 48000 Hz" in capsys.readouterr().out
    main([*predict, "--rate", "44100", "--length", "0.25"])
    assert len(soundfile.read(wav)[0]) == 11_025
    with pytest.raises(SystemExit):
        main([*predict, "--length", "long"])
    assert "is 'long' but must be full or seconds" in capsys.readouterr().err
    main([*adapt, "--no-recordings"])
    assert not (NAME.folder(tmp_path / "store") / RECORDINGS).exists()
    capsys.readouterr()
    main([*predict, "--length", "full"])
    assert "keeps no recordings" in "".join(capsys.readouterr())
