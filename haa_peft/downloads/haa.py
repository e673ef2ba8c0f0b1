"""Hearing Anything Anywhere (HAA) from Zenodo: resumable, checked, one folder a configuration.

The data are Zenodo record 11195833, CC BY 4.0 (Wang et al., CVPR 2024). The record itself could not be
reached when this was written. Known, from public scripts that download it (``setup_haa_dataset.sh`` in
Yixun-Hu/av-dar names all its files): one zip a configuration, ``classroomBase.zip`` to
``hallwayTranslation.zip``, besides ``mic_calibrations.zip``; in each zip are ``RIRs.npy``, ``xyzs.npy`` and
larger music and binaural arrays. Assumed: the record's JSON lists its files with size, MD5 and link as other
Zenodo records do, and the two arrays lie in one folder of the zip, at whatever depth (``mic_numbers.npy``
there or in its ``raw`` subfolder). Tar archives, an archive of several configurations and loose ``.npy``
files are not looked for.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import urlsplit

import pooch
import requests
from tqdm import tqdm

from haa_peft.errors import InputError
from haa_peft.rooms.haa import haa_facts

RECORD_URL = "https://zenodo.org/api/records/11195833"
NEEDED = ("RIRs.npy", "xyzs.npy")
BOTH = " and ".join(NEEDED)
TIMEOUT_S = (10, 60)  # to connect, and between two pieces of an answer
CHUNK_BYTES = 1 << 16
RECORD_BYTES = 1 << 22
"""That a record is allowed; Zenodo's has some ten thousand."""
AGAIN = "what was downloaded is kept, so the same command goes on from there"


@dataclass(frozen=True)
class Archive:
    """A file of the record: its ``name``, ``url``, ``size`` in bytes and ``checksum`` (``md5:...``)."""

    name: str
    url: str
    size: int
    checksum: str


def download_haa(configurations: Sequence[str], folder: Path, *, record_url: str = RECORD_URL) -> list[Path]:
    """Fetch configurations of HAA that are not there yet.

    Archives and their unfinished ``.part`` files lie in ``folder`` while they are needed. A configuration
    that is there is neither fetched again nor changed; with nothing to fetch, no request is made.

    Parameters
    ----------
    configurations : Sequence[str]
        Names such as ``classroomBase``; none means all 14.
    folder : Path
        Where the room folders go; made if missing.
    record_url : str
        The record's address in Zenodo's API.

    Returns
    -------
    list[Path]
        The room folders, ``folder / configuration``, in the order asked for. Each holds ``RIRs.npy`` (N, T)
        at 48 kHz and ``xyzs.npy`` (N, 3) in metres, and ``mic_numbers.npy`` (N,) if the archive has it.

    Raises
    ------
    InputError
        For a name that is not HAA's (before any request), and when the network, the record, a checksum, an
        archive or the disk fails. What was downloaded until then is kept and the next call goes on from it.
    """
    known = list(haa_facts())
    wanted = list(dict.fromkeys(configurations)) or known
    for name in wanted:
        if name not in known:
            raise InputError(f"HAA has no configuration {name!r}; give one or more of {', '.join(known)}")

    rooms = [folder / name for name in wanted]
    missing = [room for room in rooms if not _is_complete(room)]
    for room in rooms:
        if room not in missing:
            print(f"{room.name}: already in {room}")
    if missing:
        with _plain_errors(record_url, folder):
            archives = _read_record(record_url)
        # All are found before the first is fetched: an hour of downloading should not end in a missing name.
        pairs = [(room, _find_archive(archives, room.name, record_url)) for room in missing]
        for room, archive in pairs:
            with _plain_errors(archive.url, folder):
                folder.mkdir(parents=True, exist_ok=True)
                path = _fetch(archive, folder)
                _extract(path, room)
                path.unlink()
            print(f"{room.name}: saved to {room}")
    return rooms


def _is_complete(room: Path) -> bool:
    """Whether a room folder has what is needed; InputError if something else is in its place."""
    if all((room / name).is_file() for name in NEEDED):
        return True
    if room.exists() and not (room.is_dir() and not any(room.iterdir())):
        raise InputError(f"{room} is there without {BOTH}; move it away or give another folder")
    return False


@contextmanager
def _plain_errors(url: str, folder: Path) -> Iterator[None]:
    """Turn what the network, an archive and the disk can raise into an InputError of one line."""
    try:
        yield
    except requests.HTTPError as error:  # "404 Client Error: ... for url: ..."
        raise InputError(f"{error}; check the address or try later: {AGAIN}") from error
    except requests.RequestException as error:
        why = type(error).__name__
        raise InputError(f"{url} could not be read ({why}); check the network: {AGAIN}") from error
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(f"{url} is in {folder} but cannot be unpacked ({error}); do it by hand") from error
    except OSError as error:  # after requests' errors, which are OSErrors too
        where, why = error.filename or folder, error.strerror or type(error).__name__
        raise InputError(f"{where} cannot be written ({why}); make room for it: {AGAIN}") from error


def _read_record(url: str) -> list[Archive]:
    """The files that the record lists."""
    content = b""
    with requests.get(url, stream=True, timeout=TIMEOUT_S) as response:
        response.raise_for_status()
        for chunk in response.iter_content(CHUNK_BYTES):
            content += chunk
            if len(content) > RECORD_BYTES:
                raise InputError(f"{url} has more than {RECORD_BYTES} bytes, which no record has; check the address")
    try:
        return [
            Archive(str(file["key"]), str(file["links"]["self"]), int(file["size"]), str(file["checksum"]))
            for file in json.loads(content)["files"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{url} is not a Zenodo record with a list of files; check the address") from error


def _find_archive(archives: list[Archive], configuration: str, record_url: str) -> Archive:
    """The record's zip of one configuration, checked to be safe to fetch."""
    matches = [a for a in archives if a.name.startswith(configuration) and a.name.endswith(".zip")]
    if not matches:
        names = ", ".join(a.name for a in archives) or "no files"
        raise InputError(f"{record_url} has no {configuration}.zip but {names}; download it by hand")
    archive = min(matches, key=lambda a: len(a.name))
    if urlsplit(archive.url).scheme not in ("http", "https"):
        raise InputError(f"{archive.name} links to {archive.url!r}, not to http or https; check {record_url}")
    if PureWindowsPath(archive.name).name != archive.name:  # knows both kinds of slash
        raise InputError(f"{record_url} names a file {archive.name!r}, which is a path; check the address")
    if not re.fullmatch("(md5|sha256|sha512):[0-9a-fA-F]+", archive.checksum):
        raise InputError(f"{archive.name} has checksum {archive.checksum!r}, not md5:...; check {record_url}")
    return archive


def _fetch(archive: Archive, folder: Path) -> Path:
    """Download an archive, going on from its ``.part`` file, and check it."""
    part = folder / f"{archive.name}.part"
    try:
        path = pooch.retrieve(
            archive.url,
            known_hash=archive.checksum,
            fname=archive.name,
            path=folder,
            downloader=partial(_resume, part=part, size=archive.size),
        )
    except requests.RequestException:  # some of them are ValueErrors
        raise
    except ValueError as error:  # pooch has deleted the file: nothing wrong is left to go on from
        expected = archive.checksum
        raise InputError(f"{archive.url} does not match {expected}; run the same command again") from error
    return Path(path)


def _resume(url: str, output_file: str, _pooch: object, *, part: Path, size: int) -> None:
    """Download for pooch: fill ``part`` to ``size`` bytes, then move it to ``output_file``.

    A connection that breaks is taken up again as long as each attempt brings the file further.
    """
    while (have := _length(part)) < size:
        broken = None
        try:
            _append(url, part, have, size)
        except requests.RequestException as error:
            broken = error
        if _length(part) <= have:
            raise broken or requests.ConnectionError(f"{url} ended after {have} of {size} bytes")
    part.replace(output_file)


def _append(url: str, part: Path, have: int, size: int) -> None:
    """Request what ``part`` lacks and write it; from the start if the server does not do ranges."""
    headers = {"Accept-Encoding": "identity"}  # ranges count the file's bytes, not a compressed answer's
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        start, mode = (have, "ab") if resumed else (0, "wb")
        with (
            part.open(mode) as stream,
            tqdm(total=size, initial=start, desc=part.stem, unit="B", unit_scale=True) as bar,
        ):
            for chunk in response.iter_content(CHUNK_BYTES):
                left = size - stream.tell()
                stream.write(chunk[:left])
                bar.update(min(len(chunk), left))
                if len(chunk) > left:  # a server that goes on fills no disk; the checksum tells
                    break


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _extract(archive: Path, room: Path) -> None:
    """Unpack a room's arrays beside its folder, then rename: the folder is there whole or not at all."""
    with (
        zipfile.ZipFile(archive) as zip_file,
        tempfile.TemporaryDirectory(dir=room.parent, prefix=f".{room.name}-") as scratch,
    ):
        unpacked = Path(scratch) / room.name  # inside, as the scratch folder is closed to other users
        unpacked.mkdir()
        for name, member in _choose_members(zip_file.namelist(), archive).items():
            with zip_file.open(member) as source, (unpacked / name).open("wb") as target:
                shutil.copyfileobj(source, target)
        unpacked.replace(room)


def _choose_members(members: list[str], archive: Path) -> dict[str, str]:
    """Which member of the archive becomes which file of the room folder."""
    for member in members:
        entry = PureWindowsPath(member)  # knows both kinds of slash, and drives
        if entry.anchor or ".." in entry.parts:
            raise InputError(f"{archive} holds {member!r}, which leads out of its folder; delete the archive")
    by_path = {PurePosixPath(member): member for member in members}
    homes = [path.parent for path in by_path if all(path.parent / name in by_path for name in NEEDED)]
    depth = min((len(home.parts) for home in homes), default=0)
    homes = sorted({home for home in homes if len(home.parts) == depth})
    if len(homes) != 1:
        found = " and in ".join(map(str, homes)) or "no folder"
        raise InputError(f"{archive} has {BOTH} in {found}, must have one such folder; unpack it by hand")
    home = homes[0]
    chosen = {name: by_path[home / name] for name in NEEDED}
    for path in (home / "mic_numbers.npy", home / "raw" / "mic_numbers.npy"):
        if path in by_path:
            chosen.setdefault(path.name, by_path[path])
    return chosen
