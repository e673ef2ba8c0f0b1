from contextlib import ExitStack

import numpy as np
import torch

from haa_peft.acoustics.spectrogram import HIGHEST, analyse, magnitude, to_blocks
from haa_peft.acoustics.waveform import (
    FEWER_ITERATIONS,
    griffin_lim,
    query_seeds,
    random_phases,
    reference_phases,
    reflect_ends,
    synthesise,
)
from tests.conftest import PARITY

RIRS = torch.from_numpy(np.load(PARITY / "metrics_case_a.npz")["rirs"])


def test_griffin_lim_is_torchaudios_when_both_start_at_zero_phase(torchaudio):
    magnitudes = magnitude(RIRS).double()  # in single precision rounding grows a thousandfold over the iterations
    ours = griffin_lim(magnitudes, torch.zeros(magnitudes.shape, dtype=torch.float64))
    theirs = torchaudio.functional.griffinlim(
        magnitudes, torch.hann_window(62, dtype=torch.float64), 124, 31, 62, 1.0, 32, 0.99, 9600, rand_init=False
    )
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_single_precision_is_enough_from_a_random_phase():
    magnitudes, phases = magnitude(RIRS), random_phases(list(range(len(RIRS))))
    exact = griffin_lim(magnitudes.double(), phases.double())
    assert float((griffin_lim(magnitudes, phases) - exact).abs().max()) < 1e-3 * float(exact.abs().max())


def test_batches_do_not_matter():
    magnitudes, phases = magnitude(RIRS).repeat(8, 1, 1), random_phases(list(range(8 * len(RIRS))))
    together = griffin_lim(magnitudes, phases)
    alone = torch.cat([griffin_lim(magnitudes[i : i + 1], phases[i : i + 1]) for i in range(0, 40, 7)])
    torch.testing.assert_close(together[0:40:7], alone, rtol=0, atol=1e-3 * float(together.abs().max()))


def test_synthesis_undoes_analysis():
    rirs = RIRS.double()
    blocks = synthesise(*analyse(to_blocks(rirs)))
    torch.testing.assert_close(blocks[..., :31].flatten(1)[:, 31:9631], rirs, rtol=1e-9, atol=1e-9)


def test_ends_are_reflected_as_torch_does():
    blocks = to_blocks(RIRS.clone())
    reflect_ends(blocks)
    whole = torch.nn.functional.pad(RIRS, (31, 311 * 31 - 31 - 9600), mode="reflect")
    torch.testing.assert_close(blocks[..., :31].flatten(1), whole, rtol=0, atol=0)


def test_phase_depends_on_query_and_seed_alone():
    positions = np.array([[1.0, 2.0, 3.0], [1.5, 2.0, 3.0], [0.0, -0.0, 1.0]])
    seeds = query_seeds(positions, seed=4)
    assert seeds[::-1] == query_seeds(positions[::-1], seed=4)
    assert len({*seeds, *query_seeds(positions, seed=5)}) == 6
    assert query_seeds(np.array([[0.0, 0.0, 1.0]]), seed=4) == seeds[2:]
    torch.testing.assert_close(random_phases(seeds)[1:2], random_phases(seeds[1:2]))
    phases = random_phases(seeds)
    assert phases.shape == (3, 63, 310)
    assert 0 <= float(phases.min()) < 0.01 < 6.27 < float(phases.max()) < 6.2832


def test_reference_phases_are_those_of_the_weighted_sum():
    near, far = RIRS[:3].double(), RIRS[1:4].double()
    distance = torch.tensor([[0.0, 2.0]], dtype=torch.float64).expand(3, -1)
    phases = reference_phases(torch.stack([near, far], dim=1), distance)
    share = 1 / (1 + np.exp(-3))
    window = torch.hann_window(62, dtype=torch.float64)
    mixture = share * near + (1 - share) * far
    expected = torch.stft(mixture, 124, 31, 62, window, pad_mode="constant", return_complex=True)
    apart = (torch.polar(expected.abs(), phases) - expected).abs()
    assert float(apart.max()) < 1e-9 * float(expected.abs().max())


def test_the_right_phase_gives_the_rir_back():
    rirs = RIRS.double()
    phases = reference_phases(rirs[:, None], torch.zeros(len(rirs), 1))
    found = griffin_lim(magnitude(rirs), phases, FEWER_ITERATIONS)
    assert float((found - rirs).norm()) < 1e-2 * float(rirs.norm())
    random = griffin_lim(magnitude(rirs), random_phases(list(range(len(rirs)))).double())
    assert float((random - rirs).norm()) > 0.1 * float(rirs.norm())


def test_products_stay_precise_while_any_thread_needs_it():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with ExitStack() as one, ExitStack() as other:
            for thread in (one, other):
                thread.enter_context(HIGHEST)
            one.close()  # it came first and leaves first
            assert torch.get_float32_matmul_precision() == "highest"
            other.close()
            assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
