"""The process of levels, against a device that is known, and plain linear algebra."""

import numpy as np
import pytest
import torch
from scipy.special import j1

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.levels.cells import OCTAVES, SPANS
from haa_peft.levels.process import NAMES, Parameters, Places, fit, shape, solve, sphere

AXIS = np.array([0.6, -0.8, 0.0])


def places_around(count, seed):
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((count, 3)) * [1, 1, 0.4]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions * rng.uniform(1, 4, (count, 1))


def piston(positions, radius=0.08):
    """Far-field level of a rigid piston in a baffle (2 J1(x) / x, x = k a sin) before it, falling on behind it: dB."""
    cosine = positions @ AXIS / np.linalg.norm(positions, axis=1)
    angle = np.arccos(cosine.clip(-1, 1))
    x = 2 * np.pi * np.array(OCTAVES) / SPEED_OF_SOUND * radius * np.sin(np.minimum(angle, np.pi / 2))[:, None]
    level = 20 * np.log10(np.maximum(np.abs(2 * j1(x) / np.maximum(x, 1e-9)), 0.05))
    return np.where(x < 1e-6, 0.0, level) - np.maximum(0, -cosine)[:, None] * np.array([0, 1, 3, 6, 9, 11, 12])


def measured(count, seed, level=piston, error=0.5):
    positions = places_around(count, seed)
    rng = np.random.default_rng(seed + 1)
    levels = level(positions)[:, None] + error * rng.standard_normal((count, SPANS, len(OCTAVES)))
    return positions, levels


def test_the_axis_and_the_levels_of_a_piston_are_found_from_twelve_positions():
    positions, levels = measured(12, 3)
    process = fit(levels, Places.of(positions, np.zeros(12)))
    axis = process.parameters.unit_axis[0].numpy()
    assert axis @ AXIS > 0.9
    asked = places_around(60, 77)
    told, deviation = (tell(Places.of(asked, np.zeros(60))) for tell in (process.predict, process.deviation))
    true = piston(asked)
    error = np.sqrt(((told[:, 0] - true) ** 2).mean(axis=0))
    nearest = np.linalg.norm(asked[:, None] - positions, axis=-1).argmin(axis=1)
    by_neighbour = np.sqrt(((levels[nearest, 0] - true) ** 2).mean(axis=0))
    assert (error[3:6] < 0.7 * by_neighbour[3:6]).all()  # 1 to 4 kHz, where it beams
    assert np.sqrt(((told[:, 0] - true) ** 2 / (deviation[:, 0] ** 2 + 0.25)).mean()) < 2.5


def test_an_omnidirectional_device_stays_one():
    positions, levels = measured(12, 5, level=lambda p: np.zeros((len(p), len(OCTAVES))))
    process = fit(levels, Places.of(positions, np.zeros(12)))
    assert float(process.parameters.beam.max()) < 3
    told = process.predict(Places.of(places_around(40, 6), np.zeros(40)))
    assert np.abs(told).max() < 1.2


def test_what_lies_behind_an_obstacle_is_told_by_others_behind_it():
    positions = places_around(14, 8)
    hidden = (np.arange(14) % 2).astype(float)
    rng = np.random.default_rng(2)
    levels = -9.0 * hidden[:, None, None] + 0.3 * rng.standard_normal((14, SPANS, len(OCTAVES)))
    process = fit(levels, Places.of(positions, hidden))
    asked = places_around(20, 9)
    for seen, expected in ((0.0, 0.0), (1.0, -9.0)):
        told = process.predict(Places.of(asked, np.full(20, seen)))
        assert told[:, 0].mean() == pytest.approx(expected, abs=2.0)


def test_predictions_are_those_of_the_textbook():
    """Rasmussen and Williams, Gaussian Processes for Machine Learning, eqs. 2.25 and 2.26, with numpy's inverse."""
    positions, levels = measured(9, 11)
    hidden = (np.arange(9) > 6).astype(float)
    process = fit(levels, Places.of(positions, hidden))
    known, asked = process.places, Places.of(places_around(5, 12), np.zeros(5))
    own = process.parameters
    mean, deviation = process.predict(asked), process.deviation(asked)
    chance = own.value("chance").numpy()
    k, cross, prior = (
        own.covariance(a, b).detach().numpy() for a, b in ((known, known), (asked, known), (asked, asked))
    )
    for span in range(SPANS):
        for band in range(len(OCTAVES)):
            inverse = np.linalg.inv(k[span, band] + chance[span] ** 2 * np.eye(9))
            residual = levels[:, span, band] - own.mean(known).detach().numpy()[span, band]
            expected = own.mean(asked).detach().numpy()[span, band] + cross[span, band] @ inverse @ residual
            assert np.allclose(mean[:, span, band], expected, atol=1e-5)
            variance = np.diag(prior[span, band] - cross[span, band] @ inverse @ cross[span, band].T)
            assert np.allclose(deviation[:, span, band] ** 2, variance, atol=1e-4)


def test_left_out_measurements_are_not_seen():
    positions, levels = measured(10, 14)
    process = fit(levels, Places.of(positions, np.zeros(10)))
    out = np.arange(10) < 3
    asked = Places.of(positions[out], np.zeros(3))
    told = process.predict(asked, out)
    wild = process.levels.clone()
    wild[..., :3] += 50.0
    again = type(process)(process.parameters, process.places, wild).predict(asked, out)
    assert np.allclose(told, again, atol=0.01)


def test_the_shape_falls_from_front_to_back():
    fallen = shape(torch.linspace(0, 1, 50))
    assert fallen[0] == 0
    assert float(fallen[-1]) == pytest.approx(1)
    assert (fallen.diff() >= 0).all()


def test_the_density_of_a_start_is_that_of_a_normal_distribution():
    positions, levels = measured(6, 20)
    places = Places.of(positions, np.zeros(6))
    parameters = Parameters(sphere(3)[:1], torch.tensor([0.5], dtype=torch.float64))
    y = torch.from_numpy(levels[:, :1]).permute(1, 2, 0)
    found = float(solve(parameters, places, y, torch.zeros(6, dtype=torch.float64))[0][0])
    covariance = parameters.covariance(places, places)[0] + parameters.value("chance")[0] ** 2 * torch.eye(6)
    normal = torch.distributions.MultivariateNormal(parameters.mean(places)[0], covariance)
    constant = len(OCTAVES) * 6 / 2 * np.log(2 * np.pi)
    assert found == pytest.approx(float(-normal.log_prob(y[0]).sum() + parameters.prior()[0]) - constant, rel=1e-9)
    assert set(NAMES) == {"shape", "smooth", "width", "obstacle", "place", "reach", "chance"}
