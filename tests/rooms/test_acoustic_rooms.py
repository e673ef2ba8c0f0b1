import json

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import ConcatDataset

from haa_peft.errors import InputError
from haa_peft.geometry.panorama import directions, render_depth
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.rooms.acoustic_rooms import UNSEEN, AcousticRooms, is_unseen
from haa_peft.training.pretraining import Panoramas, RoomTensors

RECEIVERS = {1: [1.0, 1.0, 1.2], 12: [3.0, 2.0, 1.5]}
SOURCES = {1: [2.0, 1.0, 1.0], 2: [4.0, 3.0, 1.7], 10: [5.0, 1.0, 1.2]}


@pytest.fixture
def folder(tmp_path):
    """Two rooms of a box, one of the unseen split, in the data set's layout."""
    box = Surfaces.shoebox([6.0, 4.0, 3.0])
    for category, room in (("Office", "Office_idx_3"), ("Cafe", "Cafe_idx_1")):
        for kind in ("single_channel_ir", "metadata", "depth_map"):
            (tmp_path / kind / category / room).mkdir(parents=True)
        for r, receiver in RECEIVERS.items():
            np.save(
                tmp_path / "depth_map" / category / room / f"{r}.npy",
                render_depth(box, np.array(receiver), directions()),
            )
            for s, source in SOURCES.items():
                rir = np.zeros(5000 if s == 2 else 12_000, dtype=np.float32)
                distance = np.linalg.norm(np.subtract(source, receiver))
                rir[round(distance / 343 * 22_050)] = 0.5 / distance
                name = f"S00{s}_R00{r}"
                soundfile.write(
                    tmp_path / "single_channel_ir" / category / room / f"{name}_hybrid_IR.wav",
                    rir,
                    22_050,
                    subtype="FLOAT",
                )
                about = {"src_loc": source, "rec_loc": receiver}
                (tmp_path / "metadata" / category / room / f"{name}.json").write_text(json.dumps(about))
    return tmp_path


def test_the_layout_and_the_published_split(folder):
    train, test = AcousticRooms(folder), AcousticRooms(folder, "test")
    assert (len(train), len(test)) == (2, 2)  # one item a receiver
    room = train[1]
    assert room.rirs.shape == (3, 9600)
    assert np.abs(room.rirs).max() == 1
    np.testing.assert_allclose(room.receiver, RECEIVERS[12])
    np.testing.assert_allclose(room.positions[np.argsort(room.positions[:, 0])], sorted(SOURCES.values()))
    for rir, position in zip(room.rirs, room.positions, strict=True):
        assert rir.argmax() == round(float(np.linalg.norm(position - room.receiver)) / 343 * 22_050)
    # the map's pixels lie on the box
    points = room.panorama().reshape(3, -1).T + room.receiver
    assert np.abs(np.stack([points, points - [6.0, 4.0, 3.0]])).min(axis=(0, 2)).max() < 1e-3


def test_mixes_with_other_corpora(folder):
    mixed = ConcatDataset([AcousticRooms(folder), AcousticRooms(folder, "test")])
    tensors = RoomTensors(mixed, Panoramas(mixed, 4), 3)
    assert tensors.panorama.shape == (3, 64, 128)
    assert tensors.positions.dtype == tensors.rirs.dtype == torch.float32


def test_names_of_unseen_rooms():
    assert len(set(UNSEEN)) == 17
    assert is_unseen("Office_idx_10")
    assert not is_unseen("Office_idx_100")
    assert not is_unseen("Office_idx_1")


def test_bad_input(folder):
    with pytest.raises(InputError, match="no single_channel_ir/CATEGORY/ROOM folders"):
        AcousticRooms(folder / "metadata")
    with pytest.raises(InputError, match="split is 'dev' but must be train or test"):
        AcousticRooms(folder, "dev")
    np.save(folder / "depth_map" / "Office" / "Office_idx_3" / "1.npy", np.zeros((256, 512)))
    with pytest.raises(InputError, match=r"must be \(256, 512\) positive metres"):
        AcousticRooms(folder)[0]
    wav = folder / "single_channel_ir" / "Office" / "Office_idx_3" / "S001_R0012_hybrid_IR.wav"
    soundfile.write(wav, np.ones(100), 48_000)
    with pytest.raises(InputError, match="48000 Hz and 1 channels but must be 22050 Hz"):
        AcousticRooms(folder)[1]
    (folder / "metadata" / "Office" / "Office_idx_3" / "S002_R0012.json").write_text("{}")
    with pytest.raises(InputError, match="src_loc and rec_loc cannot be read"):
        AcousticRooms(folder)[1]
