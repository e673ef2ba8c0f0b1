"""Lines, arcs, planes and clusters: what geometry says that positions tell, and what the estimate then claims."""

import numpy as np
import pytest

from haa_peft.cli import main
from haa_peft.geometry.estimate.plausibility import check_surfaces
from haa_peft.geometry.estimate.shoebox import estimate_shoebox
from haa_peft.geometry.estimate.sight import sight_notes
from haa_peft.geometry.estimate.telling import telling
from haa_peft.geometry.panorama import depth_around
from haa_peft.geometry.sources import Known
from haa_peft.geometry.surfaces import Surfaces
from tests.geometry.estimate.test_shoebox import FS, RECEIVER, SIZE, measure

RNG = np.random.default_rng(3)
TURN = np.radians(np.linspace(-85, 85, 12))
SETS = {
    "line": np.stack([np.linspace(0.6, 5.6, 12), np.full(12, 3.0), np.full(12, 1.5)], axis=1),
    "slanting line": np.linspace([0.6, 0.6, 0.5], [5.6, 4.0, 2.2], 12),
    "arc": RECEIVER + np.stack([1.5 * np.cos(TURN), 1.5 * np.sin(TURN), np.full(12, 0.5)], axis=1),
    "level": np.column_stack([RNG.uniform([0.4, 0.4], [5.9, 4.2], (12, 2)), np.full(12, 1.6)]),
    "upright plane": np.column_stack([np.full(12, 4.0), RNG.uniform([0.4, 0.4], [4.2, 2.2], (12, 2))]),
    "cluster": np.array([4.0, 3.0, 1.6]) + RNG.uniform(-0.04, 0.04, (12, 3)),
    "one position off a level": np.column_stack([RNG.uniform([0.4, 0.4], [5.9, 4.2], (12, 2)), [2.1] + [1.6] * 11]),
    "volume": RNG.uniform(0.4, SIZE - 0.4, (12, 3)),
}
SHARED = {"line": [1, 2], "arc": [2], "level": [2], "upright plane": [0], "cluster": [0, 1, 2],
          "one position off a level": [2]}  # fmt: skip


def paths(positions, axis, offset):
    """Metres from positions over a wall across an axis to the receiver, by the mirror image."""
    images = positions.copy()
    images[:, axis] = 2 * offset - images[:, axis]
    return np.linalg.norm(images - RECEIVER, axis=1)


@pytest.mark.parametrize("name", SETS)
def test_what_is_said_not_to_be_told_has_the_same_paths_and_what_is_has_not(name):
    positions = SETS[name]
    found = telling(positions, RECEIVER)
    assert found.shared == SHARED.get(name, [])
    other = found.other_reading(np.stack([np.zeros(3), SIZE], axis=1).ravel()).reshape(3, 2)
    for axis in range(3):
        for wall, image in zip((0.0, SIZE[axis]), other[axis][::-1], strict=True):
            if axis in found.shared:
                difference = paths(positions, axis, wall) - paths(positions, axis, image)
                assert np.median(np.abs(difference)) < 0.06
            else:
                mirrored = 2 * found.middle[axis] - wall
                difference = paths(positions, axis, wall) - paths(positions, axis, mirrored)
                assert (np.abs(difference) > 0.06).sum() >= 3
    if len(found.shared) > 1:  # a wall across another shared axis does as well
        one, two = found.shared[:2]
        squared = paths(positions, one, 0.0) ** 2 - np.sum((positions - RECEIVER) ** 2, axis=1)
        middle, half = (positions[0, two] + RECEIVER[two]) / 2, (positions[0, two] - RECEIVER[two]) / 2
        offset = middle + np.sqrt(half**2 + np.median(squared) / 4)
        np.testing.assert_allclose(paths(positions, one, 0.0), paths(positions, two, offset), atol=0.1)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("floor", [0.0, None])
def test_no_wall_is_confident_that_cannot_be_told_and_both_readings_are_given(name, floor):
    positions = SETS[name]
    estimate = estimate_shoebox(measure(positions), positions, RECEIVER, floor)
    truth = np.stack([np.zeros(3), SIZE], axis=1).ravel()
    shared = np.repeat(~estimate.telling.told, 2)
    assert not estimate.confident[shared].any()
    assert (estimate.high - estimate.low)[estimate.confident].max(initial=0) <= 0.6
    np.testing.assert_allclose(estimate.offsets[estimate.confident], truth[estimate.confident], atol=0.1)
    np.testing.assert_array_equal(np.isfinite(estimate.other_reading), shared)
    assert (
        check_surfaces(measure(positions), positions, RECEIVER, Surfaces.shoebox(SIZE), estimate).contradictions == []
    )
    if name != "cluster":  # one reading is right, and the size with it
        np.testing.assert_allclose(estimate.size, SIZE, atol=0.1)
        right = np.abs(estimate.offsets - truth) < 0.15
        mirrored = np.abs(estimate.other_reading - truth) < 0.15
        assert (right | mirrored).all()


def test_the_words():
    said = telling(SETS["line"], RECEIVER).in_words()
    assert said.startswith("these positions tell walls across x, and cannot tell a wall from its mirror image across y")
    assert "mirrored about 2.35" in said
    assert said.endswith("nor the walls of y and z from each other")
    assert telling(SETS["volume"], RECEIVER).in_words() == "these positions tell walls across x and y and z"


def test_the_command_says_it_first(room_folder, capsys):
    positions = SETS["arc"]
    np.save(room_folder / "RIRs.npy", measure(positions))
    np.save(room_folder / "xyzs.npy", positions)
    text = (
        (room_folder / "room.json")
        .read_text()
        .replace("48000", str(FS))
        .replace("[2.0, 1.5, 1.2]", str(RECEIVER.tolist()))
    )
    (room_folder / "room.json").write_text(text.replace("[6.0, 4.0, 2.7]", str(SIZE.tolist())))
    main(["geometry", str(room_folder), "--from-sound"])
    first, *others = capsys.readouterr().out.splitlines()
    assert "cannot tell a wall from its mirror image across z" in first
    assert any("or, mirrored" in line for line in others)
    assert "no echo contradicts the surfaces given" in others


def test_late_sound_is_not_said_to_agree():
    """One set's direct sound came 0 times straight, and agreed at 12 of 12 positions."""
    positions = SETS["volume"]
    late = np.pad(measure(positions), ((0, 0), (500, 0)))[:, :9600]
    known = Known.of(RECEIVER, positions, late, np.arange(12))
    said = sight_notes(depth_around(Surfaces.shoebox(SIZE), RECEIVER), known)
    assert said[0].startswith("direct sound agrees at 0 of 12 positions; 12 come later than straight")
    known = Known.of(RECEIVER, positions, measure(positions), np.arange(12))
    assert (
        sight_notes(depth_around(Surfaces.shoebox(SIZE), RECEIVER), known)[0]
        == "direct sound agrees at 12 of 12 positions"
    )


def test_the_command_says_what_is_wrong_with_the_measurements(room_folder, capsys):
    rirs = np.load(room_folder / "RIRs.npy")
    np.save(room_folder / "RIRs.npy", np.pad(rirs, ((0, 0), (480, 0))))
    main(["geometry", str(room_folder)])
    said = capsys.readouterr().out
    assert "direct sound agrees at 0 of 12 positions" in said
    assert "error: latency: sound comes 10.0" in said
