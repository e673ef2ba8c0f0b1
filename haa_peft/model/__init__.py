"""xRIR, its configuration and its checkpoints."""
