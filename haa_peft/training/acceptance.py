"""Whether validation takes the weights that training found, or leaves the start as it was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Acceptance:
    """What validation said of the best weights.

    Attributes
    ----------
    start_loss, best_loss : mean validation losses of the start (step 0: the backbone, or another adapter) and of the
        best step; infinite without any.
    best_step : whose loss was lowest, 0 if the start's was.
    threshold : what the loss had to fall by more than, in its unit; infinite where no gain is enough, NaN where it is
        not known, in cards that do not say.
    accepted : whether the weights are those of the best step; otherwise they are the start's, unchanged.
    """

    start_loss: float
    best_loss: float
    best_step: int
    threshold: float
    accepted: bool

    @classmethod
    def of(cls, before: Sequence[float], after: Sequence[float], best_step: int, caution: float) -> Acceptance:
        """Of losses at the same positions, by :func:`least_fall`.

        Parameters
        ----------
        before, after : losses (N,) of the start and of the best step.
        best_step : when they were best.
        caution : standard errors that they must fall by.
        """
        start, best = float(np.mean(before)), float(np.mean(after))
        threshold = least_fall(before, after, caution)
        return cls(start, best, best_step, threshold, start - best > threshold)

    @property
    def gain(self) -> float:
        """By how much the loss fell."""
        return self.start_loss - self.best_loss

    @property
    def gain_percent(self) -> float:
        """The same in percent of the start's loss; NaN if that is nothing."""
        return self._percent(self.gain)

    @property
    def outcome(self) -> str:
        """``trained`` or ``unchanged``."""
        return "trained" if self.accepted else "unchanged"

    def reason(self) -> str:
        """Why, as part of a sentence."""
        if not self.gain > 0:
            return f"no step had a lower validation loss than the start ({self.start_loss:.4f})"
        fell = f"validation loss fell by {self._figure(self.gain)} from {self.start_loss:.4f}"
        fell += "" if self.accepted else f" at step {self.best_step}"
        if math.isnan(self.threshold):
            return fell if self.accepted else f"{fell}, which was not enough"
        if math.isinf(self.threshold):
            return f"{fell}, but with so much caution no gain is enough"
        return f"{fell}{'; ' if self.accepted else ', but '}more than {self._figure(self.threshold)} was asked for"

    def to_json(self) -> dict[str, Any]:
        """As in a card; losses as they are and as percentages of the start's."""
        return {
            "outcome": self.outcome,
            "reason": self.reason(),
            "start_loss": self.start_loss,
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "gain": self.gain,
            "gain_percent": self.gain_percent,
            "threshold": self.threshold,
            "threshold_percent": self._percent(self.threshold),
        }

    def _percent(self, loss: float) -> float:
        return 100 * loss / self.start_loss if self.start_loss else math.nan

    def _figure(self, loss: float) -> str:
        return f"{self._percent(loss):.1f} % ({loss:.4f})"


def least_fall(before: Sequence[float], after: Sequence[float], caution: float) -> float:
    """The fall that losses at the same positions must exceed: ``caution`` standard errors of their mean difference.

    With a dozen positions, the lowest of many means is easily lower by chance (Breiman et al. 1984, Classification and
    Regression Trees, whose rule is one standard error). ``caution`` holds for many positions; with few the standard
    error itself is uncertain, and Student's paired test asks for more at the same confidence: 1.07 instead of 1 with
    nine. A single position has no standard error, and any fall is enough.
    """
    from scipy.special import ndtr, stdtrit

    gains = np.subtract(before, after)
    if len(gains) < 2:
        return 0.0
    certain = ndtr(caution) == 1  # for which older scipy gives NaN
    errors = math.inf if certain else float(stdtrit(len(gains) - 1, ndtr(caution)))
    return math.inf if math.isinf(errors) else errors * float(gains.std(ddof=1)) / math.sqrt(len(gains))
