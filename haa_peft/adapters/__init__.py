"""Fitting a frozen backbone to a room: LoRA, bias-only, and all weights as the yardstick."""
