"""SOFA files (AES69) of the convention SingleRoomSRIR."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from haa_peft import __version__
from haa_peft.environment import package
from haa_peft.exporting.responses import Responses


def write_sofa(responses: Responses, path: Path) -> None:
    """Write RIRs as a SingleRoomSRIR: positions are sources, the receiver is the listener; all in metres.

    Where the fixed point was a loudspeaker, the two are exchanged by reciprocity, as everywhere in a room folder.

    Parameters
    ----------
    responses : what is written.
    path : the file, which ends in ``.sofa``.
    """
    sofar = package("sofar", "a SOFA file", "import")
    count = len(responses.rirs)
    box = responses.box
    fields = {
        "Data_IR": responses.rirs[:, None].astype(np.float64),
        "Data_Delay": np.zeros((1, 1)),
        "Data_SamplingRate": float(responses.sample_rate),
        "SourcePosition": responses.positions,
        "ListenerPosition": np.array(responses.receivers),
        "ListenerView": np.tile([1.0, 0.0, 0.0], (count, 1)),
        "ListenerUp": np.tile([0.0, 0.0, 1.0], (count, 1)),
        "SourceView": np.tile([1.0, 0.0, 0.0], (count, 1)),
        "SourceUp": np.tile([0.0, 0.0, 1.0], (count, 1)),
        "GLOBAL_Title": f"RIRs of {responses.room}",
        "GLOBAL_DatabaseName": responses.room,
        "GLOBAL_RoomShortName": responses.room,
        "GLOBAL_RoomType": "reverberant" if box is None else "shoebox",
        "GLOBAL_RoomDescription": responses.room,
        "GLOBAL_License": responses.licence,
        "GLOBAL_Comment": responses.about,
        "GLOBAL_ListenerDescription": "omnidirectional; the point that stayed fixed",
        "GLOBAL_ApplicationName": "haa_peft",
        "GLOBAL_ApplicationVersion": __version__,
    }
    if box is not None:
        corners = {"RoomCorners": 0.0, "RoomCorners_Type": "cartesian", "RoomCorners_Units": "metre"}
        fields |= {"RoomCornerA": box[:1], "RoomCornerB": box[1:], **corners}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sofa = sofar.Sofa("SingleRoomSRIR")
        optional = {name for name in vars(sofa) if not name.startswith("_")} - set(
            vars(sofar.Sofa("SingleRoomSRIR", mandatory=True))
        )
        for name, value in fields.items():
            setattr(sofa, name, value)
        for name in optional - set(fields):
            sofa.delete(name)
        sofar.write_sofa(str(path), sofa)
