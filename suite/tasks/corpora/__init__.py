"""Corpora as bytes: TensorFlow Datasets in, one memory-mapped file a split out.

`sources` is built here, of text that every installation has; any other name is a data set of the TFDS catalogue that
lies prepared, in array_record format, under the data directory. Neither needs TensorFlow to be read.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np

from suite.tasks import SPLITS

DATA_DIR = "~/tensorflow_datasets"  # TFDS's own default
OWN = ("sources",)
SEPARATOR = b"\0"  # between documents


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Bytes of each split, and the sha256 of all of them in the order train, validation, test."""

    splits: dict[str, np.ndarray]
    sha256: str


@functools.cache
def open_tokens(corpus: str, data_dir: str) -> Tokens:
    """The corpus as memory maps, prepared and tokenised on first use; LookupError where there is no such corpus."""
    builder = _builder(corpus, data_dir)
    # Memory maps need a file system: for an object store they are kept beside TFDS's default.
    local = pathlib.Path(DATA_DIR if "://" in data_dir else data_dir).expanduser()
    # Named by what was prepared: a set prepared again with other content is tokenised again.
    prepared = hashlib.sha256((builder.data_path / "dataset_info.json").read_bytes()).hexdigest()[:12]
    folder = local / "bytes" / builder.info.full_name / prepared
    facts = folder / "facts.json"
    if not facts.exists():
        _tokenise(builder, folder)
    splits = {split: np.asarray(np.memmap(folder / f"{split}.bin", np.uint8, "r")) for split in SPLITS}
    return Tokens(splits, json.loads(facts.read_text())["sha256"])


def _builder(corpus: str, data_dir: str) -> Any:
    import tensorflow_datasets as tfds  # here, not above: only a task that reads text pays for it

    tfds.disable_progress_bar()
    if corpus == "sources":
        from suite.tasks.corpora import sources

        return sources.prepare(data_dir)
    root = data_dir if "://" in data_dir else str(pathlib.Path(data_dir).expanduser())
    prepare = f"pip install '.[tensorflow]' && tfds build {corpus} --file_format=array_record --data_dir={root}"
    try:
        builder = tfds.builder(corpus, data_dir=root)
    except tfds.core.DatasetNotFoundError as error:
        known = f"{', '.join(OWN)}, and any TFDS data set of text, prepared once by: {prepare}"
        raise LookupError(f"no corpus {corpus!r} under {root}; known: {known}") from error
    except ImportError as error:  # the catalogue's own code wants TensorFlow before there is prepared data
        raise LookupError(f"corpus {corpus!r} is not prepared under {root}; once: {prepare}") from error
    except ValueError as error:  # a malformed name or an unknown configuration: TFDS answers over many lines
        raise LookupError(f"cannot open corpus {corpus!r}: {str(error).splitlines()[0]}") from error
    if not builder.info.splits:
        raise LookupError(f"corpus {corpus!r} is not prepared under {root}; once: {prepare}")
    return builder


def _tokenise(builder: Any, folder: pathlib.Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    beside.mkdir()
    digest = hashlib.sha256()
    for split in SPLITS:
        with open(beside / f"{split}.bin", "wb") as file:
            for text in _texts(builder, split):
                file.write(text + SEPARATOR)
                digest.update(text + SEPARATOR)
    (beside / "facts.json").write_text(json.dumps({"sha256": digest.hexdigest(), "corpus": builder.info.full_name}))
    try:
        os.rename(beside, folder)
    except OSError:  # another process was first; what it wrote is the same
        if not (folder / "facts.json").exists():
            raise


def _texts(builder: Any, split: str) -> Iterator[bytes]:
    import tensorflow_datasets as tfds

    features = builder.info.features
    keys = [key for key, feature in features.items() if isinstance(feature, tfds.features.Text)]
    if not keys:
        raise LookupError(f"{builder.info.full_name} has no text feature; it has {', '.join(features)}")
    key = "text" if "text" in keys else keys[0]
    if "train" not in builder.info.splits:
        raise LookupError(f"{builder.info.full_name} has no split train; it has {', '.join(builder.info.splits)}")
    try:
        source = builder.as_data_source(_slices(list(builder.info.splits))[split])
    except NotImplementedError as error:
        raise LookupError(f"{builder.info.full_name} is not in array_record format; prepare it again so") from error
    except ValueError as error:  # TFDS has no empty slices
        raise LookupError(f"{builder.info.full_name} has too few documents to give some to {split}") from error
    for example in source:
        value = example[key]
        yield value if isinstance(value, bytes) else str(value).encode()


def _slices(there: list[str]) -> dict[str, str]:
    """Which slice of a catalogue set is which split: its own, and for a held-out one that it lacks the end of train."""
    lacking = [split for split in ("validation", "test") if split not in there]
    slices = {split: split for split in SPLITS}
    for number, split in enumerate(lacking):
        end = 100 - 5 * number
        slices[split] = f"train[{end - 5}%:{end}%]"
    if lacking:
        slices["train"] = f"train[:{100 - 5 * len(lacking)}%]"
    return slices
