"""Python sources of packages that constraints.txt pins to one version on every Python: real text on every machine."""

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds

from suite.tasks import SPLITS

PACKAGES = ("equinox", "optax", "orbax-checkpoint", "tensorflow-datasets")
SHINGLE = 8  # consecutive non-blank lines; a run this long in two splits would be the same text twice


class Sources(tfds.core.GeneratorBasedBuilder):
    """One document a file. Split by file; what a held-out file shares with an earlier split is taken out of it."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"path": tfds.features.Text(), "text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, description=__doc__, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, str]]]]:
        del dl_manager  # nothing is downloaded
        return {split: _examples(documents) for split, documents in split_documents(read_documents()).items()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, str]]]:
        raise NotImplementedError  # abstract in TFDS, and not called where the split generators are iterators


def prepare(data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of the installed versions, prepared under `data_dir` if it is not there yet."""
    versions = [f"{name}-{importlib.metadata.version(name)}" for name in PACKAGES]
    config = tfds.core.BuilderConfig(name=hashlib.sha256(" ".join(versions).encode()).hexdigest()[:12])
    root = data_dir if "://" in data_dir else str(pathlib.Path(data_dir).expanduser())
    make = functools.partial(Sources, data_dir=root, file_format="array_record", config=config)
    builder = make()
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it downloads, and it does not
        try:
            builder.download_and_prepare()
        except FileExistsError:  # another worker was first; what it wrote is the same
            return make()
    return builder


def read_documents() -> list[tuple[str, str]]:
    """(path, text) of every Python file of the packages, by path."""
    documents = []
    for name in PACKAGES:
        for path in importlib.metadata.files(name) or []:
            if path.suffix == ".py":
                documents.append((path.as_posix(), path.read_text(encoding="utf-8")))
    return sorted(documents)


def split_documents(documents: Iterable[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """Ninety, five and five in a hundred files, by a hash of the path; no shingle stands in two splits."""
    by_split: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    for path, text in documents:
        bucket = hashlib.sha256(path.encode()).digest()[0] * 100 // 256
        by_split["train" if bucket < 90 else "validation" if bucket < 95 else "test"].append((path, text))
    seen: set[bytes] = set()
    for split in SPLITS:
        kept = [(path, _without(text, seen)) for path, text in by_split[split]] if seen else by_split[split]
        by_split[split] = [(path, text) for path, text in kept if text.strip()]
        for _, text in by_split[split]:
            seen.update(digest for digest, _ in shingles(text.splitlines()))
    return by_split


def shingles(lines: list[str]) -> Iterator[tuple[bytes, range]]:
    """Digest of every run of SHINGLE non-blank lines, and where in `lines` it stands."""
    full = [index for index, line in enumerate(lines) if line.strip()]
    for first in range(len(full) - SHINGLE + 1):
        run = full[first : first + SHINGLE]
        text = "\n".join(lines[index].strip() for index in run)
        yield hashlib.blake2b(text.encode(), digest_size=8).digest(), range(run[0], run[-1] + 1)


def _without(text: str, seen: set[bytes]) -> str:
    """The text less every line of a run that was seen; again, since what is left closes up to new runs."""
    lines = text.splitlines()
    while shared := {index for digest, where in shingles(lines) if digest in seen for index in where}:
        lines = [line for index, line in enumerate(lines) if index not in shared]
    return "\n".join(lines) + "\n" if lines else ""


def _examples(documents: list[tuple[str, str]]) -> Iterator[tuple[str, dict[str, str]]]:
    for path, text in documents:
        yield path, {"path": path, "text": text}
