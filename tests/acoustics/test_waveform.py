import numpy as np
import torch
import torchaudio

from haa_peft.acoustics.spectrogram import magnitude
from haa_peft.acoustics.waveform import griffin_lim, query_seeds, random_phases
from tests.conftest import PARITY

RIRS = torch.from_numpy(np.load(PARITY / "metrics_case_a.npz")["rirs"])


def test_griffin_lim_is_torchaudios_when_both_start_at_zero_phase():
    magnitudes = magnitude(RIRS)
    ours = griffin_lim(magnitudes, torch.ones(magnitudes.shape, dtype=torch.complex64))
    theirs = torchaudio.functional.griffinlim(
        magnitudes, torch.hann_window(62), 124, 31, 62, 1.0, 32, 0.99, 9600, rand_init=False
    )
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_phase_depends_on_query_and_seed_alone():
    positions = np.array([[1.0, 2.0, 3.0], [1.5, 2.0, 3.0], [0.0, -0.0, 1.0]])
    seeds = query_seeds(positions, seed=4)
    assert seeds[::-1] == query_seeds(positions[::-1], seed=4)
    assert len({*seeds, *query_seeds(positions, seed=5)}) == 6
    assert query_seeds(np.array([[0.0, 0.0, 1.0]]), seed=4) == seeds[2:]
    torch.testing.assert_close(random_phases(seeds, (3, 5))[1:2], random_phases(seeds[1:2], (3, 5)))
    torch.testing.assert_close(random_phases(seeds, (3, 5)).abs(), torch.ones(3, 3, 5))
