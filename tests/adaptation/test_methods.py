import json
import math

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save

from haa_peft import load_backbone
from haa_peft.adaptation.methods import METHODS, MethodSettings, attach, attach_stored
from haa_peft.backbone.checkpoint import fingerprint
from haa_peft.backbone.xrir import XRIR
from haa_peft.errors import InputError
from tests.conftest import TINY


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(2)
    panorama = torch.randn(1, 3, 256, 512, generator=generator)
    rirs = torch.randn(1, 4, 9600, generator=generator) * torch.exp(-torch.arange(9600) / 900)
    return panorama, rirs, torch.randn(1, 3, generator=generator), torch.randn(1, 4, 3, generator=generator)


@torch.no_grad()
def output(network, inputs):
    return network(*inputs)


def same(found, expected, method):
    """Bit for bit, but while all weights train: torch then folds the product with one output otherwise, and rounds."""
    return torch.allclose(found, expected, rtol=0, atol=2e-6) if method == "full" else torch.equal(found, expected)


def train_a_little(backbone, adapter, inputs):
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    for _ in range(2):
        backbone(*inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("method", METHODS)
def test_an_adapters_life(method, tiny_backbone, inputs):
    base = output(tiny_backbone, inputs)
    before = fingerprint(tiny_backbone)
    adapter = attach(tiny_backbone, MethodSettings(method), seed=0)
    assert same(output(tiny_backbone, inputs), base, method)  # fresh = base
    trainable = [parameter for parameter in tiny_backbone.parameters() if parameter.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in adapter.parameters()}

    train_a_little(tiny_backbone, adapter, inputs)
    with adapter.disabled():
        assert same(output(tiny_backbone, inputs), base, method)
    config, tensors = json.loads(json.dumps(adapter.config())), adapter.tensors()
    adapter.load(tensors)
    adapted = output(tiny_backbone, inputs)
    assert not torch.allclose(adapted, base)

    adapter.detach()
    assert fingerprint(tiny_backbone) == before
    assert torch.equal(output(tiny_backbone, inputs), base)
    assert not any(parameter.requires_grad for parameter in tiny_backbone.parameters())

    stored = attach_stored(tiny_backbone, config, tensors)
    assert torch.equal(output(tiny_backbone, inputs), adapted)
    stored.detach()
    assert fingerprint(tiny_backbone) == before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape", "nan"])
def test_tensors_that_do_not_fit(method, fault, tiny_backbone):
    adapter = attach(tiny_backbone, MethodSettings(method), seed=0)
    config, tensors = adapter.config(), adapter.tensors()
    adapter.detach()
    before = fingerprint(tiny_backbone)
    name = next(iter(tensors))
    if fault == "missing":
        del tensors[name]
    elif fault == "unexpected":
        tensors["extra"] = torch.zeros(1)
    elif fault == "shape":
        tensors[name] = torch.zeros(*tensors[name].shape, 2)
    else:
        tensors[name] = torch.full_like(tensors[name], math.nan)
    with pytest.raises(InputError, match="does not fit this backbone|holds NaN"):
        attach_stored(tiny_backbone, config, tensors)
    assert fingerprint(tiny_backbone) == before


def test_published_sizes():
    """33 729 live biases and 271 k LoRA weights (rank 4), as counted on the published network."""
    network = XRIR().requires_grad_(False)
    published_bytes = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    counts = {}
    for method in METHODS:
        adapter = attach(network, MethodSettings(method, rank=4), seed=0)
        counts[method] = sum(parameter.numel() for parameter in adapter.parameters())
        if method == "lora":
            assert len(save(adapter.tensors())) < 0.01 * published_bytes
            assert not any("source_proj" in name or "fc_backup" in name for name in adapter.tensors())
        adapter.detach()
    live = sum(p.numel() for p in network.parameters()) - 513_000 - 11_008
    assert counts == {"lora": 270_676, "bias": 33_729, "full": live}


def test_lora_of_the_bundled_backbone_is_under_a_twentieth_of_it():
    network = load_backbone("small")
    backbone_bytes = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    assert len(save(attach(network, MethodSettings("lora"), seed=0).tensors())) < 0.05 * backbone_bytes


def test_lora_files_are_pefts(tiny_backbone, inputs, tmp_path):
    from peft import PeftModel
    from safetensors.torch import save_file

    adapter = attach(tiny_backbone, MethodSettings("lora"), seed=0)
    train_a_little(tiny_backbone, adapter, inputs)
    adapted = output(tiny_backbone, inputs)
    save_file(adapter.tensors(), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter.config()))
    adapter.detach()
    theirs = PeftModel.from_pretrained(tiny_backbone, str(tmp_path))
    torch.testing.assert_close(output(theirs, inputs), adapted, rtol=1e-5, atol=1e-5)


def test_batch_statistics_stay(tiny_backbone, inputs):
    import dataclasses

    network = XRIR(dataclasses.replace(TINY, normalisation="batch")).eval().requires_grad_(False)
    before = fingerprint(network)
    adapter = attach(network, MethodSettings("full"), seed=0)
    train_a_little(network, adapter, inputs)
    adapter.detach()
    assert fingerprint(network) == before  # running statistics are part of it


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "prefix"}, "'prefix' but must be one of lora, bias, full"),
        ({"rank": 0}, "--rank is 0 but must be at least 1"),
        ({"alpha": float("nan")}, "--alpha is nan but must be a positive number"),
    ],
)
def test_bad_settings(values, message):
    with pytest.raises(InputError, match=message):
        MethodSettings(**values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_modules": ["misspelt.proj"]}, "targets .'misspelt.proj'. are not in it"),
        ({"target_modules": []}, "are not in it"),
        ({"use_dora": True}, "sets use_dora; only plain LoRA"),
        ({"init_lora_weights": "pissa"}, "sets init_lora_weights"),
        ({"r": "four"}, "r 'four'"),
        ({"r": 8}, "does not fit"),
        ({"target_modules": "all-linear"}, "target_modules are not LoRA's"),
    ],
)
def test_bad_lora_configuration(changes, message, tiny_backbone):
    adapter = attach(tiny_backbone, MethodSettings("lora"), seed=0)
    config, tensors = adapter.config(), adapter.tensors()
    adapter.detach()
    with pytest.raises(InputError, match=message):
        attach_stored(tiny_backbone, {**config, **changes}, tensors)


@pytest.mark.parametrize(("inputs", "rows", "lower"), [(60, 9, False), (300, 500, False), (60, 9, True)])
def test_the_fast_product_has_pefts_values_and_gradients(inputs, rows, lower):
    from peft.tuners.lora import Linear as PeftLinear

    from haa_peft.adaptation.low_rank import fast_forward

    torch.manual_seed(0)
    base = torch.nn.Linear(inputs, 90).requires_grad_(False)
    layer = PeftLinear(base, "default", LoraConfig(r=3, lora_alpha=6.0), r=3, lora_alpha=6.0)
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    x, values = torch.randn(2, rows, inputs), []
    for forward in (lambda x: type(layer).forward(layer, x), lambda x: fast_forward(layer, x)):
        given = x.clone().requires_grad_()
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            y = forward(given)
        y.float().square().sum().backward()
        factors = [side["default"].weight for side in (layer.lora_A, layer.lora_B)]
        assert all(factor.grad.dtype == torch.float32 for factor in factors)
        values.append([y.detach().float(), given.grad, *(factor.grad.clone() for factor in factors)])
    for theirs, ours in zip(*values, strict=True):
        assert float((ours - theirs).norm()) <= (0.02 if lower else 1e-5) * float(theirs.norm())
