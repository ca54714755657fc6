"""Tasks: functions from example ids to examples."""

import hashlib
import importlib.metadata
import itertools
import pathlib
import re

import numpy as np
import pytest

from suite import parts
from suite.tasks import SPLITS, Batch, corpora

NAMES = parts.names("suite.tasks")
SPECS = [*NAMES, "recall:pairs=1", "recall:vocab=16,pairs=4"]
LENGTH, SEED = 48, 5
IDS = np.array([3, 0, 11, 7, 2_000_000_000, 12])


def build(spec: str, data_dir: pathlib.Path, length: int = LENGTH, seed: int = SEED):
    module, knobs = parts.load("suite.tasks", spec)
    fields = module.Task.__dataclass_fields__
    where = {"data_dir": str(data_dir)} if "data_dir" in fields else {}
    return module.Task(length, seed, **where, **knobs)


def assert_same(actual: Batch, wanted: Batch):
    for left, right in zip(actual, wanted, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("spec", SPECS)
def test_a_batch_has_the_shapes_and_dtypes_of_a_batch(spec: str, data_dir: pathlib.Path):
    task = build(spec, data_dir)
    for split in SPLITS:
        batch = task.batch(split, IDS)
        assert [part.shape for part in batch] == [(len(IDS), LENGTH)] * 3
        assert [part.dtype for part in batch] == [np.int32, np.int32, np.float32]
        for tokens_BT in (batch.tokens_BT, batch.targets_BT):
            assert tokens_BT.min() >= 0
            assert tokens_BT.max() < task.vocab
        assert np.all(batch.weights_BT.sum(axis=1) > 0)


@pytest.mark.parametrize("spec", SPECS)
def test_an_example_depends_on_its_id_only(spec: str, data_dir: pathlib.Path):
    task, again = build(spec, data_dir), build(spec, data_dir)
    whole = task.batch("train", IDS)
    order = np.array([4, 1, 5, 0, 3, 2])
    assert_same(again.batch("train", IDS[order]), Batch(*(part[order] for part in whole)))
    for first, last in ((0, 1), (1, 3), (3, 6)):
        assert_same(again.batch("train", IDS[first:last]), Batch(*(part[first:last] for part in whole)))


@pytest.mark.parametrize("spec", SPECS)
def test_ids_splits_and_seeds_give_different_examples(spec: str, data_dir: pathlib.Path):
    task = build(spec, data_dir)
    batches = [task.batch(split, IDS) for split in SPLITS] + [build(spec, data_dir, seed=6).batch("train", IDS)]
    examples = {
        row.tobytes() for batch in batches for row in np.concatenate([batch.tokens_BT, batch.targets_BT], axis=1)
    }
    assert len(examples) == len(batches) * len(IDS)


# Recall.


@pytest.mark.parametrize("spec", ["recall", "recall:pairs=1", "recall:vocab=17,pairs=8", "recall:pairs=12"])
def test_recall_asks_for_the_value_of_a_key_that_was_shown(spec: str, tmp_path: pathlib.Path):
    task = build(spec, tmp_path)
    batch = task.batch("train", np.arange(50))
    for tokens_T, targets_T, weights_T in zip(*batch, strict=True):
        shown = dict(zip(tokens_T[0 : 2 * task.pairs : 2], tokens_T[1 : 2 * task.pairs : 2], strict=True))
        asked = np.flatnonzero(weights_T)
        assert len(shown) == len(asked) == task.pairs
        assert {tokens_T[at] for at in asked} == shown.keys()
        assert all(shown[tokens_T[at]] == targets_T[at] for at in asked)
        assert not np.any(targets_T[weights_T == 0])
        assert set(np.unique(weights_T)) == {0.0, 1.0}
        # No token but a key is a key: what was not asked is filler.
        rest = np.setdiff1d(np.arange(2 * task.pairs, LENGTH), asked)
        assert not np.any(tokens_T[rest])
        assert max(shown) < min(shown.values())


def test_recall_asks_at_every_distance(tmp_path: pathlib.Path):
    task = build("recall:pairs=1", tmp_path)
    batch = task.batch("train", np.arange(600))
    distances = np.argmax(batch.weights_BT, axis=1)
    assert set(distances) == set(range(2, LENGTH, 2))
    # 23 places are drawn alike: of 600 draws 26 each, and none departs by five standard deviations.
    assert np.all(np.abs(np.bincount(distances)[2::2] - 600 / 23) < 5 * (600 / 23) ** 0.5)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("recall:pairs=13", "13 pairs and as many queries need 52 tokens; length is 48"),
        ("recall:vocab=16", "8 pairs need as many keys; vocab 16 has 7"),
        ("recall:pairs=0", "pairs 0 wants at least 1"),
    ],
)
def test_recall_refuses_more_pairs_than_fit(spec: str, said: str, tmp_path: pathlib.Path):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        build(spec, tmp_path)


# Text.


def test_text_is_windows_of_the_corpus_with_the_next_byte_as_target(data_dir: pathlib.Path):
    task = build("text", data_dir)
    for split in SPLITS:
        corpus = corpora.open_tokens("sources", str(data_dir)).splits[split].tobytes()
        batch = task.batch(split, IDS)
        np.testing.assert_array_equal(batch.tokens_BT[:, 1:], batch.targets_BT[:, :-1])
        assert np.all(batch.weights_BT == 1)
        for tokens_T, targets_T in zip(batch.tokens_BT, batch.targets_BT, strict=True):
            assert bytes([*tokens_T, targets_T[-1]]) in corpus


def test_windows_begin_anywhere_up_to_the_last(data_dir: pathlib.Path):
    n_bytes = len(corpora.open_tokens("sources", str(data_dir)).splits["test"])
    task = build("text", data_dir, length=n_bytes - 2)
    # Two offsets are possible, so both come within twenty draws but once in half a million.
    assert len({row.tobytes() for row in task.batch("test", np.arange(20)).tokens_BT}) == 2
    task = build("text", data_dir, length=n_bytes - 1)
    assert task.batch("test", np.arange(2)).targets_BT.shape == (2, n_bytes - 1)
    with pytest.raises(ValueError, match=f"length {n_bytes} is too long: split test of sources has {n_bytes} bytes"):
        build("text", data_dir, length=n_bytes)


def test_the_corpus_is_the_text_of_the_pinned_packages(data_dir: pathlib.Path):
    from suite.tasks.corpora import sources

    splits = corpora.open_tokens("sources", str(data_dir)).splits
    documents = sources.split_documents(sources.read_documents())
    for split in SPLITS:
        assert sorted(written("sources", data_dir)[split]) == sorted(text for _, text in documents[split])
    share = {split: len(tokens_N) / sum(map(len, splits.values())) for split, tokens_N in splits.items()}
    assert 0.85 < share["train"] < 0.97
    assert share["validation"] > 0.01
    assert share["test"] > 0.01


def test_the_sha256_is_that_of_the_bytes(data_dir: pathlib.Path):
    tokens = corpora.open_tokens("sources", str(data_dir))
    digest = hashlib.sha256(b"".join(tokens.splits[split].tobytes() for split in SPLITS)).hexdigest()
    assert build("text", data_dir).corpus_sha256 == tokens.sha256 == digest
    assert re.fullmatch("[0-9a-f]{64}", digest)


def test_no_run_of_lines_stands_in_two_splits():
    from suite.tasks.corpora import sources

    documents = sources.split_documents(sources.read_documents())
    seen = {
        split: {digest for _, text in documents[split] for digest, _ in sources.shingles(text.splitlines())}
        for split in SPLITS
    }
    assert all(seen.values())
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_what_a_held_out_file_shares_is_taken_out_of_it():
    from suite.tasks.corpora import sources

    inner, outer = [f"inner {line}" for line in range(8)], [f"outer {line}" for line in range(8)]
    # What is left when the inner lines are gone closes up to a run that was seen, too.
    around = [*outer[:4], "", *inner, *outer[4:]]
    lines = {"train": [*inner, *outer], "validation": around, "test": [*inner, *outer[:7]]}
    # Paths whose hash falls into each split; where they fall is not what is tested.
    paths = {split: next(path for path in map(str, range(999)) if split_of(path) == split) for split in SPLITS}
    documents = [(paths[split], "\n".join([f"own {split}", *lines[split], f"end {split}"])) for split in SPLITS]
    kept = {split: found[0][1].splitlines() for split, found in sources.split_documents(documents).items()}
    assert kept["train"] == ["own train", *inner, *outer, "end train"]
    assert [line for line in kept["validation"] if line] == ["own validation", "end validation"]
    assert kept["test"] == ["own test", "end test"]


def split_of(path: str) -> str:
    from suite.tasks.corpora import sources

    return next(split for split, documents in sources.split_documents([(path, "text\n")]).items() if documents)


def test_constraints_pin_the_packages_of_the_corpus_to_one_version():
    from suite.tasks.corpora import sources

    pins = (pathlib.Path(__file__).parent.parent / "constraints.txt").read_text().splitlines()
    for name in sources.PACKAGES:
        assert f"{name}=={importlib.metadata.version(name)}" in pins, "no marker: every Python has the same text"


def test_an_unknown_corpus_names_the_known_ones(tmp_path: pathlib.Path):
    with pytest.raises(LookupError, match=r"^no corpus 'nosuchtext'[^\n]* known: sources[^\n]*$"):
        build("text:corpus=nosuchtext", tmp_path)


def test_an_unprepared_corpus_of_the_catalogue_says_how_to_prepare_it(tmp_path: pathlib.Path):
    wanted = (
        f"corpus 'lm1b' is not prepared under {tmp_path}; once: pip install .* && tfds build lm1b [^\n]*array_record"
    )
    with pytest.raises(LookupError, match=wanted):
        build("text:corpus=lm1b", tmp_path)


def prepare(folder: pathlib.Path, texts: dict[str, list[str]], key: str, file_format: str = "array_record") -> None:
    """A data set as the catalogue's are, under the name `tiny_tales`."""
    import tensorflow_datasets as tfds

    # Not registered: the reader must find it by what lies on the disk.
    class TinyTales(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"number": np.int64, key: tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in texts}

        def _generate_examples(self, split):
            for number, text in enumerate(texts[split]):
                yield number, {"number": number, key: text}

    TinyTales(data_dir=str(folder), file_format=file_format).download_and_prepare()


def written(corpus: str, data_dir: pathlib.Path) -> dict[str, list[str]]:
    """The documents of each split of a corpus that has been opened."""
    splits = corpora.open_tokens(corpus, str(data_dir)).splits
    return {split: splits[split].tobytes().decode().split("\0")[:-1] for split in SPLITS}


def test_a_catalogue_set_with_one_split_is_carved_into_three(tmp_path: pathlib.Path):
    tales = [f"tale {number}: " + "é" * 40 for number in range(200)]
    prepare(tmp_path, {"train": tales}, key="text")
    task = build("text:corpus=tiny_tales", tmp_path)
    assert task.batch("validation", IDS).tokens_BT.shape == (len(IDS), LENGTH)
    documents = written("tiny_tales", tmp_path)
    assert [len(documents[split]) for split in SPLITS] == [180, 10, 10]
    assert sorted(itertools.chain(*documents.values())) == sorted(tales)


def test_a_catalogue_set_with_three_splits_keeps_them(tmp_path: pathlib.Path):
    tales = {split: [f"{split} {number}: " + "words " * 20 for number in range(4)] for split in SPLITS}
    prepare(tmp_path, tales, key="story")
    build("text:corpus=tiny_tales", tmp_path)
    assert {split: sorted(documents) for split, documents in written("tiny_tales", tmp_path).items()} == tales
