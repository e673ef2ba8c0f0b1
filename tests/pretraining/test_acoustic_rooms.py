import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import ConcatDataset

from haa_peft.errors import InputError
from haa_peft.pretraining.acoustic_rooms import UNSEEN, AcousticRooms, is_unseen
from haa_peft.pretraining.loop import PooledPanoramas, load_tensors
from tests.conftest import RECEIVERS, SOURCES


def test_the_layout_and_the_published_split(acoustic_rooms):
    train, test = AcousticRooms(acoustic_rooms), AcousticRooms(acoustic_rooms, "test")
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


def test_mixes_with_other_corpora(acoustic_rooms):
    mixed = ConcatDataset([AcousticRooms(acoustic_rooms), AcousticRooms(acoustic_rooms, "test")])
    tensors = load_tensors(mixed, PooledPanoramas(mixed, 4), 3)
    assert tensors.panorama.shape == (3, 64, 128)
    assert tensors.positions.dtype == tensors.rirs.dtype == torch.float32


def test_names_of_unseen_rooms():
    assert len(set(UNSEEN)) == 17
    assert is_unseen("Office_idx_10")
    assert not is_unseen("Office_idx_100")
    assert not is_unseen("Office_idx_1")


def test_bad_input(acoustic_rooms):
    with pytest.raises(InputError, match="no single_channel_ir/CATEGORY/ROOM folders"):
        AcousticRooms(acoustic_rooms / "metadata")
    with pytest.raises(InputError, match="split is 'dev' but must be train or test"):
        AcousticRooms(acoustic_rooms, "dev")
    np.save(acoustic_rooms / "depth_map" / "Office" / "Office_idx_3" / "1.npy", np.zeros((256, 512)))
    with pytest.raises(InputError, match=r"must be \(256, 512\) positive metres"):
        AcousticRooms(acoustic_rooms)[0]
    wav = acoustic_rooms / "single_channel_ir" / "Office" / "Office_idx_3" / "S001_R0012_hybrid_IR.wav"
    soundfile.write(wav, np.ones(100), 48_000)
    with pytest.raises(InputError, match="48000 Hz and 1 channels but must be 22050 Hz"):
        AcousticRooms(acoustic_rooms)[1]
    (acoustic_rooms / "metadata" / "Office" / "Office_idx_3" / "S002_R0012.json").write_text("{}")
    with pytest.raises(InputError, match="src_loc and rec_loc must be three finite metres"):
        AcousticRooms(acoustic_rooms)[1]
