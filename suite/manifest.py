"""What a directory held when it was complete, size and crc32 of each file: a flipped bit or a cut file is found."""

import json
import os
import zlib
from typing import Any

from etils import epath

from suite import files

PIECE = 1 << 24


def write(directory: epath.Path, origin: dict[str, Any]) -> None:
    """Writes down beside a complete directory what is in it, and its `origin`: whatever the caller says of it."""
    listed = {name: [path.stat().length, _checksum(path)] for name, path in _files(directory).items()}
    files.write(path_of(directory), json.dumps({"files": listed, "facts": origin}) + "\n")


def origin(directory: epath.Path) -> dict[str, Any]:
    return files.read_json(path_of(directory), "facts")["facts"]


def damage(directory: epath.Path) -> str:
    """What is wrong with a directory that has a manifest, or nothing."""
    try:
        wanted = files.read_json(path_of(directory), "files", "facts")["files"]
    except files.Damaged as damaged:
        return f"{path_of(directory).name}: {damaged.why}"
    present = _files(directory) if directory.exists() else {}
    for name, (size, checksum) in wanted.items():
        if name not in present:
            return f"{name} is missing"
        if present[name].stat().length != size:
            return f"{name} has {present[name].stat().length} bytes instead of {size}"
        if _checksum(present[name]) != checksum:
            return f"{name} has other bytes than were written"
    return ""


def quarantine(directory: epath.Path) -> epath.Path:
    """Moves a damaged directory out of the way, its manifest too, for a person to look at; returns where it lies."""
    number = sum(path.name.startswith(f"{directory.name}.bad") for path in directory.parent.iterdir())
    aside = directory.with_name(f"{directory.name}.bad{number}")
    path_of(directory).rename(path_of(aside))
    if directory.exists():
        directory.rename(aside)
    return aside


def path_of(directory: epath.Path) -> epath.Path:
    return directory.with_name(f"{directory.name}.manifest")


def _files(directory: epath.Path) -> dict[str, epath.Path]:
    """Every file under a directory, by its path in it."""
    return {
        os.fspath((epath.Path(folder) / name).relative_to(directory)): epath.Path(folder) / name
        for folder, _, names in directory.walk()
        for name in names
    }


def _checksum(path: epath.Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            checksum = zlib.crc32(piece, checksum)
    return checksum
