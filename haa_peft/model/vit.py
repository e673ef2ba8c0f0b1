"""Geometry encoder: a ViT on images of coordinates and, behind them, of what surfaces are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from haa_peft.geometry.channels import EXTRA_CHANNELS
from haa_peft.model.config import XRIRConfig
from haa_peft.model.linear import Linear

Stage = tuple[nn.Module, Callable[[Tensor], Tensor]]
"""A link of a chain, behind the module whose weights it uses."""


def position_code(rows: int, columns: int, width: int) -> Tensor:
    """Fixed 2-D sine-cosine code of a grid of tokens, (rows * columns, width): sin x, cos x, sin y, cos y."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    omega = 10000.0 ** -(torch.arange(width // 4) / (width // 4 - 1))
    x_phase, y_phase = (v.flatten()[:, None] * omega for v in (x, y))
    return torch.cat([x_phase.sin(), x_phase.cos(), y_phase.sin(), y_phase.cos()], dim=1)


class Attention(nn.Module):
    """Pre-norm self-attention without biases, with its residual."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_qkv = Linear(width, 3 * heads * head_width, bias=False)
        self.to_out = Linear(heads * head_width, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, tokens, width) -> (B, tokens, width)."""
        qkv = self.to_qkv(self.norm(tokens)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv)
        attended = functional.scaled_dot_product_attention(q, k, v)
        return tokens + self.to_out(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Pre-norm feed-forward with exact GELU, with its residual."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(width), Linear(width, hidden), nn.GELU(), Linear(hidden, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, tokens, width) -> (B, tokens, width)."""
        return tokens + self.net(tokens)


class Transformer(nn.Module):
    """Layers of attention and feed-forward, and a final norm."""

    def __init__(self, config: XRIRConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    Attention(config.width, config.heads, config.head_width),
                    FeedForward(config.width, config.feedforward),
                ]
            )
            for _ in range(config.depth)
        )


def cut_patches(image: Tensor, height: int, width: int) -> Tensor:
    """(B, C, H, W) -> (B, rows * columns, height * width * C), the channel running fastest."""
    patches = image.unfold(2, height, height).unfold(3, width, width)  # (B, C, rows, columns, height, width)
    return patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


class PatchEmbedding(nn.Sequential):
    """Cuts an image into patches, and each into one token."""

    def __init__(self, config: XRIRConfig) -> None:
        values = 3 * config.patch_height * config.patch_width
        # numbered as in the published checkpoint, where entry 0 cuts the patches
        super().__init__(nn.Identity(), nn.LayerNorm(values), Linear(values, config.width), nn.LayerNorm(config.width))
        self.patch = (config.patch_height, config.patch_width)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, tokens, width)."""
        return super().forward(cut_patches(image, *self.patch))


class SurfaceEmbedding(Linear):
    """What the channels behind the coordinates add to the tokens: nothing, until an adapter changes it.

    Its weight is zero, frozen, and in no state dict: it is no part of a backbone but the place where an adapter that
    reads these channels begins.
    """

    def __init__(self, config: XRIRConfig) -> None:
        super().__init__(EXTRA_CHANNELS * config.patch_height * config.patch_width, config.width, bias=False)
        self.requires_grad_(False)

    def reset_parameters(self) -> None:
        """Zero, without a random number."""
        nn.init.zeros_(self.weight)

    def _save_to_state_dict(self, *_: Any, **__: Any) -> None:
        pass

    def _load_from_state_dict(self, *_: Any, **__: Any) -> None:
        pass


class GeometryEncoder(nn.Module):
    """ViT without class token or pooling: an image to its tokens."""

    position_code: Tensor

    def __init__(self, config: XRIRConfig) -> None:
        super().__init__()
        self.to_patch_embedding = PatchEmbedding(config)
        self.transformer = Transformer(config)
        self.surface_embedding = SurfaceEmbedding(config)
        self._patch = (config.patch_height, config.patch_width)
        self.register_buffer("position_code", position_code(*config.token_grid, config.width), persistent=False)

    def stages(self) -> list[Stage]:
        """The encoder as a chain, images (B, 3 or more, H, W) -> (B, tokens, width).

        The first three channels are coordinates in units of 5 m, those behind them
        :func:`~haa_peft.geometry.panorama.surface_channels`.
        """
        embedding = nn.ModuleList([self.to_patch_embedding, self.surface_embedding])
        blocks = [block for layer in self.transformer.layers for block in layer.children()]
        norm = self.transformer.norm
        return [(embedding, self._embed), *((block, block) for block in blocks), (norm, norm)]

    def _embed(self, image: Tensor) -> Tensor:
        tokens = self.to_patch_embedding(image[:, :3]) + self.position_code
        if image.shape[1] == 3:
            return tokens
        return tokens + self.surface_embedding(cut_patches(image[:, 3:], *self._patch))
