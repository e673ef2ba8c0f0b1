"""A backbone that learns: its steps, and the moving average of its weights."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from haa_peft.adapters.layers import SURFACES, UNUSED
from haa_peft.errors import InputError
from haa_peft.model.xrir import XRIR
from haa_peft.pretraining.loop import Drawn, PretrainingObjective
from haa_peft.pretraining.settings import BackboneTraining
from haa_peft.training.schedule import warmup_cosine


class Learner:
    """A backbone that learns, the moving average of its weights, and the optimiser."""

    def __init__(self, backbone: XRIR, training: BackboneTraining, accelerator: Accelerator) -> None:
        for name, parameter in backbone.named_parameters():
            # DDP waits for gradients that never come
            parameter.requires_grad_(not name.startswith((*UNUSED, SURFACES)))
        self.backbone, self.ema, self.accelerator = backbone, training.ema, accelerator
        self.freeze_norm_after = training.freeze_norm_after
        self.average = copy.deepcopy(backbone).eval().requires_grad_(False).to(accelerator.device)
        self.averaged = PretrainingObjective(self.average)
        trained = [p for p in backbone.parameters() if p.requires_grad]
        optimizer = AdamW(
            [
                {"params": [p for p in trained if p.ndim > 1], "weight_decay": training.weight_decay},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=training.lr,
        )
        steps = training.max_steps
        self.scheduler = LambdaLR(optimizer, warmup_cosine(min(100, -(-steps // 4)), steps))
        self.objective, self.optimizer = accelerator.prepare(PretrainingObjective(backbone), optimizer)

    def step(self, batch: list[Drawn], number: int) -> float:
        """One optimiser step; the mean loss over all processes.

        Raises
        ------
        InputError
            When the loss is not finite.
        """
        if self.freeze_norm_after is not None and number >= self.freeze_norm_after:
            for module in self.backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        loss = self.objective(batch)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.backbone.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        # the average follows faster at the start, where the weights still move far
        decay = min(self.ema, (number + 1) / (number + 10))
        for kept, new in zip(self.average.parameters(), self.backbone.parameters(), strict=True):
            kept.lerp_(new.detach(), 1 - decay)
        for kept_buffer, buffer in zip(self.average.buffers(), self.backbone.buffers(), strict=True):
            kept_buffer.copy_(buffer)
        mean = float(self.accelerator.reduce(loss.detach(), "mean").item())
        if not np.isfinite(mean):
            raise InputError(f"the loss is {mean} at step {number + 1}, after which nothing can be learned; lower --lr")
        return mean

    def parts(self) -> dict[str, Any]:
        """What has a state, by its name in a checkpoint."""
        return {
            "backbone": self.backbone,
            "average": self.average,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
        }
