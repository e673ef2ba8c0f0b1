"""Adapts a backbone by every method in the processes that it is launched in: FOLDER BACKBONE PUBLISHED ROOM."""

import sys
from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import save_file

from haa_peft import load_backbone, load_room
from haa_peft.adapters.methods import MethodSettings
from haa_peft.adapters.settings import METHODS
from haa_peft.training.adapt import adapt
from haa_peft.training.settings import TrainingSettings

folder, backbone_file, room_folder = (Path(argument) for argument in sys.argv[1:])
accelerator = Accelerator()
backbone, room = load_backbone(backbone_file), load_room(room_folder).with_shots(11)
training = TrainingSettings(max_steps=6, k=4, validate_every=3, warmup=1, patience=99)
runs = {method: MethodSettings(method) for method in METHODS} | {"channels": MethodSettings(channels="normals")}
for method, settings in runs.items():
    found = adapt(backbone, room, settings, training, accelerator, folder / "run" / method)
    if accelerator.is_main_process:
        validation = "\n".join(f"{step} {loss!r}" for step, loss in found.validation)
        (folder / f"{method}.txt").write_text(validation)
        save_file(
            {name: tensor.contiguous() for name, tensor in found.tensors.items()}, folder / f"{method}.safetensors"
        )
print(f"{accelerator.num_processes} processes")
