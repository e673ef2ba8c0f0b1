"""Whose turn it is to compute, where threads share a predictor."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

LARGE = 8
"""Positions from which a batch keeps a core busy; of smaller ones, threads that compute at once hinder each other."""
Item = TypeVar("Item")


class Turns:
    """As many large batches at once as there are cores, and one small one: threads answer no slower than one does."""

    def __init__(self) -> None:
        self._small = threading.Lock()
        self._large = threading.Semaphore(os.cpu_count() or 1)

    def of(self, count: int) -> AbstractContextManager:
        """Waited for, and held inside the block, by who computes for ``count`` positions."""
        return self._large if count >= LARGE else self._small

    def each(self, items: Iterator[Item], count: int) -> Iterator[Item]:
        """The items, each computed in a turn of its own."""
        while True:
            with self.of(count):
                item = next(items, None)
            if item is None:
                return
            yield item
