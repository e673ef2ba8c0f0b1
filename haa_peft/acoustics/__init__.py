"""Spectrograms, alignment, decay curves, metrics, waveforms and losses."""

from typing import TYPE_CHECKING

from haa_peft.environment import lazy

if TYPE_CHECKING:
    from haa_peft.acoustics.iso import iso_metrics
    from haa_peft.acoustics.losses import energy_decay_loss, stft_l1_loss
    from haa_peft.acoustics.paper import paper_metrics

__all__ = ["energy_decay_loss", "iso_metrics", "paper_metrics", "stft_l1_loss"]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "energy_decay_loss": "haa_peft.acoustics.losses",
        "iso_metrics": "haa_peft.acoustics.iso",
        "paper_metrics": "haa_peft.acoustics.paper",
        "stft_l1_loss": "haa_peft.acoustics.losses",
    },
)
