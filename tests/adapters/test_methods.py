import dataclasses
import json
import math

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save
from torch.nn import functional

from haa_peft import load_backbone
from haa_peft.adapters.delta import PEFT_TYPE
from haa_peft.adapters.layers import frozen_layers, layer_names, layer_of
from haa_peft.adapters.methods import attach, attach_stored, changed_tensors, lora_settings, merged
from haa_peft.adapters.settings import METHODS, MethodSettings
from haa_peft.adapters.weights import RoomWeights
from haa_peft.errors import InputError
from haa_peft.geometry.channels import EXTRA_CHANNELS
from haa_peft.inference.network import RoomNetwork
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.xrir import XRIR
from haa_peft.oracle import plain_forward
from haa_peft.pretraining.weights import save_backbone
from tests.conftest import TINY

TABLE = {
    **{method: MethodSettings(method) for method in METHODS},
    "lora with convolutions": MethodSettings("lora", convolutions=True),
    "lora of other ranks": MethodSettings("lora", ranks={"energy_blend": 7, "source_network": 0, "lin_proj_1.proj": 2}),
    "lora of another alpha": MethodSettings("lora", rank=2, alpha=1.0, ranks={"energy_blend.mixing": 5}),
    "lora with dropout": MethodSettings("lora", dropout=0.3),
    "lora late": MethodSettings("lora", freeze="early:5"),
    "full early": MethodSettings("full", freeze="late:3"),
    **{
        f"{method} with channels": MethodSettings(method, channels="normals,materials")
        for method in METHODS
        if method != "statistics"
    },
    "lora late with channels": MethodSettings("lora", freeze="early:5", channels="normals"),
    "lora with convolutions and channels": MethodSettings("lora", convolutions=True, channels="materials"),
}


@pytest.fixture
def network():
    """With BatchNorm, whose statistics are not those that it starts with, and something to unlearn."""
    torch.manual_seed(0)
    backbone = XRIR(dataclasses.replace(TINY, normalisation="batch")).eval().requires_grad_(False)
    torch.nn.init.normal_(backbone.energy_blend.departure.weight, std=0.2)
    for name, buffer in backbone.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return backbone


@pytest.fixture
def inputs(inputs):
    """With channels behind the coordinates, which are nothing to methods that do not ask for them."""
    panorama, *others = inputs
    channels = torch.randn(1, EXTRA_CHANNELS, 256, 512, generator=torch.Generator().manual_seed(5))
    return torch.cat([panorama, channels], dim=1), *others


@torch.no_grad()
def output(network, inputs):
    return network(*inputs)


def same(found, expected):
    """To rounding: while all weights train, torch folds the product with one output otherwise."""
    return torch.allclose(found, expected, rtol=0, atol=2e-6)


@torch.no_grad()
def change(adapter, scale=0.3):
    """Move everything that may change, statistics too, by random amounts."""
    generator = torch.Generator().manual_seed(4)
    tensors = {
        name: tensor + scale * torch.rand(tensor.shape, generator=generator) * (tensor.abs().mean() + 0.1)
        for name, tensor in adapter.tensors().items()
    }
    adapter.load(tensors)


@pytest.mark.parametrize("settings", TABLE.values(), ids=TABLE)
def test_an_adapters_life(settings, network, inputs):
    base = output(network, inputs)
    before = fingerprint(network)
    adapter = attach(network, settings, seed=0)
    assert same(output(network, inputs), base)  # fresh = base
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in adapter.parameters()}
    assert adapter.size() >= sum(p.numel() for p in trainable)

    change(adapter)
    adapted = output(network, inputs)
    assert not torch.allclose(adapted, base, atol=1e-3)
    config, tensors = json.loads(json.dumps(adapter.config())), adapter.tensors()

    adapter.detach()
    assert fingerprint(network) == before
    assert torch.equal(output(network, inputs), base)
    assert not any(parameter.requires_grad for parameter in network.parameters())

    stored = attach_stored(network, config, tensors)
    assert same(output(network, inputs), adapted)
    assert stored.config() == config
    stored.detach()
    assert fingerprint(network) == before

    whole = merged(network, config, tensors)
    assert torch.allclose(output(whole, inputs), adapted, atol=2e-5)
    assert not any(parameter.requires_grad for parameter in whole.parameters())
    assert fingerprint(network) == before

    serving = RoomNetwork(network)
    for weights in (RoomWeights.of_adapter(network, config, tensors),):
        for one in (weights, weights.with_merged(network)):
            with serving.using([(one, 1)]):
                assert torch.allclose(output(serving.network, inputs), adapted, atol=2e-5)
    assert torch.equal(output(serving.network, inputs), base)


@pytest.mark.parametrize("settings", TABLE.values(), ids=TABLE)
def test_gradients_reach_everything_that_may_change(settings, network, inputs):
    adapter = attach(network, settings, seed=0)
    change(adapter)
    output_ = network(*inputs)
    if settings.method != "statistics":
        output_.square().mean().backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in adapter.parameters())


@pytest.mark.parametrize("settings", TABLE.values(), ids=TABLE)
def test_channels_are_nothing_until_an_adapter_reads_them(settings, network, inputs):
    panorama, *others = inputs
    without, with_normals = ((panorama[:, :count].clone(), *others) for count in (3, 6))
    with_normals = (functional.pad(with_normals[0], (0, 0, 0, 0, 0, EXTRA_CHANNELS - 3)), *others)
    base = output(network, without)
    assert torch.equal(output(network, inputs), base)
    adapter = attach(network, settings, seed=0)
    assert torch.equal(output(network, inputs), output(network, without))
    change(adapter)
    reads = settings.channels != "none"
    named = " ".join(adapter.tensors())
    assert ("surface_embedding" in named) == reads
    adapted = output(network, inputs)
    assert torch.equal(adapted, output(network, without)) != reads
    config, tensors = adapter.config(), adapter.tensors()
    adapter.detach()
    if reads:  # against the plain computation, and in one batch with a room that has none
        whole = merged(network, config, tensors)
        assert fingerprint(whole) != fingerprint(network)
        assert torch.allclose(plain_forward(whole, *inputs), adapted, atol=2e-5)
        assert torch.allclose(plain_forward(whole, *with_normals), output(whole, with_normals), atol=2e-5)
    assert torch.equal(output(network, inputs), base)


def test_what_reads_channels_is_in_no_state_dict(network, tmp_path):
    assert not any("surface_embedding" in name for name in network.state_dict())
    other = XRIR(network.config)
    other.load_state_dict(network.state_dict(), strict=True)
    assert fingerprint(other) == fingerprint(network)
    torch.nn.init.ones_(other.source_network.surface_embedding.weight)
    assert fingerprint(other) != fingerprint(network)
    with pytest.raises(InputError, match="which no checkpoint can hold"):  # rather than lose it without a word
        save_backbone(other, tmp_path / "merged.safetensors")
    assert not list(tmp_path.iterdir())


def test_dropout_is_on_in_training_alone(network, inputs):
    adapter = attach(network, MethodSettings("lora", dropout=0.5), seed=0)
    change(adapter)
    adapted = output(network, inputs)
    adapter.train(True)
    assert not torch.equal(output(network, inputs), output(network, inputs))
    adapter.train(False)
    assert torch.equal(output(network, inputs), adapted)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape", "nan"])
def test_tensors_that_do_not_fit(method, fault, network):
    adapter = attach(network, MethodSettings(method), seed=0)
    config, tensors = adapter.config(), adapter.tensors()
    adapter.detach()
    before = fingerprint(network)
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
        attach_stored(network, config, tensors)
    assert fingerprint(network) == before


def test_published_sizes():
    """33 729 live biases and 271 k LoRA weights (rank 4), as counted on the published network, and what follows."""
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
    parameters = {name: p for name, p in network.named_parameters() if "surface_embedding" not in name}
    encoders = sum(p.numel() for n, p in parameters.items() if n.startswith(("source_network.", "audio_enc.")))
    live = sum(p.numel() for p in parameters.values()) - 513_000 - 11_008
    heads = live - encoders + 513_000
    # 12 layers of two LayerNorms of 512, three more of 1536 + 512 + 512; 9600 of BatchNorm as in every ResNet-18
    norms = 2 * (12 * 2 * 512 + 1536 + 512 + 512) + 9600
    assert counts == {
        "lora": 270_676, "bias": 33_729, "full": live, "heads": heads, "norm": norms, "statistics": 0
    }  # fmt: skip


def test_lora_of_the_bundled_backbone_is_under_a_twentieth_of_it():
    network = load_backbone("small")
    backbone_bytes = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    assert len(save(attach(network, MethodSettings("lora"), seed=0).tensors())) < 0.05 * backbone_bytes


@pytest.mark.parametrize("name", [name for name, settings in TABLE.items() if settings.method == "lora"])
def test_files_are_pefts(name, network, inputs, tmp_path):
    from peft import PeftModel
    from safetensors.torch import save_file

    adapter = attach(network, TABLE[name], seed=0)
    change(adapter)
    adapted = output(network, inputs)
    save_file(adapter.tensors(), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter.config()))
    adapter.detach()
    theirs = PeftModel.from_pretrained(network, str(tmp_path))
    torch.testing.assert_close(output(theirs, inputs), adapted, rtol=1e-5, atol=1e-5)


def test_the_norms_of_a_network_with_group_norm(tiny_backbone):
    names = changed_tensors(tiny_backbone, "norm")
    modules = {name.rpartition(".")[0] for name in names}
    kinds = {type(tiny_backbone.get_submodule(module)).__name__ for module in modules}
    assert kinds == {"LayerNorm", "GroupNorm"}
    with pytest.raises(InputError, match="statistics needs a backbone with BatchNorm"):
        attach(tiny_backbone, MethodSettings("statistics"), seed=0)


def test_layers_in_the_order_of_the_data(tiny_backbone):
    layers = layer_names(tiny_backbone)
    assert layers[:3] == [f"source_network.{part}" for part in ("to_patch_embedding", "transformer.layers.0",
                                                                "transformer.layers.1")]  # fmt: skip
    assert layers[-1] == "energy_blend"
    assert layers.index("src_proj") < layers.index("audio_enc.cnn.layer1.0") < layers.index("lin_proj_2")
    assert {layer_of(name) for name in changed_tensors(tiny_backbone, "full")} == set(layers)
    assert not any(layer.startswith(("source_proj", "audio_enc.cnn.fc_backup")) for layer in layer_names(XRIR()))


@pytest.mark.parametrize(
    ("freeze", "trained"), [("early:6", slice(6, None)), ("late:2", slice(-2)), ("none", slice(99))]
)
def test_frozen_layers_stay(freeze, trained, tiny_backbone):
    layers = layer_names(tiny_backbone)
    for method in ("full", "lora"):
        adapter = attach(tiny_backbone, MethodSettings(method, freeze=freeze), seed=0)
        names = [n.replace("base_model.model.", "") for n in adapter.tensors()]
        found = {layer_of(name) for name in names}
        assert found <= set(layers[trained])
        if method == "full":
            assert found == set(layers[trained])
        adapter.detach()
    with pytest.raises(InputError, match=f"would freeze all {len(layers)} layers"):
        frozen_layers(tiny_backbone, f"late:{len(layers)}")


def test_ranks_by_layer(tiny_backbone):
    given = {"energy_blend": 7, "energy_blend.mixing.1": 1, "source_network": 0}
    ranks = lora_settings(tiny_backbone, MethodSettings(ranks=given)).ranks
    assert ranks["energy_blend.pair.0"] == 7
    assert ranks["energy_blend.mixing.1.net.1"] == 1
    assert ranks["lin_proj_1.proj"] == 4
    assert not any(name.startswith("source_network") for name in ranks)
    adapter = attach(tiny_backbone, MethodSettings(ranks=given, alpha=12.0), seed=0)
    tensors = adapter.tensors()
    assert tensors["base_model.model.energy_blend.pair.0.lora_A.weight"].shape[0] == 7
    scales = {module.scaling["default"] for module in tiny_backbone.modules() if hasattr(module, "scaling")}
    assert scales == {3.0}
    adapter.detach()
    with pytest.raises(InputError, match="--ranks misspelt=... fits no layer"):
        lora_settings(tiny_backbone, MethodSettings(ranks={"misspelt": 2}))
    channels = MethodSettings(ranks={"source_network": 0}, channels="normals")
    with pytest.raises(InputError, match="--ranks leaves source_network.surface_embedding alone, which reads --chan"):
        lora_settings(tiny_backbone, channels)
    with pytest.raises(InputError, match="leave no layer to adapt"):
        lora_settings(tiny_backbone, MethodSettings(ranks=dict.fromkeys(ranks, 0) | {"source_network": 0}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "prefix"}, "'prefix' but must be one of lora, bias, norm, statistics, heads, full"),
        ({"rank": 0}, "--rank is 0 but must be at least 1"),
        ({"alpha": float("nan")}, "--alpha is nan but must be above 0"),
        ({"dropout": 1.0}, "--dropout is 1.0 but must be at least 0 and below 1"),
        ({"ranks": {"energy_blend": -1}}, "--ranks energy_blend=-1"),
        ({"method": "bias", "dropout": 0.1}, "--dropout does not go with bias"),
        ({"method": "norm", "convolutions": True}, "--convolutions does not go with norm"),
        ({"method": "full", "ranks": {"energy_blend": 2}}, "--ranks does not go with full"),
        ({"freeze": "early"}, "--freeze is 'early' but must be early:N"),
        ({"method": "statistics", "channels": "normals"}, "--channels does not go with statistics"),
        ({"channels": "colours"}, "--channels is 'colours' but must be none, normals, materials or normals,materials"),
        ({"channels": "normals,normals"}, "--channels is 'normals,normals' but must be"),
        ({"channels": ""}, "--channels is '' but must be"),
        ({"freeze": "late:0"}, "--freeze is 'late:0' but must be"),
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
        ({"use_dora": True}, "sets use_dora"),
        ({"use_qalora": True}, "sets use_qalora"),
        ({"init_lora_weights": "pissa"}, "sets init_lora_weights"),
        ({"bias": "all"}, "sets bias"),
        ({"r": "four"}, "r 'four'"),
        ({"r": 8}, "does not fit"),
        ({"rank_pattern": {"elsewhere": 2}}, "are not lora's"),
        ({"rank_pattern": {"lin_proj_1.proj": 2}}, "does not fit"),
        ({"alpha_pattern": {"lin_proj_1.proj": 2.0}}, "sets alpha_pattern"),
        ({"target_modules": "all-linear"}, "are not lora's"),
        ({"peft_type": "VERA"}, "'VERA' but must be LORA"),
    ],
)
def test_bad_configuration(changes, message, tiny_backbone):
    adapter = attach(tiny_backbone, MethodSettings("lora"), seed=0)
    config, tensors = adapter.config(), adapter.tensors()
    adapter.detach()
    with pytest.raises(InputError, match=message):
        attach_stored(tiny_backbone, {**config, **changes}, tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "prefix"}, "'prefix' but must be one of bias, norm"),
        ({"parameters": ["misspelt.bias"]}, "parameters .'misspelt.bias'. are not in it"),
        ({"parameters": []}, "names no parameters"),
    ],
)
def test_bad_delta_configuration(changes, message, tiny_backbone):
    config = {"peft_type": PEFT_TYPE, "method": "bias", "parameters": changed_tensors(tiny_backbone, "bias")}
    with pytest.raises(InputError, match=message):
        attach_stored(tiny_backbone, {**config, **changes}, {"x": torch.zeros(1)})


@pytest.mark.parametrize(("inputs", "rows", "lower"), [(60, 9, False), (300, 500, False), (60, 9, True)])
def test_the_fast_product_has_pefts_values_and_gradients(inputs, rows, lower):
    from peft.tuners.lora import Linear as PeftLinear

    from haa_peft.adapters.low_rank import fast_forward

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
