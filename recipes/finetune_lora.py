"""Adapt the backbone to a room with LoRA: a few small matrices per room.

The embedded default, a simulated stand-in of HAA's classroom:

    accelerate launch recipes/finetune_lora.py

Your room, or a folder of Hearing Anything Anywhere:

    accelerate launch recipes/finetune_lora.py --room path/to/hallwayPanel1 --json report.json

Several GPUs: accelerate launch --multi_gpu --num_processes 4 recipes/finetune_lora.py ...
Two CPU processes: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 --num_machines 1
    --mixed_precision no --dynamo_backend no recipes/finetune_lora.py ...
"""

from haa_peft.options import run

if __name__ == "__main__":
    run("lora", __doc__)
