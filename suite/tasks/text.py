"""Language modelling on real text: bytes as tokens, windows at random offsets of a TensorFlow Datasets corpus."""

import dataclasses
from typing import ClassVar

import numpy as np

from suite.tasks import Batch, corpora, generator


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
        last = len(tokens_N) - self.length
        offsets = [int(generator(self.seed, split, int(example)).integers(last)) for example in ids]
        windows_BS = np.stack([tokens_N[offset : offset + self.length + 1] for offset in offsets]).astype(np.int32)
        weights_BT = np.ones((len(offsets), self.length), np.float32)
        return Batch(windows_BS[:, :-1], windows_BS[:, 1:], weights_BT)
