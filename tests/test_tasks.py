"""Tasks: functions from example ids to examples."""

import hashlib
import importlib.metadata
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from suite import parts
from suite.files import Damaged
from suite.tasks import SPLITS, Batch, CounterGenerator, corpora, parity, word_problem

NAMES = parts.names("suite.tasks")
SPECS = [
    *(*NAMES, "recall:pairs=1", "recall:vocab=16,pairs=4", "recall:pairs=3,distance=20,density=0.5"),
    *("needle:depth=0.5", "selective_copy:symbols=24", "word_problem:group=S5", "copy:vocab=3"),
]
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


@pytest.mark.parametrize("spec", SPECS)
def test_no_target_needs_what_lies_before_the_first_token(spec: str, data_dir: pathlib.Path):
    task = build(spec, data_dir)
    distances_BT = task.distances("validation", IDS)
    weights_BT = task.batch("validation", IDS).weights_BT
    assert distances_BT.dtype == np.int32
    assert distances_BT.shape == weights_BT.shape
    assert np.all((distances_BT >= 0) & (distances_BT <= np.arange(LENGTH)))
    assert not np.any(distances_BT[weights_BT == 0])


@pytest.mark.parametrize("name", [name for name in parts.names("suite.tasks") if name != "text"])
def test_the_example_in_a_docstring_is_an_example(name: str) -> None:
    module, _ = parts.load("suite.tasks", name)
    text = module.Task.__doc__ or ""
    head = re.search(r"example of (\d+) tokens(?: with (\S+))?;", text)
    assert head, "wanted in the docstring: An example of N tokens with knobs; and two lines, tokens and targets"
    length, knobs = head.groups()
    shown = [line.split() for line in re.findall(r"(?:tokens|targets) +([\d. ]+)\n", text)]
    task = module.Task(length=int(length), seed=0, **parts.knobs("suite.tasks", f"{name}:{knobs}" if knobs else name))
    examples = []
    for tokens_T, targets_T, weights_T in zip(*task.batch("train", np.arange(8)), strict=True):
        due = [str(target) if weight else "." for target, weight in zip(targets_T, weights_T, strict=True)]
        examples.append([list(map(str, tokens_T)), due])
    assert shown in examples


def test_draws_go_on_and_are_the_same_in_any_batch():
    draws = CounterGenerator(3, "test", IDS)
    first, second = draws.bits(5), draws.bits(7)
    np.testing.assert_array_equal(np.concatenate([first, second], axis=1), CounterGenerator(3, "test", IDS).bits(12))
    np.testing.assert_array_equal(first[2:3], CounterGenerator(3, "test", IDS[2:3]).bits(5))
    assert len(np.unique(CounterGenerator(3, "test", np.arange(1000)).bits(20))) == 20_000


def test_draws_are_even():
    drawn_BN = CounterGenerator(0, "train", np.arange(4000)).integers(10, 25)
    # 100,000 draws of ten values and of 250 pairs of place and value: within five standard deviations everywhere.
    assert np.all(np.abs(np.bincount(drawn_BN.ravel()) - 10_000) < 5 * 95)
    at_NV = np.stack([np.bincount(column, minlength=10) for column in drawn_BN.T])
    assert np.all(np.abs(at_NV - 400) < 5 * 19)
    sampled_BN = CounterGenerator(0, "train", np.arange(4000)).sample(8, 4)
    assert all(len(set(row)) == 4 for row in sampled_BN.tolist())
    assert np.all(np.abs(np.bincount(sampled_BN.ravel()) - 2000) < 5 * 42)


def test_bits_that_differ_in_one_id_differ_in_half_their_places():
    one, other = (CounterGenerator(0, "train", np.arange(2000) + shift).bits(1) for shift in (0, 1))
    changed = np.unpackbits((one ^ other).view(np.uint8)).mean()
    assert abs(changed - 0.5) < 5 * 0.5 / (2000 * 64) ** 0.5


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


def test_recall_at_a_distance_asks_exactly_there_and_anywhere_in_the_sequence(tmp_path: pathlib.Path):
    task = build("recall:pairs=3,distance=20", tmp_path)
    batch, distances_BT = task.batch("train", np.arange(400)), task.distances("train", np.arange(400))
    assert set(distances_BT[batch.weights_BT > 0]) == {20}
    asked_B3 = np.nonzero(batch.weights_BT)[1].reshape(-1, 3)
    row_B1 = np.arange(400)[:, None]
    np.testing.assert_array_equal(batch.tokens_BT[row_B1, asked_B3], batch.tokens_BT[row_B1, asked_B3 - 20])
    np.testing.assert_array_equal(batch.targets_BT[row_B1, asked_B3], batch.tokens_BT[row_B1, asked_B3 - 19])
    assert set(asked_B3[:, 0]) == set(range(20, LENGTH - 5 + 1))


def test_the_load_of_recall_stays_as_the_distance_grows(tmp_path: pathlib.Path):
    near, far = (build(f"recall:pairs=2,distance={k}", tmp_path).batch("train", np.arange(50)) for k in (4, 40))
    for batch in (near, far):
        assert np.all(np.count_nonzero(batch.tokens_BT, axis=1) == 6)


def test_noise_among_recall_is_of_no_key(tmp_path: pathlib.Path):
    task = build("recall:pairs=2,distance=24,density=0.5", tmp_path)
    batch = task.batch("train", np.arange(400))
    is_key_BT = (batch.tokens_BT >= 1) & (batch.tokens_BT <= task.keys)
    assert np.all(is_key_BT.sum(axis=1) == 4)
    shown = 2 * 2 + 2  # pairs and queries
    share = (np.count_nonzero(batch.tokens_BT, axis=1) - shown).mean() / (LENGTH - shown)
    assert abs(share - 0.5) < 0.05
    after_BT = batch.weights_BT[:, :-1] > 0
    assert not np.any(batch.tokens_BT[:, 1:][after_BT & ~is_key_BT[:, 1:]])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("recall:pairs=2,distance=3", "2 pairs lie between key and query: distance wants at least 4"),
        ("recall:pairs=2,distance=46", "2 pairs at distance 46 need 49 tokens; length is 48"),
        ("recall:density=1.5", "density 1.5 is a share, wanted 0 to 1"),
        ("copy:vocab=2", "vocab 2 wants a separator and at least two symbols"),
        ("selective_copy:symbols=25", "25 symbols and as many marks do not fit into length 48"),
        ("needle:depth=2.0", "depth 2.0 wants 0 to 1, or -1 to draw it"),
        ("word_problem:group=A6", "group 'A6' is not known; wanted one of A5, S5, Z60"),
        ("recall:pairs=13", "13 pairs and as many queries need 52 tokens; length is 48"),
        ("recall:vocab=16", "8 pairs need as many keys; vocab 16 has 7"),
        ("recall:pairs=0", "pairs 0 wants at least 1"),
    ],
)
def test_knobs_that_do_not_fit_are_refused(spec: str, said: str, tmp_path: pathlib.Path):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        build(spec, tmp_path)


# Copying.


def test_a_copy_is_the_string_once_more(tmp_path: pathlib.Path):
    for length in (LENGTH, LENGTH + 1):
        task = build("copy", tmp_path, length=length)
        batch = task.batch("train", np.arange(20))
        string_BS = batch.tokens_BT[:, :24]
        assert string_BS.min() >= 1
        np.testing.assert_array_equal(batch.targets_BT[:, 24:48], string_BS)
        np.testing.assert_array_equal(batch.tokens_BT[:, 24:48], np.pad(string_BS[:, :-1], ((0, 0), (1, 0))))
        np.testing.assert_array_equal(np.flatnonzero(batch.weights_BT[0]), np.arange(24, 48))
        assert set(task.distances("train", np.arange(20))[batch.weights_BT > 0]) == {24}


def test_selective_copy_wants_the_symbols_in_their_order(tmp_path: pathlib.Path):
    task = build("selective_copy:symbols=5", tmp_path)
    batch, distances_BT = task.batch("train", np.arange(40)), task.distances("train", np.arange(40))
    for tokens_T, targets_T, distances_T in zip(batch.tokens_BT, batch.targets_BT, distances_BT, strict=True):
        symbols = tokens_T[:43][tokens_T[:43] > 0]
        np.testing.assert_array_equal(targets_T[43:], symbols)
        assert np.all(tokens_T[43:] == 1)
        np.testing.assert_array_equal(tokens_T[np.arange(43, 48) - distances_T[43:]], symbols)


@pytest.mark.parametrize(("depth", "at"), [("0.0", {0}), ("0.5", {22}), ("1.0", {45}), ("-1.0", set(range(46)))])
def test_the_needle_lies_at_its_depth(depth: str, at: set[int], tmp_path: pathlib.Path):
    task = build(f"needle:depth={depth}", tmp_path)
    ids = np.arange(600)
    batch = task.batch("train", ids)
    at_B = LENGTH - 1 - task.distances("train", ids)[:, -1]
    assert set(at_B) == at
    np.testing.assert_array_equal(batch.tokens_BT[ids, at_B], batch.tokens_BT[:, -1])
    np.testing.assert_array_equal(batch.tokens_BT[ids, at_B + 1], batch.targets_BT[:, -1])
    assert np.all(np.sum((batch.tokens_BT < 32) & (batch.tokens_BT >= 16), axis=1) == 1)
    np.testing.assert_array_equal(batch.weights_BT.sum(axis=0), np.eye(LENGTH)[-1] * 600)


# State.


def test_parity_is_that_of_all_bits_so_far(tmp_path: pathlib.Path):
    batch = build("parity", tmp_path).batch("train", IDS)
    for tokens_T, targets_T in zip(batch.tokens_BT.tolist(), batch.targets_BT.tolist(), strict=True):
        assert tokens_T[0] == parity.START
        assert targets_T[1:] == [sum(tokens_T[1 : at + 1]) % 2 for at in range(1, LENGTH)]
    np.testing.assert_array_equal(batch.weights_BT.sum(axis=0), [0] + [len(IDS)] * (LENGTH - 1))


@pytest.mark.parametrize(("group", "size", "commutes"), [("A5", 60, False), ("S5", 120, False), ("Z60", 60, True)])
def test_a_group_is_a_group(group: str, size: int, commutes: bool):
    table_EE = word_problem.products(group)
    every = np.arange(size)
    assert table_EE.shape == (size, size)
    np.testing.assert_array_equal(table_EE[0], every)
    np.testing.assert_array_equal(table_EE[:, 0], every)
    assert all(len(set(row)) == size for row in table_EE.tolist())
    a, b, c = np.random.default_rng(0).integers(size, size=(3, 1000))
    np.testing.assert_array_equal(table_EE[table_EE[a, b], c], table_EE[a, table_EE[b, c]])
    assert np.array_equal(table_EE, table_EE.T) == commutes


def test_a_word_is_the_product_of_its_letters(tmp_path: pathlib.Path):
    task = build("word_problem", tmp_path)
    even = [p for p in itertools.permutations(range(5)) if sum(a > b for a, b in itertools.combinations(p, 2)) % 2 == 0]
    batch = task.batch("train", IDS)
    for tokens_T, targets_T in zip(batch.tokens_BT, batch.targets_BT, strict=True):
        place = list(range(5))
        assert tokens_T[0] == 60
        for token, target in zip(tokens_T[1:], targets_T[1:], strict=True):
            place = [even[token][at] for at in place]
            assert tuple(place) == even[target]


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


def test_packages_are_long_documents_of_whole_files_in_one_split(data_dir: pathlib.Path):
    from suite.tasks.corpora import sources

    files = sources.read_documents()
    packages = sources.join_by_package(files)
    lines = [line for _, text in packages for line in text.splitlines() if line.startswith("# ")]
    assert {f"# {path}" for path, _ in files} <= set(lines)
    assert sum(len(text) for _, text in packages) == sum(len(f"# {path}\n{text}") for path, text in files)
    assert min(len(text.encode()) for _, text in packages) >= sources.LEAST
    splits = sources.split_documents(packages)
    names = [name for split in SPLITS for name, _ in splits[split]]
    assert len(names) == len(set(names))
    shingles = [
        {digest for _, text in splits[split] for digest, _ in sources.shingles(text.splitlines())} for split in SPLITS
    ]
    assert all(shingles)
    assert not any(one & other for one, other in itertools.combinations(shingles, 2))
    assert {split: sorted(documents) for split, documents in written("packages", data_dir).items()} == {
        split: sorted(text for _, text in splits[split]) for split in SPLITS
    }


def test_most_windows_of_8192_bytes_lie_in_one_package(data_dir: pathlib.Path):
    shares = {}
    for corpus, split in itertools.product(("sources", "packages"), SPLITS):
        tokens_N = corpora.open_tokens(corpus, str(data_dir)).splits[split]
        length_D = np.diff(corpora.ends(tokens_N), prepend=-1)
        shares[corpus, split] = np.sum(np.maximum(0, length_D - 8191)) / (len(tokens_N) - 8191)
    # With the pinned versions 0.94, 0.92 and 0.93 of packages, and 0.33, 0.55 and 0.40 of sources.
    assert min(shares["packages", split] for split in SPLITS) > 0.9
    assert max(shares["sources", split] for split in SPLITS) < 0.6


def test_a_small_package_belongs_to_the_one_around_it():
    from suite.tasks.corpora import sources

    long = "x" * sources.LEAST
    files = [("a/b/c.py", "1\n"), ("a/b/d.py", "2\n"), ("a/e/f.py", long), ("a/z.py", "3\n"), ("g/h/i.py", "4\n")]
    assert sources.join_by_package(files) == [
        ("a", "# a/b/c.py\n1\n# a/b/d.py\n2\n# a/z.py\n3\n"),
        ("a/e", f"# a/e/f.py\n{long}"),
        ("g", "# g/h/i.py\n4\n"),
    ]


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


# Damage.


def tales(folder: pathlib.Path) -> pathlib.Path:
    """A data set of the catalogue with one file a split; returns the folder of its files."""
    prepare(folder, {split: [f"{split} {number}: " + "words " * 20 for number in range(9)] for split in SPLITS}, "text")
    return folder / "tiny_tales" / "1.0.0"


def open_anew(corpus: str, data_dir: pathlib.Path) -> corpora.Tokens:
    """As another process would; in memory, for what is done to the files is seen through their maps."""
    corpora.open_tokens.cache_clear()
    tokens = corpora.open_tokens(corpus, str(data_dir))
    return corpora.Tokens({split: tokens_N.copy() for split, tokens_N in tokens.splits.items()}, tokens.sha256)


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size - 7)


def write_records(path: pathlib.Path, records: list[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


HARMS = {
    "cut": cut,
    "a bit flipped": flip,
    "empty": lambda path: path.write_bytes(b""),
    "half a page": lambda path: path.write_bytes(b'{"fi'),
    "nothing in it": lambda path: path.write_bytes(b"{}"),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", ["train.bin", "test.bin", "manifest"])
def test_damaged_bytes_are_made_again_and_it_is_said(name: str, tmp_path: pathlib.Path, capsys):
    tales(tmp_path)
    whole = open_anew("tiny_tales", tmp_path)
    [folder] = (tmp_path / "bytes" / "tiny_tales" / "1.0.0").glob("????????????")
    path = folder / name if name != "manifest" else folder.with_name(f"{folder.name}.manifest")
    for how, harm in HARMS.items():
        harm(path)
        again = open_anew("tiny_tales", tmp_path)
        assert again.sha256 == whole.sha256, how
        for split in SPLITS:
            np.testing.assert_array_equal(again.splits[split], whole.splits[split], how)
        said = capsys.readouterr().err
        if (name, how) not in (("manifest", "missing"), ("manifest", "a bit flipped")):
            assert f"{folder} is damaged ({path.name}" in said, how
            assert "made again" in said


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut, "it has 0 examples, wanted 9"),
        (flip, "it has 0 examples, wanted 9"),
        (lambda path: path.write_bytes(b""), "it has 0 examples, wanted 9"),
        (lambda path: path.unlink(), "it has 0 examples, wanted 9"),
        (lambda path: write_records(path, [b""] * 8), "it has 8 examples, wanted 9"),
        (lambda path: write_records(path, [b""] * 10), "it has 10 examples, wanted 9"),
        (lambda path: write_records(path, [b""] * 9), "example 0 has no text"),  # and not the text "None"
        (lambda path: write_records(path, [b"noise" * 9] * 9), "[Pp]arsing"),
    ],
)
def test_a_damaged_file_of_a_catalogue_set_is_named(harm, said: str, tmp_path: pathlib.Path):
    [shard] = tales(tmp_path).glob("*train.array_record*")
    harm(shard)
    with pytest.raises(Damaged, match=f"^{shard} is damaged: [^\n]*{said}[^\n]*tfds build tiny_tales"):
        open_anew("tiny_tales", tmp_path)
    assert not list((tmp_path / "bytes").rglob("*.manifest"))


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("how", [how for how in HARMS if how not in ("cut", "a bit flipped")])
def test_a_damaged_description_of_a_catalogue_set_is_named(name: str, how: str, tmp_path: pathlib.Path):
    path = tales(tmp_path) / name
    HARMS[how](path)
    with pytest.raises(Damaged, match=f"^{path} is damaged: [^\n]*tfds build tiny_tales"):
        open_anew("tiny_tales", tmp_path)


def test_damaged_sources_are_prepared_again(data_dir: pathlib.Path, tmp_path: pathlib.Path, capsys):
    from suite.tasks.corpora import sources

    whole = open_anew("sources", data_dir)
    shutil.copytree(data_dir / "sources", tmp_path / "sources")
    [shard] = tmp_path.rglob("*train.array_record*")
    flip(shard)
    assert open_anew("sources", tmp_path).sha256 == whole.sha256
    assert f"{shard} is damaged: Corrupted" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "bytes")
    assert open_anew("sources", tmp_path).sha256 == whole.sha256
    assert not capsys.readouterr().err
    for how in ("half a page", "missing"):
        HARMS[how](sources.path("sources", str(tmp_path)) / "dataset_info.json")
        assert open_anew("sources", tmp_path).sha256 == whole.sha256
        assert "prepared again" in capsys.readouterr().err


# Runs a program in which root, as any other user, may write no more than the modes of files allow: without
# CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by PR_CAPBSET_DROP, which is refused where there is nothing to drop.
AS_A_USER = """
import ctypes, os, sys
for capability in (1, 2):
    ctypes.CDLL(None).prctl(24, capability)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("corpus", ["sources", "tiny_tales"])
def test_a_data_set_that_cannot_be_written_to_has_its_bytes_in_the_cache(
    corpus: str, data_dir: pathlib.Path, tmp_path: pathlib.Path
):
    there, cache = tmp_path / "there", tmp_path / "cache"
    there.mkdir()
    shutil.copytree(data_dir / "sources", there / "sources") if corpus == "sources" else tales(there)
    folders = [there, *(path for path in there.rglob("*") if path.is_dir())]
    code = f"from suite.tasks import corpora; print(corpora.open_tokens({corpus!r}, {str(there)!r}).sha256)"
    variables = os.environ | {"XDG_CACHE_HOME": str(cache)}
    try:
        for folder in folders:
            folder.chmod(0o555)
        argv = [sys.executable, "-c", AS_A_USER, sys.executable, "-c", code]
        ended = subprocess.run(argv, capture_output=True, text=True, env=variables, check=False)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert ended.returncode == 0, ended.stderr
    assert not (there / "bytes").exists()
    assert len(list((cache / "crossover" / "bytes").rglob("train.bin"))) == 1
    assert ended.stdout.strip() == open_anew(corpus, there).sha256


def test_workers_that_find_damaged_bytes_at_once_all_get_whole_ones(tmp_path: pathlib.Path):
    tales(tmp_path)
    whole = open_anew("tiny_tales", tmp_path)
    for path in (tmp_path / "bytes").rglob("*.bin"):
        cut(path)
    code = f"from suite.tasks import corpora; print(corpora.open_tokens('tiny_tales', {str(tmp_path)!r}).sha256)"
    workers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [worker.communicate()[0].strip() for worker in workers] == [whole.sha256] * 3
    np.testing.assert_array_equal(open_anew("tiny_tales", tmp_path).splits["train"], whole.splits["train"])


@pytest.mark.timeout(200)
def test_workers_that_prepare_one_corpus_at_once_all_get_it(tmp_path: pathlib.Path):
    code = f"from suite.tasks import corpora; print(corpora.open_tokens('sources', {str(tmp_path)!r}).sha256)"
    workers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert len(set(said)) == 1
