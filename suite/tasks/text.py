"""Language modelling on real text: bytes as tokens, windows at random offsets of a TensorFlow Datasets corpus."""

import dataclasses
import functools
from typing import ClassVar

import numpy as np

from suite.tasks import Batch, CounterGenerator, corpora
from suite.tasks.corpora import strata
from suite.tasks.corpora.strata import Document, Strata

END = 0  # the byte that ends a document
READ_DOCUMENTS = 1024  # that are kept once their strata have been read


@dataclasses.dataclass(frozen=True)
class Task:
    """Next-byte prediction. `corpus` is `sources`, `packages` (built here) or any TFDS name, as in lm1b, c4 or pg19."""

    length: int
    seed: int
    corpus: str = "sources"
    data_dir: str = dataclasses.field(default=corpora.DATA_DIR)
    corpus_sha256: str = dataclasses.field(init=False)

    vocab: ClassVar[int] = 256

    def __post_init__(self) -> None:
        tokens = corpora.open_tokens(self.corpus, self.data_dir)
        for split, tokens_N in tokens.splits.items():
            if len(tokens_N) <= self.length:
                raise ValueError(
                    f"length {self.length} is too long: split {split} of {self.corpus} has {len(tokens_N)} bytes"
                )
        object.__setattr__(self, "corpus_sha256", tokens.sha256)

    def batch(self, split: str, ids: np.ndarray) -> Batch:
        tokens_N, offset_B = self._windows(split, ids)
        windows_BS = tokens_N[offset_B[:, None] + np.arange(self.length + 1)].astype(np.int32)
        weights_BT = np.ones((len(windows_BS), self.length), np.float32)
        return Batch(windows_BS[:, :-1], windows_BS[:, 1:], weights_BT)

    def distances(self, split: str, ids: np.ndarray) -> np.ndarray:
        """All that there is of the text may be needed."""
        del split
        return np.tile(np.arange(self.length, dtype=np.int32), (len(ids), 1))

    def strata(self, split: str, ids: np.ndarray, *, reset: bool = False) -> Strata:
        """The document of every target and its kinds; what `sources` and `packages` hold is read as Python.

        With `reset` nothing before a document counts as seen.
        """
        tokens_N, offset_B = self._windows(split, ids)
        read = functools.partial(_document, self.corpus, self.data_dir, split)
        starts_D = _starts(self.corpus, self.data_dir, split)
        return strata.of_windows(tokens_N, starts_D, offset_B, self.length, read, reset=reset)

    def _windows(self, split: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The bytes of the split, and where in them the window of each example begins."""
        tokens_N = corpora.open_tokens(self.corpus, self.data_dir).splits[split]
        last = np.uint64(len(tokens_N) - self.length)
        offset_B1 = (CounterGenerator(self.seed, split, ids).bits(1) % last).astype(np.int64)
        return tokens_N, offset_B1[:, 0]


@functools.cache
def _starts(corpus: str, data_dir: str, split: str) -> np.ndarray:
    """Where the documents of a split begin: at 0, and behind every zero byte but the last."""
    tokens_N = corpora.open_tokens(corpus, data_dir).splits[split]
    return np.concatenate([[0], corpora.ends(tokens_N)[:-1] + 1])


@functools.lru_cache(READ_DOCUMENTS)
def _document(corpus: str, data_dir: str, split: str, number: int) -> Document:
    """The kinds of the bytes of a document."""
    starts_D = _starts(corpus, data_dir, split)
    tokens_N = corpora.open_tokens(corpus, data_dir).splits[split]
    end = starts_D[number + 1] if number + 1 < len(starts_D) else len(tokens_N)
    return strata.of_document(tokens_N[starts_D[number] : end - 1].tobytes(), python=corpus in corpora.OWN)
