import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from haa_peft import load_backbone
from haa_peft.errors import InputError
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.config import XRIRConfig
from haa_peft.model.xrir import XRIR


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(0)
    return XRIR().state_dict()


@pytest.mark.parametrize("form", ["plain", "module.", "model", "model module.", "safetensors"])
def test_published_checkpoints_load_strictly(published, form, tmp_path):
    state = {("module." if "module." in form else "") + name: tensor for name, tensor in published.items()}
    path = tmp_path / ("xrir.safetensors" if form == "safetensors" else "xrir.pth")
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state, "epoch": 3} if "model" in form.split() else state, path)
    backbone = load_backbone(path)
    assert all(torch.equal(tensor, published[name]) for name, tensor in backbone.state_dict().items())
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize("unused_modules", [True, False])
def test_a_published_layout_at_other_sizes(unused_modules, tmp_path):
    config = XRIRConfig(
        width=128, depth=3, heads=2, feedforward=96, channels=64, resnet_width=16, unused_modules=unused_modules
    )
    state = {f"module.{name}": tensor for name, tensor in XRIR(config).state_dict().items()}
    torch.save({"model": state}, tmp_path / "quarter.pth")
    backbone = load_backbone(tmp_path / "quarter.pth")
    assert backbone.config == config
    assert all(torch.equal(tensor, state[f"module.{name}"]) for name, tensor in backbone.state_dict().items())


def test_bundled_backbone():
    backbone = load_backbone("small")
    assert backbone.origin == "small"
    assert sum(tensor.numel() * tensor.element_size() for tensor in backbone.state_dict().values()) < 16e6


def test_a_config_travels_in_the_file(tiny_backbone, tiny_backbone_file):
    loaded = load_backbone(tiny_backbone_file)
    assert loaded.config == tiny_backbone.config
    assert fingerprint(loaded) == fingerprint(tiny_backbone)


def test_fingerprint_is_of_the_configuration_too(tiny_backbone):
    other = XRIR(dataclasses.replace(tiny_backbone.config, align_before_encoding=True))
    other.load_state_dict(tiny_backbone.state_dict())
    assert fingerprint(other) != fingerprint(tiny_backbone)


def test_fingerprint_is_of_the_tensors(tiny_backbone):
    before = fingerprint(tiny_backbone)
    with torch.no_grad():
        tiny_backbone.lin_proj_0.proj.bias += 1e-6
    assert fingerprint(tiny_backbone) != before


def test_bad_checkpoints(published, tmp_path):
    path = tmp_path / "xrir.pth"
    with pytest.raises(InputError, match=r"no such file, nor a bundled one \(small, xrir-mini\)"):
        load_backbone(path)
    torch.save({name: tensor for name, tensor in published.items() if name != "lin_proj_0.proj.bias"}, path)
    with pytest.raises(InputError, match=r"1 tensors missing \['lin_proj_0.proj.bias'\]"):
        load_backbone(path)
    torch.save({**published, "extra": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"1 unexpected \['extra'\]"):
        load_backbone(path)
    torch.save({**published, "lin_proj_0.proj.bias": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"is \(2,\) but must be \(1,\)"):
        load_backbone(path)
    torch.save({**published, "lin_proj_0.proj.bias": torch.tensor([float("nan")])}, path)
    with pytest.raises(InputError, match="NaN or infinity"):
        load_backbone(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        load_backbone(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read"):
        load_backbone(path)
    torch.save({1: torch.zeros(1)}, path)
    with pytest.raises(InputError, match="holds no state dict"):
        load_backbone(path)
    (tmp_path / "x.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        load_backbone(tmp_path / "x.safetensors")


def test_sizes_that_a_file_only_claims_take_no_memory(tmp_path):
    state = XRIR(XRIRConfig(width=128, depth=1, heads=2, feedforward=96, channels=64, resnet_width=16)).state_dict()
    for name in state:
        if name.endswith(("to_out.weight", "1.net.1.weight")):
            state[name] = torch.zeros(1, 1).expand(10**6, 128)
    torch.save(state, tmp_path / "wide.pth")
    with pytest.raises(InputError, match="not this xRIR network: tensor .* must be"):
        load_backbone(tmp_path / "wide.pth")
    state = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in XRIR().state_dict().items()}
    torch.save(state, tmp_path / "empty.pth")
    with pytest.raises(InputError, match="larger than what the file holds of it"):
        load_backbone(tmp_path / "empty.pth")
    config = dataclasses.asdict(XRIRConfig()) | {"depth": 10**9}
    save_file({"one": torch.zeros(1)}, tmp_path / "deep.safetensors", metadata={"xrir_config": json.dumps(config)})
    with pytest.raises(InputError, match="it has 1 tensors, too few for 1000000000 layers"):
        load_backbone(tmp_path / "deep.safetensors")


class Malicious:
    def __reduce__(self):
        return (print, ("code ran while unpickling",))


def test_code_in_a_checkpoint_is_refused(tmp_path, capsys):
    torch.save({"model": Malicious()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="cannot be read as a checkpoint of tensors alone"):
        load_backbone(tmp_path / "evil.pth")
    assert "code ran" not in capsys.readouterr().out
