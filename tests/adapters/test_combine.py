import pytest
import torch

from haa_peft.adapters.combine import blend_adapters, stack
from haa_peft.adapters.methods import MethodSettings, attach, attach_stored, merged
from haa_peft.errors import InputError
from haa_peft.geometry.channels import EXTRA_CHANNELS
from haa_peft.model.checkpoint import fingerprint


def made(backbone, settings, seed):
    """An adapter whose tensors are random."""
    adapter = attach(backbone, settings, seed)
    generator = torch.Generator().manual_seed(seed)
    tensors = {n: t + 0.1 * torch.randn(t.shape, generator=generator) for n, t in adapter.tensors().items()}
    config = adapter.config()
    adapter.detach()
    return config, tensors


@torch.no_grad()
def output(backbone, stored, inputs):
    adapter = attach_stored(backbone, *stored)
    found = backbone(*inputs)
    adapter.detach()
    return found


KINDS = {
    "lora": MethodSettings("lora", rank=2),
    "lora of other ranks": MethodSettings("lora", rank=3, alpha=2.0, ranks={"energy_blend": 1}),
    "lora with convolutions": MethodSettings("lora", convolutions=True),
    "bias": MethodSettings("bias"),
    "norm": MethodSettings("norm"),
    "full": MethodSettings("full"),
    "lora with channels": MethodSettings("lora", channels="normals"),
    "bias with channels": MethodSettings("bias", channels="normals"),
}


@pytest.fixture
def inputs(inputs):
    """With channels behind the coordinates."""
    panorama, *others = inputs
    return torch.cat([panorama, torch.ones(1, EXTRA_CHANNELS, 256, 512)], dim=1), *others


@pytest.mark.parametrize("below", ["lora", "bias", "norm", "lora with channels"])
@pytest.mark.parametrize("above", KINDS)
def test_a_stack_is_the_upper_one_on_the_merged_lower_one(below, above, tiny_backbone, inputs):
    before = fingerprint(tiny_backbone)
    parent = made(tiny_backbone, KINDS[below], 1)
    child = made(merged(tiny_backbone, *parent), KINDS[above], 2)
    expected = output(merged(tiny_backbone, *parent), child, inputs)
    found = stack(tiny_backbone, parent, child)
    torch.testing.assert_close(output(tiny_backbone, found, inputs), expected, rtol=1e-4, atol=2e-5)
    assert (found[0]["peft_type"] == "LORA") == ("lora" in below and "lora" in above)
    assert fingerprint(tiny_backbone) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_blend_is_linear_in_the_weights(kind, tiny_backbone):
    adapters = [made(tiny_backbone, KINDS[kind], seed) for seed in (1, 2)]
    base, *whole = (dict(b.named_parameters()) for b in (tiny_backbone, *(merged(tiny_backbone, *a) for a in adapters)))
    found = dict(merged(tiny_backbone, *blend_adapters(tiny_backbone, adapters, [0.25, 0.75])).named_parameters())
    for name, parameter in base.items():
        expected = parameter + 0.25 * (whole[0][name] - parameter) + 0.75 * (whole[1][name] - parameter)
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


def test_ends_of_a_blend_are_the_adapters(tiny_backbone, inputs):
    adapters = [made(tiny_backbone, KINDS["lora"], seed) for seed in (1, 2)]
    for i, shares in enumerate(([1.0, 0.0], [0.0, 1.0])):
        ends = output(tiny_backbone, blend_adapters(tiny_backbone, adapters, shares), inputs)
        torch.testing.assert_close(ends, output(tiny_backbone, adapters[i], inputs), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_combined(tiny_backbone):
    lora = made(tiny_backbone, MethodSettings("lora"), 1)
    with pytest.raises(InputError, match="2 adapters have 1 shares"):
        blend_adapters(tiny_backbone, [lora, lora], [1.0])
