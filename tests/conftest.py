"""Rooms and backbones that tests share."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from haa_peft.adapters.lora import import_peft
from haa_peft.geometry.panorama import directions, render_depth
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.model.xrir import XRIR
from haa_peft.pretraining.weights import SMALL
from haa_peft.simulation import corpus as corpus_module

if importlib.util.find_spec("torchaudio"):
    import_peft()  # before a test's own import of peft or transformers, since torchaudio may be made for another torch
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # a core to each of pytest's processes
PARITY = Path(__file__).parent / "parity"
SHARED_DATA = Path(os.environ.get("HAA_PEFT_SHARED", Path(__file__).parents[2] / "shared")) / "data"
TINY = dataclasses.replace(
    SMALL,
    patch_height=8,
    patch_width=16,
    width=32,
    head_width=16,
    feedforward=32,
    channels=32,
    resnet_width=4,
    audio_pooling=2,
)


def decaying_noise(count: int, samples: int, sample_rate: int, t60: float, distances: np.ndarray) -> np.ndarray:
    """RIRs (count, samples): a direct sound at d / 343 s and an exponentially decaying tail behind it."""
    rng = np.random.default_rng(7)
    time = np.arange(samples) / sample_rate
    rirs = np.zeros((count, samples), dtype=np.float32)
    for rir, distance in zip(rirs, distances, strict=True):
        onset = round(distance / 343 * sample_rate)
        tail = rng.standard_normal(samples) * 10 ** (-3 * (time - distance / 343) / t60)
        rir[onset:] = 0.05 * tail[onset:]
        rir[onset] = 1 / distance
    return rirs


@pytest.fixture
def room_folder(tmp_path: Path) -> Path:
    """A plain room folder with 20 positions at 48 kHz."""
    rng = np.random.default_rng(3)
    receiver = np.array([2.0, 1.5, 1.2])
    positions = rng.uniform([0.3, 0.3, 0.5], [5.7, 3.7, 2.0], (20, 3))
    folder = tmp_path / "studio" / "base"
    folder.mkdir(parents=True)
    distances = np.linalg.norm(positions - receiver, axis=1)
    np.save(folder / "RIRs.npy", decaying_noise(20, 24_000, 48_000, 0.3, distances))
    np.save(folder / "xyzs.npy", positions)
    (folder / "room.json").write_text(
        json.dumps({"sample_rate": 48_000, "receiver_xyz": receiver.tolist(), "room_size": [6.0, 4.0, 2.7]})
    )
    return folder


TWO_RECEIVERS = np.array([[2.0, 1.5, 1.2], [4.0, 2.5, 1.6]])


def change_room(folder: Path, **changes) -> None:
    """Change what ``room.json`` says; None takes it out."""
    about = {**json.loads((folder / "room.json").read_text()), **changes}
    (folder / "room.json").write_text(json.dumps({key: value for key, value in about.items() if value is not None}))


@pytest.fixture
def pairs_folder(room_folder: Path) -> Path:
    """The room with both receivers at each of its 20 positions, the pairs in any order."""
    positions = np.load(room_folder / "xyzs.npy")
    single = [
        (i, place, np.linalg.norm(place - receiver)) for i, receiver in enumerate(TWO_RECEIVERS) for place in positions
    ]
    order = np.random.default_rng(0).permutation(len(single))
    of, places, distances = (np.array(part) for part in zip(*(single[i] for i in order), strict=True))
    rirs = decaying_noise(40, 24_000, 48_000, 0.3, distances) * np.where(of == 1, 4.0, 1.0)[:, None]
    np.save(room_folder / "RIRs.npy", rirs)
    np.save(room_folder / "xyzs.npy", places)
    change_room(room_folder, receiver_xyz=None, receivers=TWO_RECEIVERS.tolist(), receiver_of=of.tolist())
    return room_folder


@pytest.fixture
def tiny_backbone() -> XRIR:
    """A network of some ten thousand weights that has something to unlearn, the same in every test."""
    torch.manual_seed(0)
    backbone = XRIR(TINY).eval().requires_grad_(False)
    torch.nn.init.normal_(backbone.energy_blend.departure.weight, std=0.2)
    torch.nn.init.normal_(backbone.energy_blend.departure.bias, std=0.5)
    return backbone


@pytest.fixture
def tiny_backbone_file(tiny_backbone: XRIR, tmp_path: Path) -> Path:
    """The same network as a checkpoint file."""
    import dataclasses

    from safetensors.torch import save_file

    path = tmp_path / "tiny.safetensors"
    save_file(tiny_backbone.state_dict(), path, metadata={"xrir_config": json.dumps(dataclasses.asdict(TINY))})
    return path


@pytest.fixture
def shared_data() -> Path:
    """Measured and reconstructed rooms beside the repository; tests that need them are skipped without."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no shared data beside the repository")
    return SHARED_DATA


@pytest.fixture(scope="session")
def torchaudio() -> ModuleType:
    """torchaudio, with which tests compare; they are skipped where it is missing or made for another torch."""
    try:
        import torchaudio
        import torchaudio.functional
    except (ImportError, OSError, RuntimeError) as error:
        found = [d.version for d in importlib.metadata.distributions(name="torchaudio")]
        why = f"{found[0]} does not load with torch {torch.__version__} ({error})" if found else "is not installed"
        pytest.skip(f"torchaudio {why}")
    return torchaudio


@pytest.fixture
def broken_torchaudio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A torchaudio that commands find and cannot load; its version."""
    (tmp_path / "torchaudio.py").write_text("raise OSError('libtorch_cuda.so: cannot open shared object file')")
    about = tmp_path / "torchaudio-2.3.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: torchaudio\nVersion: 2.3.1\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return "2.3.1"


RECEIVERS = {1: [1.0, 1.0, 1.2], 12: [3.0, 2.0, 1.5]}
SOURCES = {1: [2.0, 1.0, 1.0], 2: [4.0, 3.0, 1.7], 10: [5.0, 1.0, 1.2]}


@pytest.fixture
def simulated_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus of three rooms of seed 5, whose made-up RIRs decay in 0.3 s."""

    def made_up(room, seed):
        return decaying_noise(16, 9600, 22_050, 0.3, np.linalg.norm(room.positions - room.receiver, axis=1))

    monkeypatch.setattr(corpus_module, "simulate", made_up)
    monkeypatch.setattr(corpus_module, "ROOMS_PER_SHARD", 3)
    folder = tmp_path / "corpus"
    folder.mkdir()
    corpus_module.write_shard(folder, 5, False, 0)
    corpus_module.simulate_corpus(folder, 3, 5, workers=1)  # nothing is missing: describes it
    return folder


@pytest.fixture
def acoustic_rooms(tmp_path: Path) -> Path:
    """Two rooms of a box, one of the unseen split, in the layout of AcousticRooms."""
    import soundfile

    tmp_path = tmp_path / "AcousticRooms"
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
