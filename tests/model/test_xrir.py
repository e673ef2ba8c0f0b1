import copy
import json
import zlib

import numpy as np
import pytest
import torch
from torch.nn import functional

from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.losses import energy_decay_loss, stft_l1_loss
from haa_peft.acoustics.spectrogram import magnitude
from haa_peft.errors import InputError
from haa_peft.geometry.panorama import directions
from haa_peft.model.config import XRIRConfig
from haa_peft.model.heads import KNOTS, LARGEST_LEVEL, over_frames
from haa_peft.model.linear import FEWEST, product
from haa_peft.model.tensors import RoomTensors
from haa_peft.model.xrir import XRIR
from haa_peft.oracle import plain_forward, use_plain_products
from tests.conftest import PARITY, TINY

NAMES = ("reference_rirs", "target_position", "reference_positions")
SHAPES = json.loads((PARITY / "xrir_state_shapes.json").read_text())
CASE = {name: torch.from_numpy(value) for name, value in np.load(PARITY / "xrir_case_a.npz").items()}


def made_tensor(name, shape):
    """The parity case's weights, as the fixture's description defines them."""
    tops = {"dist_embedder.freqs": 7, "time_embedder.freqs": 10}
    if name in tops:
        return torch.from_numpy(2 ** np.linspace(0, tops[name], 10)).float()
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    noise = np.random.default_rng(zlib.crc32(("a:" + name).encode())).standard_normal(shape)
    if name.endswith("running_var"):
        noise = 1 + 0.1 * np.abs(noise)
    elif len(shape) >= 2:
        noise = noise / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        noise = 1 + 0.1 * noise
    else:
        noise = 0.1 * noise
    return torch.from_numpy(noise).float()


@pytest.fixture(scope="module")
def published_state():
    return {name: made_tensor(name, shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def published(published_state):
    network = XRIR()
    network.load_state_dict(published_state, strict=True)
    return network.eval().requires_grad_(False)


def panorama_of(depth):
    return depth[:, None] * torch.from_numpy(directions()).float().permute(2, 0, 1)


def test_state_dict_is_the_published_one():
    with torch.device("meta"):
        state = XRIR().state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == SHAPES


def test_reproduces_the_published_network(published):
    output = published(
        panorama_of(CASE["depth"]), CASE["reference_rirs"], CASE["target_position"], CASE["reference_positions"]
    )
    torch.testing.assert_close(output, CASE["expected_log_spectrogram"], rtol=0, atol=1e-4)
    true = CASE["expected_target_spectrogram"]
    assert float(stft_l1_loss(output, true)) == pytest.approx(float(CASE["expected_stft_l1"]), rel=1e-4)
    assert float(energy_decay_loss(output, true)) == pytest.approx(float(CASE["expected_decay_loss"]), rel=1e-4)


VARIANTS = [{}, {"align_before_encoding": True}, {"weighting": "published"}, {"reflections": False}]


def random_network(**changes):
    import dataclasses

    torch.manual_seed(1)
    network = XRIR(dataclasses.replace(TINY, **changes)).eval()
    for parameter in network.parameters():  # also the weights that start at zero
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def assert_same_gradients(ours, plain, tolerance=1e-5):
    assert ours.keys() == plain.keys()
    for name, gradient in plain.items():
        assert float((ours[name] - gradient).norm()) <= tolerance * float(gradient.norm()), name


def plain_rooms(network, asked):
    return [
        plain_forward(
            network,
            room.panorama.expand(len(targets), -1, -1, -1),
            room.rirs[references],
            room.positions[targets],
            room.positions[references],
        )
        for room, targets, references in asked
    ]


def predict_rooms(network, asked):
    """As training does it: what a batch needs of every room is encoded together, and then predicted from."""
    narrow = [room.narrowed(targets, references) for room, targets, references in asked]
    encoded = network.encode([room for room, *_ in narrow])
    return [network.predict([(room, room.targets(*rows))]) for room, (_, *rows) in zip(encoded, narrow, strict=True)]


@pytest.fixture
def mixed_rooms():
    """Queries in three configurations, with other numbers of references."""
    panorama = panorama_of(CASE["depth"])[0]
    rirs, positions = CASE["reference_rirs"][0], CASE["reference_positions"][0]
    table = torch.cat([positions, CASE["target_position"]])
    return [
        (RoomTensors(panorama, rirs, table), torch.tensor([0, 8, 7]), torch.tensor([[1, 2, 3], [0, 1, 7], [5, 4, 0]])),
        (RoomTensors(panorama.clone(), rirs.flip(0) * 0.5, table), torch.tensor([8]), torch.tensor([[1, 2]])),
        (RoomTensors(0.7 * panorama, rirs * 2, 0.7 * table), torch.tensor([3, 8]), torch.tensor([[1], [0]])),
    ]


@pytest.mark.parametrize("changes", VARIANTS)
def test_mixed_rooms_have_the_values_and_gradients_of_the_plain_computation(changes, mixed_rooms):
    network = random_network(**changes).double()
    rooms = [(RoomTensors(*(t.double() for t in room[:3])), *rows) for room, *rows in mixed_rooms]
    together, plain = predict_rooms(network, rooms), plain_rooms(network, rooms)
    for ours, theirs in zip(together, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert_same_gradients(
        gradients(network, sum(part.square().sum() for part in together)),
        gradients(network, sum(part.square().sum() for part in plain)),
    )


def test_distinct_inputs_are_encoded_once(mixed_rooms, monkeypatch):
    network = random_network(align_before_encoding=True)
    seen = {"encode_views": 0, "encode_audio": 0}
    for encoder in seen:
        real = getattr(network, encoder)

        def counted(x, encoder=encoder, real=real):
            seen[encoder] += x.shape[: -2 if encoder == "encode_audio" else 1].numel()
            return real(x)

        monkeypatch.setattr(network, encoder, counted)
    predict_rooms(network, mixed_rooms)
    # receivers and the eight, three and four positions in use; one spectrogram a pair
    assert seen == {"encode_views": 9 + 4 + 5, "encode_audio": 9 + 2 + 2}
    everyone = torch.arange(8)
    others = torch.stack([everyone[everyone != i] for i in everyone])
    seen["encode_views"] = 0
    predict_rooms(network, [(mixed_rooms[0][0], everyone, others)])
    assert seen["encode_views"] == 9


@pytest.mark.slow
def test_published_network_in_one_batch_has_the_plain_gradients(published_state):
    """At the published size, two targets of one configuration; in double precision, to tell rounding from errors."""
    network = XRIR().eval()
    network.load_state_dict(published_state)
    network.double()
    panorama = panorama_of(CASE["depth"])[0].double()
    rirs, positions = CASE["reference_rirs"][0].double(), CASE["reference_positions"][0].double()
    room = (RoomTensors(panorama, rirs, positions), torch.tensor([0, 1]), torch.tensor([[1, 2], [2, 0]]))
    ours, plain = predict_rooms(network, [room])[0], plain_rooms(network, [room])[0]
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-6)
    true = CASE["expected_target_spectrogram"].expand(2, -1, -1).double()
    assert_same_gradients(
        gradients(network, stft_l1_loss(ours, true) + energy_decay_loss(ours, true)),
        gradients(network, stft_l1_loss(plain, true) + energy_decay_loss(plain, true)),
    )


def test_single_precision_is_the_plain_computation_too(published):
    """With oneDNN's products and channels last against torch's own."""
    plain = copy.deepcopy(published)
    use_plain_products(plain)
    inputs = (panorama_of(CASE["depth"]), *(CASE[name] for name in NAMES))
    with torch.no_grad():
        torch.testing.assert_close(published(*inputs), plain_forward(plain, *inputs), rtol=0, atol=2e-5)


@pytest.mark.parametrize("rows", [7, 3000])
def test_product_is_torchs_linear(rows):
    assert (2 * rows * 60 * 70 >= FEWEST) == (rows == 3000)  # below it, it is torch's
    values = []
    for function in (product, functional.linear):
        torch.manual_seed(0)
        given = [torch.randn(*shape).requires_grad_() for shape in ((2, rows, 60), (70, 60), (70,))]
        y = function(*given)
        y.square().sum().backward()
        values.append([y.detach(), *(tensor.grad for tensor in given)])
    for ours, theirs in zip(*values, strict=True):
        assert float((ours - theirs).norm()) <= 1e-5 * float(theirs.norm())


def test_energy_blend_starts_as_an_average_of_energies_weighted_by_distance(mixed_rooms):
    room, target_rows, reference_rows = mixed_rooms[0]
    target, references = room.positions[target_rows], room.positions[reference_rows]
    found = predict_rooms(XRIR(TINY).eval(), mixed_rooms[:1])[0].exp() ** 2
    weights = torch.softmax(-functional.softplus(torch.tensor(2.0)) * (references - target[:, None]).norm(dim=-1), 1)
    for row, (at, others) in enumerate(zip(target, references, strict=True)):
        ratio = others.norm(dim=-1) / at.norm()
        energy = magnitude(align(room.rirs[reference_rows[row]], others, at)) ** 2
        arrival = at.norm() / 343 * 22_050 / 31
        # alignment has scaled all by |r| / |p|; from 4 ms after the direct sound, 0.7 of that (in dB) is undone
        direct = (weights[row, :, None] * energy[..., int(arrival)]).sum(0)
        later = (weights[row, :, None] * energy[..., int(arrival) + 7] / ratio[:, None] ** 1.4).sum(0)
        torch.testing.assert_close(found[row][:, int(arrival)], direct, rtol=2e-3, atol=0)
        torch.testing.assert_close(found[row][:, int(arrival) + 7], later, rtol=2e-3, atol=0)


def test_departures_are_bounded(mixed_rooms):
    network = random_network()
    torch.nn.init.constant_(network.energy_blend.departure.bias, 1e6)
    untrained = copy.deepcopy(network)
    torch.nn.init.zeros_(untrained.energy_blend.departure.bias)
    torch.nn.init.zeros_(untrained.energy_blend.departure.weight)
    for loud, plain in zip(predict_rooms(network, mixed_rooms), predict_rooms(untrained, mixed_rooms), strict=True):
        heard = plain > -3  # far above the floor, which has no level
        assert heard.any()
        torch.testing.assert_close(
            (loud - plain)[heard], torch.full_like(loud[heard], LARGEST_LEVEL), rtol=0, atol=1e-3
        )


def test_over_frames_is_linear_between_knots():
    values = torch.randn(2, 3, len(KNOTS), dtype=torch.double)
    far = torch.tensor([[1.0], [9.0]], dtype=torch.double)
    found = over_frames(values, far)
    time = np.arange(310) * 31 / 22_050
    for row in range(2):
        for k in range(3):
            expected = np.interp(time - float(far[row]) / 343, KNOTS, values[row, k])
            np.testing.assert_allclose(found[row, k], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("depth", 0, "depth is 0 but must be at least 1"),
        ("depth", None, "depth is None but must be a whole number"),
        ("normalisation", "layer", "must be one of batch, group"),
        ("patch_width", 48, "do not tile"),
        ("width", 30, "multiple of 4"),
    ],
)
def test_bad_configuration(field, value, message):
    with pytest.raises(InputError, match=message):
        XRIRConfig(**{field: value})
    with pytest.raises(InputError, match="unknown fields colour"):
        XRIRConfig.from_dict({"colour": 1}, "config.json")
