"""Whole files: written so that a crash leaves the old or the new, and read so that damage has a name."""

import json
import os
import uuid
from typing import Any

from etils import epath


class Damaged(ValueError):
    """A file that is there and does not hold what was written: emptied, cut or changed by a crash, a disk or a hand."""

    def __init__(self, path: epath.PathLike, why: str):
        super().__init__(f"{os.fspath(path)} is damaged: {why}")
        self.path = epath.Path(path)
        self.why = why


def write(path: epath.Path, content: str | bytes) -> None:
    """Writes a whole file: a reader sees the old content or the new, never a part, and so does who reads after a crash.

    The bytes are on the disk before the name is: a name that is there first may be of an empty file.
    """
    data = content.encode() if isinstance(content, str) else content
    if is_object(path):
        path.write_bytes(data)
        return
    beside = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex[:8]}")
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def read_json(path: epath.Path, *wanted: str) -> dict[str, Any]:
    """The JSON object that a file holds; Damaged, which names the file, where it is none or lacks a wanted key."""
    try:
        found = json.loads(path.read_bytes().decode())
    except UnicodeDecodeError as error:
        raise Damaged(path, f"byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise Damaged(path, "it is empty" if not error.doc.strip() else f"no JSON ({error})") from error
    except IsADirectoryError as error:
        raise Damaged(path, "it is a directory") from error
    if not isinstance(found, dict):
        raise Damaged(path, f"wanted a JSON object; it holds a {type(found).__name__}")
    if missing := [key for key in wanted if key not in found]:
        raise Damaged(path, f"it has no {', '.join(missing)}")
    return found


def names(folder: epath.Path) -> set[str]:
    """What lies in a folder; the system is asked directly where it can be, for sweeps of many thousand cells."""
    return {path.name for path in folder.iterdir()} if is_object(folder) else set(os.listdir(folder))


def is_object(path: epath.PathLike) -> bool:
    """Whether a path is in an object store, which has no append and no rename."""
    return "://" in os.fspath(path)
