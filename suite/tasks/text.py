"""Language modelling on real text: bytes as tokens, windows at random offsets of a TensorFlow Datasets corpus."""

import dataclasses
from typing import ClassVar

import numpy as np

from suite.tasks import Batch, CounterGenerator, corpora


@dataclasses.dataclass(frozen=True)
class Task:
    """Next-byte prediction. `corpus` is `sources` (this project's own builder) or any TFDS name, as in lm1b or pg19."""

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
        tokens_N = corpora.open_tokens(self.corpus, self.data_dir).splits[split]
        last = np.uint64(len(tokens_N) - self.length)
        offset_B1 = (CounterGenerator(self.seed, split, ids).bits(1) % last).astype(np.int64)
        windows_BS = tokens_N[offset_B1 + np.arange(self.length + 1)[None]].astype(np.int32)
        weights_BT = np.ones((len(windows_BS), self.length), np.float32)
        return Batch(windows_BS[:, :-1], windows_BS[:, 1:], weights_BT)

    def distances(self, split: str, ids: np.ndarray) -> np.ndarray:
        """All that there is of the text may be needed."""
        del split
        return np.tile(np.arange(self.length, dtype=np.int32), (len(ids), 1))
