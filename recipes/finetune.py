"""Adapt the backbone to a room with any method, named by --method.

The embedded default, a simulated stand-in of HAA's classroom, with LoRA whose magnitudes are apart:

    accelerate launch recipes/finetune.py --method dora

Your room: --room path/to/hallwayPanel1.
Several GPUs: accelerate launch --multi_gpu --num_processes 4 recipes/finetune.py ...
"""

from haa_peft.options import run

if __name__ == "__main__":
    run(None, __doc__)
