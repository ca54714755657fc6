"""Tasks in the manner of RULER: what is due can be read off the tokens by hand, and not guessed without them."""

import collections
import itertools
import re

import numpy as np
import pytest

from suite import parts
from suite.tasks import SPLITS

IDS = np.arange(200)


def build(spec: str, length: int):
    module, knobs = parts.load("suite.tasks", spec)
    return module.Task(length, 7, **knobs)


def answers(spec: str, length: int, split: str = "test"):
    """Of each example the tokens, where something is due, what, and how far back the first token lies that it needs."""
    task = build(spec, length)
    tokens_BT, targets_BT, weights_BT = task.batch(split, IDS)
    assert set(np.unique(weights_BT)) <= {0, 1}
    for tokens_T, targets_T, weights_T, distances_T in zip(
        tokens_BT, targets_BT, weights_BT, task.distances(split, IDS), strict=True
    ):
        at = np.flatnonzero(weights_T)
        yield tokens_T.tolist(), at.tolist(), targets_T[at].tolist(), distances_T[at].tolist()


def pairs_of(tokens: list[int], is_left, is_right) -> list[tuple[int, int, int]]:
    """Each pair of neighbours of these kinds, with the place of the first."""
    neighbours = itertools.pairwise(tokens)
    return [(at, left, right) for at, (left, right) in enumerate(neighbours) if is_left(left) and is_right(right)]


NEEDLES = {
    "needle": (1, 1, 1),
    "needle:vocab=16": (1, 1, 1),
    "needle:depth=0.5": (1, 1, 1),
    "needle:keys=6": (6, 1, 1),
    "needle:keys=6,queries=6": (6, 1, 6),
    "needle:keys=4,queries=3,depth=0.0": (4, 1, 3),
    "needle:values=4": (1, 4, 1),
    "needle:keys=3,values=4,queries=2,depth=1.0": (3, 4, 2),
}


@pytest.mark.parametrize("length", [48, 150])
@pytest.mark.parametrize("spec", NEEDLES)
def test_all_values_of_a_key_are_due_in_the_order_of_the_hay(spec: str, length: int) -> None:
    keys, values, queries = NEEDLES[spec]
    quarter = build(spec, length).vocab // 4
    for tokens, at, due, back in answers(spec, length):
        end = length - queries * values
        assert at == list(range(end, length))
        shown = collections.defaultdict(list)
        for place, key, value in pairs_of(
            tokens[:end], lambda token: token < quarter, lambda token: quarter <= token < 2 * quarter
        ):
            shown[key].append((place, value))
        assert [len(of_key) for of_key in shown.values()] == [values] * keys
        # Of what is shown, a model that reads needs the key and what it has answered so far.
        for query in range(queries):
            first = end + query * values
            wanted = shown[tokens[first]]
            assert due[query * values : (query + 1) * values] == [value for _, value in wanted]
            assert tokens[first + 1 : first + values] == [value for _, value in wanted][:-1]
            assert back[query * values : (query + 1) * values] == [
                first + number - place for number, (place, _) in enumerate(wanted)
            ]
        assert len({tokens[first] for first in range(end, length, values)}) == queries


@pytest.mark.parametrize(("depth", "place"), [("0.0", 0), ("1.0", 100 - 2 - 2)])
def test_a_needle_of_the_first_question_lies_at_the_depth_whatever_else_is_there(depth: str, place: int) -> None:
    for _, at, _, back in answers(f"needle:keys=5,queries=2,depth={depth}", 100):
        assert at[0] - back[0] == place


def test_needles_lie_everywhere_in_the_hay() -> None:
    task = build("needle:keys=3,values=2,queries=3", 40)
    ids = np.arange(4000)
    at_BN = np.arange(34, 40) - task.distances("train", ids)[:, -6:]
    counts = np.bincount(at_BN.ravel(), minlength=33)
    # 24,000 needles at 33 places: those at the ends have no neighbour on one side, and are a little more frequent.
    assert len(counts) == 33
    assert np.all(np.abs(counts - 24_000 / 33) < 0.25 * 24_000 / 33)
    in_order_BN = np.sort(at_BN, axis=1)
    assert np.all(in_order_BN[:, 1:] - in_order_BN[:, :-1] >= 2)


@pytest.mark.parametrize(
    "spec",
    [
        *("recall:pairs=8,queries=3", "recall:pairs=8,queries=8", "recall:pairs=1"),
        *("recall:pairs=8,queries=3,density=0.7", "recall:pairs=6,queries=2,distance=30,density=0.4"),
    ],
)
def test_recall_asks_for_some_of_the_pairs_and_the_others_distract(spec: str) -> None:
    task = build(spec, 64)
    asked = set()
    for tokens, at, due, back in answers(spec, 64):
        is_key = [1 <= token <= task.keys for token in tokens]
        first = is_key.index(True)
        shown = [(place, tokens[place], tokens[place + 1]) for place in range(first, first + 2 * task.pairs, 2)]
        value_of, place_of = ({key: of for *_, key, of in shown}, {key: place for place, key, _ in shown})
        assert len(value_of) == task.pairs
        assert [tokens[place] for place in at] == [tokens[place] for place in range(64) if is_key[place]][task.pairs :]
        assert len(at) == (task.queries or task.pairs)
        assert due == [value_of[tokens[place]] for place in at]
        assert back == [place - place_of[tokens[place]] for place in at]
        asked |= {(place_of[tokens[place]] - first) // 2 for place in at}
    assert asked == set(range(task.pairs)), "a pair that is never asked for is no distractor but filler"


@pytest.mark.parametrize(
    "spec",
    [
        *("variable_tracking", "variable_tracking:chains=1,hops=4", "variable_tracking:chains=4,hops=3,queries=4"),
        *("variable_tracking:chains=5,hops=0,queries=2", "variable_tracking:vocab=16,hops=1,queries=2,every=false"),
    ],
)
@pytest.mark.parametrize("length", [53, 200])
def test_a_variable_is_followed_through_its_chain(spec: str, length: int) -> None:
    task = build(spec, length)
    quarter = task.vocab // 4
    for tokens, at, due, back in answers(spec, length):
        end = length - task.queries
        value_of, begins, hops = {}, {}, {}
        wanted = {}  # what is due at each place
        assigned = pairs_of(tokens[:end], lambda token: token < quarter, lambda token: token < 2 * quarter)
        assert len(assigned) == task.chains * (task.hops + 1)
        for place, variable, right in assigned:  # one after another, as a program is run
            assert tokens[place + 2] >= 2 * quarter or place + 2 == end, "hay after each assignment"
            assert variable not in value_of
            value_of[variable] = value_of[right] if right < quarter else right
            begins[variable] = begins[right] if right < quarter else place
            hops[variable] = hops[right] + 1 if right < quarter else 0
            if right < quarter and task.every:
                wanted[place + 1] = right
        assert len(set(value_of.values())) == task.chains
        wanted |= {place: tokens[place] for place in range(end, length)}
        assert at == sorted(wanted)
        assert due == [value_of[wanted[place]] for place in at]
        assert back == [place - begins[wanted[place]] for place in at]
        assert [hops[token] for token in tokens[end:]] == [task.hops] * task.queries


COMMON = ["common_words", "common_words:common=1,ratio=2.0", "common_words:vocab=16,common=5,ratio=1.5"]


@pytest.mark.parametrize("length", [49, 64, 777])
@pytest.mark.parametrize("spec", COMMON)
def test_the_words_that_stand_there_most_often_are_due_in_their_order(spec: str, length: int) -> None:
    task = build(spec, length)
    for tokens, at, due, back in answers(spec, length):
        end = length - task.common
        assert at == list(range(end, length))
        assert tokens[end:] == [0, *due[:-1]]
        counts = collections.Counter(tokens[:end]).most_common()
        assert due == sorted(word for word, _ in counts[: task.common])
        (_, common), (_, other) = counts[task.common - 1], counts[task.common]
        assert counts[0][1] == common
        assert common > other
        assert common >= task.ratio * (other - 1), "so often as the others, the ratio times, but for rounding"
        assert back == at


def test_the_share_of_the_common_words_stays_as_the_length_grows() -> None:
    shares = [build("common_words", length).times / length for length in (256, 4096)]
    assert shares[0] == pytest.approx(shares[1], rel=0.05)


def most_frequent(due: list[int]) -> float:
    """The accuracy of the best answer that is the same for all examples."""
    return max(collections.Counter(due).values()) / len(due)


@pytest.mark.parametrize(
    ("spec", "chance"),
    [
        *(("needle", 1 / 16), ("needle:keys=4,queries=4", 1 / 16), ("needle:values=3", 1 / 16)),
        *(("recall:pairs=8,queries=2", 1 / 31), ("variable_tracking:every=false", 1 / 16)),
        *(("variable_tracking:vocab=32,every=false", 1 / 8), ("common_words:common=1", 1 / 31)),
    ],
)
def test_without_reading_no_answer_is_better_than_chance(spec: str, chance: float) -> None:
    task = build(spec, 64)
    ids = np.arange(4000)
    for split in SPLITS:
        _, targets_BT, weights_BT = task.batch(split, ids)
        due = targets_BT[weights_BT > 0]
        # Of 4,000 or more answers, none comes more often than chance by five standard deviations.
        assert abs(most_frequent(due.tolist()) - chance) < 5 * (chance / len(due)) ** 0.5
        assert len(np.unique(due)) == round(1 / chance)


@pytest.mark.parametrize("chains", [2, 4])
def test_without_following_the_chain_a_value_that_is_there_is_right_once_in_so_many_chains(chains: int) -> None:
    task = build(f"variable_tracking:chains={chains}", 64)
    tokens_BT, targets_BT, _ = task.batch("test", np.arange(4000))
    is_value_BT = (tokens_BT >= 16) & (tokens_BT < 32)
    first_B, last_B = np.argmax(is_value_BT, axis=1), 63 - np.argmax(is_value_BT[:, ::-1], axis=1)
    row_B = np.arange(4000)
    for guess_B in (tokens_BT[row_B, first_B], tokens_BT[row_B, last_B]):
        assert abs(np.mean(guess_B == targets_BT[:, -1]) - 1 / chains) < 5 * 0.5 / 4000**0.5


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("needle:keys=2,queries=3", "3 queries need as many keys; there are 2"),
        ("needle:keys=6,values=3", "18 needles need as many values; vocab 64 has 16"),
        ("needle:keys=16,queries=16", "16 needles and 16 answers need 48 tokens; length is 40"),
        ("needle:values=0", "needle:values wants 1 to 65536; got 0"),
        ("recall:pairs=4,queries=5", "5 queries need as many pairs; there are 4"),
        ("variable_tracking:chains=2,queries=3", "3 queries need as many chains; there are 2"),
        ("variable_tracking:chains=6,hops=2", "18 assignments need as many variables; vocab 64 has 16"),
        ("variable_tracking:chains=4,hops=3", "16 assignments and 1 queries need 49 tokens; length is 40"),
        ("common_words:common=31", "common 31 wants at least 1, and fewer than the 31 words"),
        ("common_words:ratio=1.0", "ratio 1.0 wants more than 1: how much more often a common word stands there"),
        (
            "common_words:vocab=16,common=12,ratio=3.0",
            "length 40 has no room for 12 common words that stand there 3 times as often as each of 3 others",
        ),
    ],
)
def test_knobs_that_do_not_fit_are_refused(spec: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        build(spec, 40)
