"""Strata: every byte of hand-written snippets has the kind that is spelt out beneath it."""

import pathlib

import numpy as np
import pytest

from suite.measures import strata as measure
from suite.tasks import corpora, text
from suite.tasks.corpora import strata
from suite.tasks.corpora.strata import STRATA

# A letter for each stratum.
LETTERS = {
    "syntax": dict(zip("#sndoc_/ .kE", STRATA["syntax"], strict=True)),
    "repetition": dict(zip("=x.", STRATA["repetition"], strict=True)),
    "names": dict(zip("f1234+.", STRATA["names"], strict=True)),
}

# The text, and a letter for each of its bytes: s string, n name, d digits, k keyword, o and c brackets, / newline, _
# indentation, a point for operators.
SNIPPETS = {
    "a function": (
        "def add(a, b=[1]):\n    return a + b  # the sum (of both)\n",
        "kkk nnnon. n.odcc./____kkkkkk n . n  ###################/",
    ),
    "strings with a prefix, an escape and a bracket": (
        "x = rb'(\\'' + f\"{a}\"\n",
        "n . sssssss . ssssss/",
    ),
    "a docstring over lines": (
        '"""One\n  "two" (x)\n"""\n1.5e3\n',
        "ssssssssssssssssssssss/ddddd/",
    ),
    "a string that does not end stops at the end of its line": (
        "'abc\nd\n",
        "ssss/n/",
    ),
    "# in a string is no comment, a quote in a comment no string": (
        "a['#'] # it's\nif b:\n\tc\n",
        "nosssc ######/kk n./_n/",
    ),
    "names with digits, and digits that are no name": (
        "_x1=0x1F;été=1_000\n",
        "nnn.dddd.nnnnn.ddddd/",
    ),
    "names that begin like a prefix": (
        "buf = f or rb\n",
        "nnn . n kk nn/",
    ),
}


def letters(partition: str, stratum_T: np.ndarray) -> str:
    names = {name: letter for letter, name in LETTERS[partition].items()}
    return "".join(names[[*STRATA[partition]][stratum]] for stratum in stratum_T)


def of_one_window(code: str, offset: int = 0) -> strata.Strata:
    """The strata of one document's bytes from an offset on, the zero byte that ends it included."""
    document = strata.of_document(code.encode(), python=True)
    text_N = np.frombuffer(code.encode() + b"\0", np.uint8)
    length = len(text_N) - offset - 1
    return strata.of_windows(text_N, np.array([0]), np.array([offset]), length, lambda _: document)


@pytest.mark.parametrize("name", SNIPPETS)
def test_every_byte_of_a_snippet_has_its_syntax(name: str) -> None:
    code, expected = SNIPPETS[name]
    document = strata.of_document(code.encode(), python=True)
    assert letters("syntax", document.syntax_N) == f"{expected}E"


def test_prose_has_words_digits_and_brackets_and_neither_strings_nor_comments() -> None:
    document = strata.of_document(b"Don't (in 1884)\n  # if\n", python=False)
    assert letters("syntax", document.syntax_N) == "nnn.n onn ddddc/__. nn/E"


def test_a_name_is_first_used_and_then_used_again_by_the_distance_of_the_uses() -> None:
    # Keywords, comments and strings hold no names; the target after the first byte is the window's first.
    code = "def add(left, right):\n    # left\n    if left: return 'left' + add(left)\n"
    told = "...fff.ffff..fffff..." + "." * 11 + ".......2222" + "." * 18 + "222.2222..."
    assert letters("names", of_one_window(code).of_partition["names"][0]) == told


def test_a_name_whose_last_use_lies_before_the_window_is_first_used_in_it() -> None:
    code = "ab=ab\nab\n"
    assert letters("names", of_one_window(code).of_partition["names"][0]) == "f.11.11.."
    assert letters("names", of_one_window(code, offset=1).of_partition["names"][0]) == ".ff.11.."
    # Its last use begins at 0, the window at 0: seen. From 3 on the window has the second use as its first.
    assert letters("names", of_one_window(code, offset=3).of_partition["names"][0]) == "f.11.."


@pytest.mark.parametrize(("between", "letter"), [(12, "1"), (13, "2"), (61, "3"), (253, "4"), (1021, "+")])
def test_distances_are_from_the_beginning_of_one_use_to_that_of_the_next(between: int, letter: str) -> None:
    names_T = of_one_window(f"abc{' ' * between}abc").of_partition["names"][0]
    assert letters("names", names_T) == f"ff{'.' * between}{letter * 3}."


def test_a_run_that_stood_in_the_window_is_continued_broken_or_new() -> None:
    # Seven bytes before a target tell whether it could be copied.
    text_S = np.frombuffer(b"abcdefgh-abcdefgh-abcdefgX", np.uint8)
    assert letters("repetition", strata.repetition(text_S[None])[0]) == "." * 15 + "==" + "=" * 7 + "x"


@pytest.mark.parametrize("length", [3, 7, 8, 9, 300])
def test_repetition_is_what_a_search_of_the_window_finds(length: int) -> None:
    windows_BS = np.random.default_rng(length).integers(97, 99, (4, length), np.uint8)
    for window_S, stratum_T in zip(windows_BS, strata.repetition(windows_BS), strict=True):
        window, told = window_S.tobytes(), letters("repetition", stratum_T)
        for target in range(1, length):
            run = window[target - 7 : target + 1] if target >= 7 else b""
            stood = run and run in window[:target]
            context_stood = run and run[:-1] in window[: target - 1]
            assert told[target - 1] == ("=" if stood else "x" if context_stood else ".")


def test_a_window_across_two_documents_reads_each_from_its_own_beginning() -> None:
    first, second = b"a = 'b\n", b"a = a # c\n"
    text_N = np.frombuffer(first + b"\0" + second + b"\0", np.uint8)
    documents = [strata.of_document(text, python=True) for text in (first, second)]
    read = strata.of_windows(text_N, np.array([0, 8]), np.array([2, 9]), 9, lambda number: documents[number])
    assert read.documents == 2
    np.testing.assert_array_equal(read.document_BT, [[0] * 5 + [1] * 4, [1] * 9])
    assert letters("syntax", read.of_partition["syntax"][0]) == " ss/En . "
    # The name of the first document is none of the second.
    assert letters("names", read.of_partition["names"][0]) == ".....f..."
    assert letters("names", read.of_partition["names"][1]) == "..f......"


def test_with_reset_a_run_of_an_earlier_document_is_new_and_one_of_its_own_is_continued() -> None:
    first, second = b"abcdefgh-", b"abcdefgh+abcdefgh"
    text_N = np.frombuffer(first + b"\0" + second + b"\0", np.uint8)
    documents = [strata.of_document(text, python=True) for text in (first, second)]
    told = {
        reset: strata.of_windows(
            text_N, np.array([0, 10]), np.array([0]), len(text_N) - 1, lambda number: documents[number], reset=reset
        ).of_partition
        for reset in (False, True)
    }
    before = "." * len(first)  # the targets after the first byte, and the end
    assert letters("repetition", told[False]["repetition"][0]) == before + "." * 7 + "=x" + "." * 7 + "=x"
    assert letters("repetition", told[True]["repetition"][0]) == before + "." * 16 + "=x"
    for partition in ("syntax", "names"):  # they never looked farther
        np.testing.assert_array_equal(told[True][partition], told[False][partition])


def test_with_reset_each_document_of_a_window_repeats_what_it_would_alone(data_dir: pathlib.Path) -> None:
    task, ids = text.Task(4096, 3, data_dir=str(data_dir)), np.arange(8)
    told_BT = task.strata("test", ids, reset=True).of_partition["repetition"]
    assert (told_BT != task.strata("test", ids).of_partition["repetition"]).any()
    batch = task.batch("test", ids)
    for window_S, told_T in zip(np.hstack([batch.tokens_BT[:, :1], batch.targets_BT]), told_BT, strict=True):
        pieces = np.split(window_S, np.flatnonzero(window_S[:-1] == 0) + 1)
        alone = [letters("repetition", strata.repetition(piece_S[None])[0]) for piece_S in pieces]
        assert letters("repetition", told_T) == ".".join(alone)  # a first byte repeats nothing


def test_strata_of_a_task_are_those_of_its_targets(data_dir: pathlib.Path) -> None:
    task = text.Task(512, 3, data_dir=str(data_dir))
    ids = np.arange(100)
    batch, read = task.batch("test", ids), task.strata("test", ids)
    tokens_N = corpora.open_tokens("sources", str(data_dir)).splits["test"]
    assert read.documents == len(corpora.ends(tokens_N)) == np.count_nonzero(tokens_N == 0)
    for kind, letters_of in (("opening_bracket", b"([{"), ("end", b"\0")):
        of_kind_BT = read.of_partition["syntax"] == [*STRATA["syntax"]].index(kind)
        assert np.isin(batch.targets_BT[of_kind_BT], [*letters_of]).all()
    ends_BT = batch.targets_BT == 0
    assert ends_BT.any()
    crossed_BT = np.diff(read.document_BT, axis=1) == 1
    np.testing.assert_array_equal(crossed_BT, ends_BT[:, :-1])


def test_the_documents_of_a_split_are_those_of_the_corpus(data_dir: pathlib.Path) -> None:
    tokens_N = corpora.open_tokens("sources", str(data_dir)).splits["test"]
    documents = tokens_N.tobytes().split(b"\0")[:-1]
    read = [text._document("sources", str(data_dir), "test", number) for number in range(len(documents))]
    assert [len(document.syntax_N) - 1 for document in read] == list(map(len, documents))


def test_every_stratum_has_targets_on_the_corpus(data_dir: pathlib.Path) -> None:
    task = text.Task(4096, 0, data_dir=str(data_dir))
    for partition, stratum_BT in task.strata("test", np.arange(64)).of_partition.items():
        assert np.bincount(stratum_BT.ravel(), minlength=len(STRATA[partition])).all(), partition


def answers_of(task: text.Task, nats_BT: np.ndarray):
    """As a rig gives them, in batches of eight."""
    for first in range(0, len(nats_BT), 8):
        ids_B = np.arange(first, first + 8)
        yield ids_B, nats_BT[ids_B], np.zeros_like(nats_BT[ids_B]), task.batch("test", ids_B).weights_BT


def test_each_partition_shares_out_all_nats_of_the_test(data_dir: pathlib.Path) -> None:
    task = text.Task(64, 3, data_dir=str(data_dir))
    nats_BT = np.random.default_rng(0).gamma(1.0, size=(40, 64)).astype(np.float32)
    rows = list(measure.score(task, answers_of(task, nats_BT)))
    for partition in STRATA:
        of_partition = [row for row in rows if row["partition"] == partition]
        assert sum(row["targets"] for row in of_partition) == nats_BT.size
        assert sum(row["nats"] for row in of_partition) == pytest.approx(nats_BT.sum(dtype=np.float64))
    ends = sum(row["targets"] for row in rows if row["stratum"] == "end")
    assert ends == np.count_nonzero(task.batch("test", np.arange(40)).targets_BT == 0)


def test_more_documents_than_blocks_share_them_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    class Task:
        def strata(self, split: str, ids: np.ndarray, *, reset: bool) -> strata.Strata:
            del split, reset
            zeros_BT = np.zeros((len(ids), 2), np.int8)
            return strata.Strata(10, np.stack([ids, ids], axis=1), dict.fromkeys(STRATA, zeros_BT))

    monkeypatch.setattr(measure, "BLOCKS", 4)
    ids_B, ones_BT = np.arange(10), np.ones((10, 2), np.float32)
    rows = list(measure.score(Task(), [(ids_B, ones_BT, ones_BT, ones_BT)]))
    syntax = [(row["turn"], row["targets"]) for row in rows if row["partition"] == "syntax"]
    assert syntax == [(0, 6), (1, 4), (2, 6), (3, 4)]
