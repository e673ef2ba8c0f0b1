"""Learning rate over a run."""

import math
from collections.abc import Callable


def warmup_cosine(warmup: int, total: int, floor: float = 0.02) -> Callable[[int], float]:
    """Factor on the learning rate at a step: linear warm-up, then half a cosine down to ``floor``."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor
