"""Whole files: written so that a crash leaves the old or the new, and read so that damage has a name."""

import json
import os
import urllib.parse
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
    _write(path, content, durable=True)


def ensure(path: epath.Path, content: str) -> None:
    """Writes a file unless it holds just that, without waiting for the disk: what can be made again is mended so."""
    try:
        if path.read_bytes() == content.encode():
            return
    except FileNotFoundError:
        pass
    _write(path, content, durable=False)


def _write(path: epath.Path, content: str | bytes, *, durable: bool) -> None:
    data = content.encode() if isinstance(content, str) else content
    if is_object(path):
        path.write_bytes(data)
        return
    beside = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex[:8]}")
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(beside, path)


def sync(path: epath.Path) -> None:
    """Returns when what a file or a directory holds is on the disk."""
    if not is_object(path) and path.exists():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(path: epath.Path) -> None:
    """Removes a file, or whatever has come in its place."""
    if path.is_dir():
        path.rmtree()
    else:
        path.unlink(missing_ok=True)


def read(path: epath.PathLike) -> bytes:
    """The bytes of a file."""
    if is_object(path):
        return epath.Path(path).read_bytes()
    # Half the system calls of open(), and nothing of epath: sweeps have many small files.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        pieces = []
        while piece := os.read(descriptor, 1 << 16):
            pieces.append(piece)
        return b"".join(pieces)
    except IsADirectoryError as error:
        raise IsADirectoryError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        os.close(descriptor)


def read_json(path: epath.PathLike, *wanted: str) -> dict[str, Any]:
    """The JSON object that a file holds; Damaged, which names the file, where it is none or lacks a wanted key."""
    try:
        return parse_json(path, read(path), *wanted)
    except IsADirectoryError as error:
        raise Damaged(path, "it is a directory") from error


def parse_json(path: epath.PathLike, content: bytes, *wanted: str) -> dict[str, Any]:
    """The JSON object in the content of a file."""
    try:
        record = json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise Damaged(path, f"byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise Damaged(path, "it is empty" if not content.strip() else f"no JSON ({error})") from error
    if not isinstance(record, dict):
        raise Damaged(path, f"wanted a JSON object; it holds a {type(record).__name__}")
    if missing := [key for key in wanted if key not in record]:
        raise Damaged(path, f"it has no {', '.join(missing)}")
    return record


def root(text: str) -> epath.Path:
    """The directory that a flag names: a path, as a shell would expand it, or gs://. ValueError for other places."""
    scheme, separator, rest = text.partition("://")
    if not text:
        raise ValueError("wanted a directory; got nothing")
    if not separator:
        return epath.Path(text).expanduser()
    if scheme == "file":
        return epath.Path(urllib.parse.unquote(rest.removeprefix("localhost")))
    if scheme != "gs":
        raise ValueError(f"there is no client for {scheme}:// here; wanted a path or gs://")
    return epath.Path(text)


def absolute(path: epath.PathLike) -> epath.Path:
    """A path that means the same from any working directory: what orbax and TensorStore want."""
    return epath.Path(path) if is_object(path) else epath.Path(path).resolve()


def names(folder: epath.PathLike) -> set[str]:
    """What lies in a folder; the system is asked directly where it can be, for sweeps of many thousand cells."""
    return {path.name for path in epath.Path(folder).iterdir()} if is_object(folder) else set(os.listdir(folder))


def is_object(path: epath.PathLike) -> bool:
    """Whether a path is in an object store, which has no append and no rename."""
    return "://" in os.fspath(path)
