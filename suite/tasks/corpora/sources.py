"""Python sources of what constraints.txt pins to one version on every Python: real text on every machine.

The corpus `sources` has a document for each file, and `packages` one for each package: long documents.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from suite.files import Damaged
from suite.tasks import SPLITS

PACKAGES = ("equinox", "optax", "orbax-checkpoint", "tensorflow-datasets")
LEAST = 1 << 15  # bytes of a package's document: files of a smaller package belong to the package around it
SHINGLE = 8  # consecutive non-blank lines; a run this long in two splits would be the same text twice


class Sources(tfds.core.GeneratorBasedBuilder):
    """One document a file. Split by file; what a held-out file shares with an earlier split is taken out of it."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, str]]]]:
        del dl_manager  # nothing is downloaded
        return {split: _examples(documents) for split, documents in split_documents(read_documents()).items()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, str]]]:
        raise NotImplementedError  # abstract in TFDS, and not called where the split generators are iterators


class Packages(tfds.core.GeneratorBasedBuilder):
    """One document a package. Split by package; what a held-out one shares with an earlier split is taken out of it."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, str]]]]:
        del dl_manager
        documents = join_by_package(read_documents())
        return {split: _examples(of_split) for split, of_split in split_documents(documents).items()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, str]]]:
        raise NotImplementedError  # as in Sources


BUILDERS = {"sources": Sources, "packages": Packages}


def path(corpus: str, data_dir: str) -> epath.Path:
    """Where a corpus of the installed versions lies prepared."""
    return epath.Path(data_dir) / corpus / _config().name / str(BUILDERS[corpus].VERSION)


def prepare(corpus: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of the installed versions, prepared under `data_dir` if it is not there yet.

    Damaged where what is there cannot be read.
    """
    make = functools.partial(BUILDERS[corpus], data_dir=data_dir, file_format="array_record", config=_config())
    try:
        builder = make()
    except Exception as error:  # each library beneath TFDS has errors of its own
        raise Damaged(path(corpus, data_dir), " ".join(str(error).split())) from error
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it downloads, and it does not
        try:
            builder.download_and_prepare()
        except FileExistsError:  # another worker was first; what it wrote is the same
            return make()
    return builder


@contextlib.contextmanager
def prepared_again(corpus: str, root: pathlib.Path) -> Iterator[tfds.core.DatasetBuilder]:
    """A builder of a copy of its own, which afterwards takes the place of the one under `root`.

    Others may read or mend that one meanwhile, so nothing is read from there.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{corpus}.", dir=root) as beside:
        builder = prepare(corpus, beside)
        yield builder
        with contextlib.suppress(OSError):  # it is not there
            os.rename(path(corpus, str(root)), os.path.join(beside, "damaged"))
        with contextlib.suppress(OSError):  # another process has put its own there: the same
            os.rename(path(corpus, beside), path(corpus, str(root)))


def _config() -> tfds.core.BuilderConfig:
    versions = [f"{name}-{importlib.metadata.version(name)}" for name in PACKAGES]
    return tfds.core.BuilderConfig(name=hashlib.sha256(" ".join(versions).encode()).hexdigest()[:12])


def read_documents() -> list[tuple[str, str]]:
    """(path, text) of every Python file of the packages, by path."""
    documents = []
    for name in PACKAGES:
        for path in importlib.metadata.files(name) or []:
            if path.suffix == ".py":
                documents.append((path.as_posix(), path.read_text(encoding="utf-8")))
    return sorted(documents)


def join_by_package(files: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(package, text) of every package, by its folder: its files by path, each under a comment that names it.

    A package of fewer than LEAST bytes belongs to the one around it, where there is one.
    """
    of_folder: dict[str, list[tuple[str, str]]] = {}
    for path, text in files:
        folder = path.rpartition("/")[0]
        for around in (folder, *map(str, pathlib.PurePosixPath(folder).parents[:-1])):
            of_folder.setdefault(around, [])
        of_folder[folder].append((path, f"# {path}\n{text}"))
    documents = []
    for folder in sorted(of_folder, key=lambda folder: (-folder.count("/"), folder)):  # the innermost first
        joined = "".join(text for _, text in sorted(of_folder[folder]))
        around = folder.rpartition("/")[0]
        if around and len(joined.encode()) < LEAST:
            of_folder[around] += of_folder[folder]
        elif joined:
            documents.append((folder, joined))
    return sorted(documents)


def split_documents(documents: Iterable[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """Ninety, five and five in a hundred documents, by a hash of the path; no shingle stands in two splits."""
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


def _info(builder: tfds.core.DatasetBuilder) -> tfds.core.DatasetInfo:
    features = tfds.features.FeaturesDict({"path": tfds.features.Text(), "text": tfds.features.Text()})
    return tfds.core.DatasetInfo(builder=builder, description=type(builder).__doc__, features=features)


def _examples(documents: list[tuple[str, str]]) -> Iterator[tuple[str, dict[str, str]]]:
    for path, text in documents:
        yield path, {"path": path, "text": text}
