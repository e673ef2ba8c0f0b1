"""Starting accelerate, and noticing when a launch silently gave fewer processes than asked."""

from __future__ import annotations

import os
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from haa_peft.errors import InputError
from haa_peft.satellites import has, satellite

CPU_LAUNCH = (
    "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes {n} --num_machines 1 "
    "--mixed_precision no --dynamo_backend no"
)


def start_accelerator(seed: int, **options: Any) -> Accelerator:
    """An accelerator with every process that the launch asked for, all seeded alike.

    Raises
    ------
    InputError
        When fewer processes run than were asked for: ``accelerate launch --cpu --num_processes 2`` starts one,
        ``--multi_gpu`` without a GPU starts two that do not know of each other.
    """
    accelerator = Accelerator(**options)
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if has("diagnosis"):
        asked = max(asked, satellite("diagnosis", "starting").processes_asked())
    if asked > accelerator.num_processes:
        raise InputError(
            f"the launch asked for {asked} processes but this run has {accelerator.num_processes}; "
            f"on CPUs start it with `{CPU_LAUNCH.format(n=asked)} SCRIPT`"
        )
    set_seed(seed)
    return accelerator
