"""Spectrograms, alignment, decay curves, metrics, waveforms and losses."""

from haa_peft.acoustics.iso import iso_metrics
from haa_peft.acoustics.losses import energy_decay_loss, stft_l1_loss
from haa_peft.acoustics.paper import paper_metrics

__all__ = ["energy_decay_loss", "iso_metrics", "paper_metrics", "stft_l1_loss"]
