"""The network computed plainly, input by input as the published code does: what faster ways are held against.

Per target 2 + K passes of the ViT and K of the ResNet, alignment and spectra one RIR at a time, attention as a
softmax of a product, matrix products as ``nn.Linear`` does them. Written for clarity; nothing in the package but the
benchmark and the tests calls it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.acoustics.spectrogram import (
    HOP,
    LOG_OFFSET,
    MAGNITUDE_FLOOR_SQUARED,
    N_FFT,
    SAMPLE_RATE,
    WINDOW,
)
from haa_peft.model.resnet import BasicBlock, ResNet18
from haa_peft.model.vit import Attention, FeedForward
from haa_peft.model.xrir import LENGTH_SCALE, XRIR


def plain_forward(
    network: XRIR, panorama: Tensor, reference_rirs: Tensor, target: Tensor, references: Tensor
) -> Tensor:
    """Log-spectrograms (B, 63, 310), to rounding those of ``network(panorama, reference_rirs, target, references)``.

    Parameters
    ----------
    network : the published network or any other configuration, adapted or not.
    panorama : (B, 3 or more, 256, 512) m.
    reference_rirs, references : (B, K, 9600), measured at (B, K, 3) m from the receiver.
    target : (B, 3) m from the receiver.
    """
    pooled = functional.avg_pool2d(panorama, network.config.panorama_pooling)
    at_target = _view(network, target, pooled)
    at_receiver = _view(network, torch.zeros_like(target), pooled)
    at_references, audio, aligned = [], [], []
    for k in range(references.shape[1]):
        at_references.append(_view(network, references[:, k], pooled))
        moved = _align(reference_rirs[:, k], references[:, k], target)
        aligned.append(_log_spectra(moved))
        heard = aligned[k] if network.config.align_before_encoding else _log_spectra(reference_rirs[:, k])
        if network.config.audio_pooling > 1:
            heard = heard.unfold(-1, *[network.config.audio_pooling] * 2).mean(dim=-1)
        audio.append(_resnet(network.audio_enc.cnn, heard))
    positions = torch.cat([target[:, None], references], dim=1)
    features = torch.stack([network.position_features(*room) for room in zip(pooled, positions, strict=True)])
    query = network.query(features[:, 0], at_receiver, at_target)
    keys = network.keys(
        features[:, 1:], at_receiver[:, None], torch.stack(at_references, dim=1), torch.stack(audio, dim=1)
    )
    return network.blend(query, keys, network.values(torch.stack(aligned, dim=1)), target, references)


def _view(network: XRIR, position: Tensor, panorama: Tensor) -> Tensor:
    encoder = network.source_network
    image = (position[:, :, None, None] - panorama[:, :3]) / LENGTH_SCALE
    tokens = encoder.to_patch_embedding(image) + encoder.position_code
    if panorama.shape[1] > 3:
        (rows, columns), config = network.config.token_grid, network.config
        for token in range(rows * columns):
            top, left = token // columns * config.patch_height, token % columns * config.patch_width
            patch = panorama[:, 3:, top : top + config.patch_height, left : left + config.patch_width]
            tokens[:, token] += encoder.surface_embedding(patch.permute(0, 2, 3, 1).flatten(1))
    for layer in encoder.transformer.layers:
        for block in layer.children():
            tokens = tokens + (_attention(block, tokens) if isinstance(block, Attention) else _feed(block, tokens))
    tokens = network.src_proj(encoder.transformer.norm(tokens))
    return network.lin_proj_0(tokens.transpose(1, 2))[..., 0]


def _attention(block: Attention, tokens: Tensor) -> Tensor:
    parts = block.to_qkv(block.norm(tokens)).chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (block.heads, -1)).transpose(1, 2) for part in parts)
    weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
    return block.to_out((weights @ v).transpose(1, 2).flatten(2))


def _feed(block: nn.Module, tokens: Tensor) -> Tensor:
    assert isinstance(block, FeedForward)
    return block.net(tokens)


def _resnet(cnn: ResNet18, x: Tensor) -> Tensor:
    x = functional.max_pool2d(functional.relu(cnn.bn1(cnn.conv1(x[:, None]))), 3, 2, 1)
    for stage in (cnn.layer1, cnn.layer2, cnn.layer3, cnn.layer4):
        for block in stage.children():
            assert isinstance(block, BasicBlock)
            y = block.bn2(block.conv2(functional.relu(block.bn1(block.conv1(x)))))
            x = functional.relu(y + block.downsample(x))
    return x.mean(dim=(2, 3))


def _align(rirs: Tensor, reference: Tensor, target: Tensor) -> Tensor:
    moved = torch.zeros_like(rirs)
    for row in range(len(rirs)):
        ratio = reference[row].norm() / (target[row].norm() + 1e-7)
        seconds = (target[row].norm() - reference[row].norm()) / SPEED_OF_SOUND
        delay = int(torch.round(seconds * SAMPLE_RATE))
        length = rirs.shape[-1] - abs(delay)
        if delay >= 0:
            moved[row, delay:] = rirs[row, :length]
        else:
            moved[row, :length] = rirs[row, -delay:]
        moved[row] *= ratio
    return moved


def _log_spectra(rirs: Tensor) -> Tensor:
    window = torch.hann_window(WINDOW, device=rirs.device, dtype=rirs.dtype)
    spectra = []
    for rir in rirs:
        spectrum = torch.stft(rir, N_FFT, HOP, WINDOW, window, pad_mode="constant", return_complex=True)
        power = spectrum.real**2 + spectrum.imag**2
        spectra.append(torch.log(power.clamp_min(MAGNITUDE_FLOOR_SQUARED).sqrt() + LOG_OFFSET))
    return torch.stack(spectra)


def use_plain_products(network: nn.Module) -> None:
    """Make every Linear of a network multiply as ``nn.Linear`` does, in place."""
    from haa_peft.model.linear import Linear

    for module in network.modules():
        if type(module) is Linear:
            module.__class__ = nn.Linear  # type: ignore[assignment]
