"""Adapt the backbone to a room with LoRA: a few small matrices per room.

The embedded default, a simulated stand-in of HAA's classroom:

    accelerate launch recipes/finetune_lora.py

Your room, or a folder of Hearing Anything Anywhere:

    accelerate launch recipes/finetune_lora.py --room path/to/hallwayPanel1 --json report.json

Several GPUs: accelerate launch --multi_gpu --num_processes 4 recipes/finetune_lora.py ...
Two CPU processes: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 --num_machines 1
    --mixed_precision no --dynamo_backend no recipes/finetune_lora.py ...
Any other method, in one process: haa-peft adapt --method norm
"""

from haa_peft.commands.adapt import IF_INTERRUPTED, parse_arguments
from haa_peft.commands.ending import command


def main() -> None:
    args = parse_arguments("lora", __doc__)

    # here, since --help needs no torch
    from haa_peft import adapt_room
    from haa_peft.commands.job import accelerator_of, account, backbone_of, options_of, rooms_of, settings_of, write

    method, training = settings_of(args)  # what trains, and how
    room, first_stage = rooms_of(args)  # measurements, positions, what surrounds the receiver
    backbone = backbone_of(args)  # frozen
    options = options_of(args, room)  # name, run folder, adapters to begin with
    accelerator = accelerator_of(args, options["run_folder"])

    adapted = adapt_room(
        room, method, training, backbone=backbone, accelerator=accelerator, first_stage=first_stage, **options
    )

    if accelerator.is_main_process:
        print(account(adapted, args))  # errors at test positions against baselines and backbone
        print(write(adapted, args))  # the pack, for RoomPredictor.load(NAME)
    accelerator.end_training()


if __name__ == "__main__":
    with command(IF_INTERRUPTED):
        main()
