"""Studies: many runs planned, kept as one file each, and reported with intervals and figures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

LOG = logging.getLogger(__name__)


def study(
    file: Path,
    rooms: Sequence[str] = (),
    *,
    backbone: str = "",
    out: Path | None = None,
    results: Path = Path("results"),
    executor: str = "local",
    workers: int | None = None,
    report_only: bool = False,
) -> Path:
    """Run what is missing of a study, and write its report.

    Parameters
    ----------
    file : YAML; see ``recipes/studies``.
    rooms : folders or names instead of the study's; runs that name rooms of the study are left out.
    backbone : bundled name or checkpoint file instead of the study's.
    out : folder of the results; below ``results``, named after study, ``rooms`` and ``backbone``, unless given.
    results : folder of the folders of results.
    executor : ``local``, or ``ray`` for a cluster that is running.
    workers : runs at once; one for each GPU, or each core, unless given.
    report_only : run nothing, write the report of what is there.

    Returns
    -------
    The page.

    Raises
    ------
    InputError
        When the file says what cannot be, a run fails, or ``out`` holds results of other settings.
    """
    from haa_peft.commands.workers import check_workers
    from haa_peft.errors import InputError
    from haa_peft.studies.execute import run_study
    from haa_peft.studies.read import load_study
    from haa_peft.studies.report import write_report
    from haa_peft.training.launch import start_accelerator

    check_workers(executor, workers)
    if start_accelerator(0).num_processes > 1:
        raise InputError("a study starts its own processes; leave --num_processes out and give --workers")
    planned = load_study(file, rooms, backbone)
    for note in planned.notes:
        LOG.info(note)
    out = out or results / planned.name
    if not report_only:
        run_study(planned, out, executor=executor, workers=workers)
    return write_report(
        out, compare_with=planned.compare_with, title=planned.title, question=planned.question,
        show=planned.show or None, pairs=planned.pairs,
    )  # fmt: skip
