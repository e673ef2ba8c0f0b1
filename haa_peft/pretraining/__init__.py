"""Training a backbone, and the network that estimates panoramas from sound; a backbone's errors in unseen rooms."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haa_peft.model.xrir import XRIR
    from haa_peft.pretraining.settings import BackboneTraining, PanoramaTraining


def pretrain_backbone(
    training: BackboneTraining,
    corpus: Path,
    out: Path,
    *,
    acoustic_rooms: Path | None = None,
    config: Path | None = None,
    start: str | None = None,
    resume: bool = False,
) -> None:
    """Pretrain a backbone; the weights kept are the moving average with the lowest validation loss.

    Parameters
    ----------
    training : how.
    corpus : folder of simulated rooms, made first where rooms are missing and one process runs.
    out : weights, ``.safetensors``; a ``.json`` that says how they were made goes beside, and a ``.checkpoint``.
    acoustic_rooms : folder of AcousticRooms, whose training rooms are added.
    config : JSON of the fields of ``XRIRConfig`` that differ from the small network's.
    start : bundled name or file of a backbone to go on from.
    resume : go on from the checkpoint if it is there.

    Raises
    ------
    InputError
        When something given is wrong, rooms are missing, or the loss is not finite.
    """
    from haa_peft.pretraining.backbone import Files, run

    run(training, Files(corpus, out, acoustic_rooms, config, start), resume=resume)


def pretrain_panorama(
    training: PanoramaTraining, corpus: Path, out: Path, *, start: Path | None = None, workers: int | None = None
) -> None:
    """Train the network that estimates a panorama from sound; the weights kept have the lowest validation loss.

    Parameters
    ----------
    training : how.
    corpus : folder of simulated rooms, made first where rooms are missing.
    out : weights, ``.safetensors``; a ``.json`` that says how they were made goes beside.
    start : weights to go on from.
    workers : processes for echo maps and simulation; all cores unless given.

    Raises
    ------
    InputError
        When something given is wrong, or the loss is not finite.
    """
    from haa_peft.pretraining.panorama_network import run

    run(training, corpus, out, start, workers)


def evaluate_backbone(
    backbone: XRIR,
    corpora: Sequence[Path],
    *,
    trained_on: Collection[int],
    count: int | None = None,
    ks: Sequence[int] = (1, 4, 8),
    phase: str = "references",
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Errors of a backbone in rooms that it has not seen, a report for each corpus as it is done.

    Parameters
    ----------
    backbone : with no adapter attached.
    corpora : folders of simulated rooms, or AcousticRooms.
    trained_on : seeds of the corpora that it was pretrained on (:func:`~haa_peft.pretraining.weights.seeds_seen`).
    count : rooms of each corpus, evenly spread; all unless given.
    ks : numbers of references.
    phase : of the waveforms (:func:`~haa_peft.model.predict.waveforms`).
    seed : of targets, references and waveforms.

    Yields
    ------
    What each corpus is, how many rooms were tested, and ``rows`` of
    :func:`~haa_peft.pretraining.unseen.evaluate_unseen`.

    Raises
    ------
    InputError
        When a folder holds no rooms, or rooms that it was trained on, or a number is out of range.
    """
    from haa_peft.pretraining.unseen import evaluate_corpora

    return evaluate_corpora(backbone, corpora, trained_on, count, ks, phase, seed)
