"""Corpora as bytes: TensorFlow Datasets in, one memory-mapped file a split out.

`sources` and `packages` are built here, of text that every installation has; any other name is a data set of the TFDS
catalogue that lies prepared, in array_record format, under the data directory. None needs TensorFlow to be read.

The bytes are held against their manifest whenever a process opens them, and made again where they are damaged. They lie
beside the data set, or in the cache directory where nothing can be written there.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from suite import files, manifest
from suite.files import Damaged
from suite.tasks import SPLITS

DATA_DIR = "~/tensorflow_datasets"  # TFDS's own default
OWN = ("sources", "packages")
SEPARATOR = b"\0"  # between documents
PIECE = 1 << 24  # bytes that are looked through at once
# Files of a prepared data set, and a field without which each is damaged.
DESCRIBED_IN = {"dataset_info.json": "name", "features.json": "pythonClassName"}


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Bytes of each split, and the sha256 of all of them in the order train, validation, test."""

    splits: dict[str, np.ndarray]
    sha256: str


@functools.cache
def open_tokens(corpus: str, data_dir: str) -> Tokens:
    """The corpus as memory maps, prepared and tokenised on first use.

    LookupError where there is no such corpus, Damaged where its data set is damaged and cannot be made again here.
    """
    try:
        return _open(_builder(corpus, data_dir), data_dir)
    except Damaged as damage:
        if corpus not in OWN:
            raise Damaged(damage.path, f"{damage.why}; once: {_preparing(corpus, data_dir)} --overwrite") from damage
        print(f"crossover: {damage}; prepared again", file=sys.stderr)
    from suite.tasks.corpora import sources

    with sources.prepared_again(corpus, _writable(data_dir, corpus)) as builder:
        return _open(builder, data_dir)


def ends(tokens_N: np.ndarray) -> np.ndarray:
    """Where the documents of a split end, each at its zero byte; one that has such a byte within is taken for two."""
    pieces = (np.flatnonzero(tokens_N[first : first + PIECE] == 0) + first for first in range(0, len(tokens_N), PIECE))
    return np.concatenate([*pieces])


def cache_dir() -> pathlib.Path:
    """Where bytes are kept that cannot lie beside their data set."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "crossover"


def _root(data_dir: str) -> str:
    return data_dir if "://" in data_dir else str(pathlib.Path(data_dir).expanduser())


def _roots(data_dir: str) -> list[pathlib.Path]:
    """Where bytes may lie, the best place first; memory maps need a file system."""
    return [*([] if "://" in data_dir else [pathlib.Path(_root(data_dir))]), cache_dir()]


def _writable(data_dir: str, name: str) -> pathlib.Path:
    """The first place where files can be made under `name`; OSError where there is none."""
    for root in _roots(data_dir):
        nearest = next(path for path in ((root / name).absolute(), *(root / name).absolute().parents) if path.exists())
        if os.access(nearest, os.W_OK | os.X_OK):
            return root
    raise OSError(
        f"cannot write to --data_dir={data_dir} nor to {cache_dir()}; set XDG_CACHE_HOME to another directory"
    )


def _open(builder: Any, data_dir: str) -> Tokens:
    # Named by what was prepared: a set prepared again with other content is tokenised again.
    info = builder.data_path / "dataset_info.json"
    if not info.exists():
        raise Damaged(info, "it is missing")
    prepared = hashlib.sha256(info.read_bytes()).hexdigest()[:12]
    name = os.path.join("bytes", builder.info.full_name, prepared)
    for root in _roots(data_dir):
        folder = epath.Path(root / name)
        if not manifest.path_of(folder).exists():
            continue
        damage = manifest.damage(folder)
        if not damage:
            return _mapped(folder)
        print(f"crossover: {folder} is damaged ({damage}); made again", file=sys.stderr)
    folder = epath.Path(_writable(data_dir, name) / name)
    _tokenise(builder, folder)
    return _mapped(folder)


def _mapped(folder: epath.Path) -> Tokens:
    splits = {split: np.asarray(np.memmap(folder / f"{split}.bin", np.uint8, "r")) for split in SPLITS}
    return Tokens(splits, manifest.origin(folder)["sha256"])


def _builder(corpus: str, data_dir: str) -> Any:
    import tensorflow_datasets as tfds  # here, not above: only a task that reads text pays for it

    tfds.disable_progress_bar()
    root = _root(data_dir)
    if corpus in OWN:
        from suite.tasks.corpora import sources

        is_there = sources.path(corpus, root).exists() or "://" in root
        return sources.prepare(corpus, root if is_there else str(_writable(data_dir, corpus)))
    prepare = _preparing(corpus, data_dir)
    try:
        builder = tfds.builder(corpus, data_dir=root)
    except ImportError as error:  # the catalogue's own code wants TensorFlow before there is prepared data
        raise LookupError(f"corpus {corpus!r} is not prepared under {root}; once: {prepare}") from error
    except Exception as error:  # what lies there may be anything, and each library beneath TFDS has errors of its own
        _check_descriptions(epath.Path(root) / re.split("[/:]", corpus)[0])
        if isinstance(error, tfds.core.DatasetNotFoundError):
            known = f"{', '.join(OWN)}, and any TFDS data set of text, prepared once by: {prepare}"
            raise LookupError(f"no corpus {corpus!r} under {root}; known: {known}") from error
        if not isinstance(error, ValueError):
            raise
        # A malformed name or an unknown configuration: TFDS answers over many lines.
        raise LookupError(f"cannot open corpus {corpus!r}: {str(error).splitlines()[0]}") from error
    if not builder.info.splits:
        raise LookupError(f"corpus {corpus!r} is not prepared under {root}; once: {prepare}")
    return builder


def _preparing(corpus: str, data_dir: str) -> str:
    """The shell command that prepares a data set of the catalogue."""
    return f"pip install '.[tensorflow]' && tfds build {corpus} --file_format=array_record --data_dir={_root(data_dir)}"


def _check_descriptions(folder: epath.Path) -> None:
    """Raises Damaged for the first file that describes a data set under a folder and cannot be read."""
    described = [f"{depth}/{name}" for depth in ("*", "*/*") for name in DESCRIBED_IN]  # version, configuration/version
    for directory in sorted({path.parent for pattern in described for path in folder.glob(pattern)}):
        for name, field in DESCRIBED_IN.items():
            if not (directory / name).exists():
                raise Damaged(directory / name, "it is missing")
            files.read_json(directory / name, field)


def _tokenise(builder: Any, folder: epath.Path) -> None:
    """Writes the bytes and their manifest; several processes may do so at once, for all write the same."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
        digest = hashlib.sha256()
        for split in SPLITS:
            with open(os.path.join(beside, split), "wb") as file:
                for text in _texts(builder, split):
                    file.write(text + SEPARATOR)
                    digest.update(text + SEPARATOR)
        for split in SPLITS:
            os.replace(os.path.join(beside, split), folder / f"{split}.bin")
    manifest.write(folder, {"sha256": digest.hexdigest(), "corpus": builder.info.full_name})


def _texts(builder: Any, split: str) -> Iterator[bytes]:
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordReader

    features = builder.info.features
    keys = [key for key, feature in features.items() if isinstance(feature, tfds.features.Text)]
    if not keys:
        raise LookupError(f"{builder.info.full_name} has no text feature; it has {', '.join(features)}")
    key = "text" if "text" in keys else keys[0]
    for shard in _shards(builder, split):
        try:
            reader = ArrayRecordReader(shard.filename)  # it knows checksums; of a file cut short it finds no records
            if reader.num_records() != shard.examples_in_shard:
                raise ValueError(f"it has {reader.num_records()} examples, wanted {shard.examples_in_shard}")
            for number in range(shard.skip, shard.skip + shard.take):
                value = features.deserialize_example_np(reader.read([number])[0])[key]
                if value is None:
                    raise ValueError(f"example {number} has no {key}")
                yield value if isinstance(value, bytes) else str(value).encode()
        except Exception as error:  # the libraries of records, of examples and of features have errors of their own
            raise Damaged(shard.filename, str(error).partition("\n")[0]) from error


def _shards(builder: Any, split: str) -> list[Any]:
    """The files that a split is read from, and which of their examples."""
    if "train" not in builder.info.splits:
        raise LookupError(f"{builder.info.full_name} has no split train; it has {', '.join(builder.info.splits)}")
    piece = _slices(list(builder.info.splits))[split]
    try:
        builder.as_data_source(piece)
    except NotImplementedError as error:
        raise LookupError(f"{builder.info.full_name} is not in array_record format; prepare it again so") from error
    except ValueError as error:  # TFDS has no empty slices
        raise LookupError(f"{builder.info.full_name} has too few documents to give some to {split}") from error
    return builder.info.splits[piece].file_instructions


def _slices(splits: list[str]) -> dict[str, str]:
    """Which slice of a catalogue set is which split: its own, and for a held-out one that it lacks the end of train."""
    lacking = [split for split in ("validation", "test") if split not in splits]
    slices = {split: split for split in SPLITS}
    for number, split in enumerate(lacking):
        end = 100 - 5 * number
        slices[split] = f"train[{end - 5}%:{end}%]"
    if lacking:
        slices["train"] = f"train[:{100 - 5 * len(lacking)}%]"
    return slices
