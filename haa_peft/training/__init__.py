"""Training on accelerate: adaptation to a room, and pretraining."""
