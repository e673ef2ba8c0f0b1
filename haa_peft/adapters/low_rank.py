"""A Linear with a low-rank update, in as few passes over its inputs and outputs as there can be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from haa_peft.model.linear import product


class LowRankProduct(torch.autograd.Function):
    """``x @ (weight + scale up down).T + bias`` with gradients for x, ``down`` and ``up`` alone.

    The update is added to the weight, which costs little, and not to the output: forward and backward then take one
    full product each, as without it, and the gradients of ``down`` (r, inputs) and ``up`` (outputs, r) two thin ones.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        """(..., inputs) -> (..., outputs), of the type of x.

        Parameters
        ----------
        ctx : of autograd.
        x : (..., inputs).
        weight, bias : (outputs, inputs) and (outputs,) or None, of the layer.
        down, up : (r, inputs) and (outputs, r), the two factors.
        scale : of their product.
        """
        with torch.autocast(x.device.type, enabled=False):
            whole = torch.addmm(weight, up, down, alpha=scale).to(x.dtype)
            ctx.save_for_backward(x, whole, down, up)
            ctx.scale = scale
            return product(x, whole, None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x (..., inputs), ``down`` (r, inputs) and ``up`` (outputs, r) from that of the output."""
        (gradient,) = gradients
        x, whole, down, up = ctx.saved_tensors
        of_x = product(gradient, whole.T) if ctx.needs_input_grad[0] else None
        rows, outputs = x.flatten(0, -2), gradient.flatten(0, -2)
        of_down = of_up = None
        # the thin factor comes first: many times faster than the other way round
        if ctx.needs_input_grad[3]:
            of_down = ((outputs @ up.to(x.dtype)).mul_(ctx.scale).T @ rows).to(down.dtype)
        if ctx.needs_input_grad[4]:
            of_up = ((rows @ down.T.to(x.dtype)).mul_(ctx.scale).T @ outputs).T.to(up.dtype).contiguous()
        return of_x, None, None, of_down, of_up, None


def fast_forward(layer: Any, x: Tensor) -> Tensor:
    """Forward, (..., inputs) -> (..., outputs), of a peft ``lora.Linear`` with one plain LoRA called ``default``."""
    if layer.disable_adapters or layer.merged:
        return type(layer).forward(layer, x)
    base = layer.base_layer
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return LowRankProduct.apply(x, base.weight, base.bias, down, up, layer.scaling["default"])
