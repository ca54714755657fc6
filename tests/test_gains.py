"""Planted models gain in the strata where they were made to; loss by position falls as far as was planted."""

import math
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from test_report import CPU, layers, put

from suite import report
from suite.job import Job
from suite.judging.gains import Gains, crossed_bootstrap
from suite.judging.positions import Curve, reach
from suite.judging.statistics import bootstrap, percentile_interval
from suite.measures import strata as measure
from suite.report import positions, records, strata, tested
from suite.report.page import Chart, Prose, Table
from suite.sweep.record import Row
from suite.tasks import Batch, corpora, text

JOB = Job(width=64, length=512, batch=8, steps=100)
ARMS = {"attention": JOB, "lstm": JOB.replace(mixer="lstm"), "gru": JOB.replace(mixer="gru")}
EXAMPLES = 256


@pytest.fixture(scope="module")
def task(data_dir: pathlib.Path) -> text.Task:
    return text.Task(JOB.length, 0, data_dir=str(data_dir))


@pytest.fixture(scope="module")
def batch(task: text.Task) -> Batch:
    return task.batch("test", np.arange(EXAMPLES))


@pytest.fixture(scope="module")
def documents(data_dir: pathlib.Path) -> list[bytes]:
    return corpora.open_tokens("sources", str(data_dir)).splits["train"].tobytes().split(b"\0")


def bigram(documents: list[bytes]) -> np.ndarray:
    """Nats of a byte after another, from counts."""
    text_N = np.frombuffer(b"\0".join(documents), np.uint8)
    count_VV = np.ones((256, 256))
    np.add.at(count_VV, (text_N[:-1], text_N[1:]), 1)
    return -np.log(count_VV / count_VV.sum(axis=1, keepdims=True))


def copied(batch: Batch, nats_BT: np.ndarray, sure: float = 0.9) -> np.ndarray:
    """Nats of a model that is sure of the byte that last followed these seven bytes in the window, and else as good."""
    copied_BT = nats_BT.copy()
    for row, (tokens_T, targets_T) in enumerate(zip(batch.tokens_BT, batch.targets_BT, strict=True)):
        window, followed = bytes([*tokens_T, targets_T[-1]]), {}
        for target in range(7, len(window)):
            seven = window[target - 7 : target]
            if seven in followed:
                is_next = followed[seven] == window[target]
                chance = sure * is_next + (1 - sure) * math.exp(-nats_BT[row, target - 1])
                copied_BT[row, target - 1] = -math.log(chance)
            followed[seven] = window[target]
    return copied_BT


def scored(task: text.Task, batch: Batch, nats_BT: np.ndarray) -> list[Row]:
    """The rows of a model by its nats, as of a rig's answers."""

    def answers() -> Iterator[tuple[np.ndarray, ...]]:
        for ids_B in np.arange(EXAMPLES).reshape(-1, JOB.batch):
            yield ids_B, nats_BT[ids_B], np.zeros_like(nats_BT[ids_B]), batch.weights_BT[ids_B]

    return list(measure.score(task, answers()))


def compared(rows: dict[str, list[Row]]) -> dict[str, strata.Pair]:
    """Each other arm beside attention, of one seed."""
    pairs = strata.pairs_of(tested.Tested(JOB, {arm: {0: of_arm} for arm, of_arm in rows.items()}))
    return {pair.arm: pair for pair in pairs}


def test_a_model_that_only_copies_gains_where_a_run_is_continued_and_nowhere_else(
    task: text.Task, batch: Batch, documents: list[bytes]
) -> None:
    nats_BT = bigram(documents)[batch.tokens_BT, batch.targets_BT]
    rows = {"attention": scored(task, batch, copied(batch, nats_BT)), "lstm": scored(task, batch, nats_BT)}
    pair = compared(rows)["lstm"]
    continued, broken, new = (("repetition", name) for name in ("continued", "broken", "new"))
    assert pair.difference(continued).low > 1.5
    assert pair.share(continued).low > 1.0
    # It pays for what it was sure of, and is the same wherever nothing can be copied.
    assert pair.difference(broken) == pytest.approx([-math.log(10)] * 3)
    assert pair.difference(new) == (0, 0, 0)
    assert '"continued" of repetition, which has 19 % of the bytes' in pair.sentence
    assert sum(pair.share(("repetition", name)).value for name in pair.strata["repetition"]) == pytest.approx(1)
    # Names that were used before are runs that stood before; those that were not, hardly.
    assert pair.difference(("names", "reused_within_64")).low > 5 * pair.difference(("names", "first_use")).high


def test_a_bigram_model_gains_nowhere_over_its_twin_and_nothing_over_itself(
    task: text.Task, batch: Batch, documents: list[bytes]
) -> None:
    one, twin = (bigram(half)[batch.tokens_BT, batch.targets_BT] for half in (documents[::2], documents[1::2]))
    rows = {"attention": scored(task, batch, one), "lstm": scored(task, batch, twin), "gru": scored(task, batch, one)}
    pairs = compared(rows)
    assert "attention and the LSTM read the test alike" in pairs["lstm"].sentence
    for stratum in strata.every(pairs["lstm"].strata):
        assert pairs["gru"].difference(stratum) == (0, 0, 0)
        if pairs["lstm"].share_of_bytes(stratum) > 0.01:
            assert abs(pairs["lstm"].difference(stratum).value) < 0.05
    _, low, high = pairs["lstm"].difference(("repetition", "continued"))
    assert low < 0 < high


def planted_files(rng: np.random.Generator, gain: float, seeds: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nats of one arm and of another and targets, of 100 files that differ in size, in hardness and in the gain."""
    targets_FS = rng.poisson(rng.lognormal(4, 1, (100, 1)) * [1.0, 0.2]) + 1.0
    hardness_FS, gain_FS = rng.normal(2, 0.8, (100, 1)), rng.normal(gain, 0.3, (100, 2))
    nats_MFS = targets_FS * (hardness_FS + rng.normal(0, 0.02, (seeds, 100, 2)))
    return nats_MFS, nats_MFS + targets_FS * gain_FS, np.broadcast_to(targets_FS, nats_MFS.shape)


def test_the_paired_interval_covers_a_planted_difference_in_19_of_20() -> None:
    rng = np.random.default_rng(0)
    covered, narrower = [], []
    for _ in range(200):
        ours_MFS, theirs_MFS, targets_MFS = planted_files(rng, 0.2)
        gains = Gains(theirs_MFS - ours_MFS, targets_MFS)
        for interval in (gains.whole, gains.of_stratum(0), gains.of_stratum(1)):
            covered.append(interval.low <= 0.2 <= interval.high)
        unpaired = np.subtract(
            *(
                crossed_bootstrap(np.concatenate([nats, targets_MFS], axis=2), 200, seed)
                @ [1, 1, 0, 0]
                / targets_MFS.sum()
                for seed, nats in enumerate((theirs_MFS, ours_MFS))
            )
        )
        narrower.append((gains.whole.high - gains.whole.low) / np.ptp(np.quantile(unpaired, [0.025, 0.975])))
    # Percentiles of 100 uneven files cover a little less than they say.
    assert 0.90 <= np.mean(covered) <= 0.98
    assert np.median(narrower) < 0.3


def test_a_file_is_drawn_for_every_seed_at_once() -> None:
    """Seeds share the files: three that agree are no more files than one."""
    values_FC = np.random.default_rng(0).normal(1, 1, (50, 1))
    widths = {}
    for name, sums_RC in {
        "one seed": crossed_bootstrap(values_FC[None]),
        "three": crossed_bootstrap(np.stack([values_FC] * 3)) / 3,
        "three, files apart": bootstrap([values_FC] * 3) * 50,
    }.items():
        _, low, high = percentile_interval(0.0, sums_RC[:, 0])
        widths[name] = high - low
    assert widths["three"] == pytest.approx(widths["one seed"], rel=0.15)
    assert widths["three, files apart"] < 0.8 * widths["one seed"]


def test_shares_of_a_difference_that_is_not_clear_are_refused() -> None:
    ours_MFS, theirs_MFS, targets_MFS = planted_files(np.random.default_rng(0), 0.0)
    gains = Gains(theirs_MFS - ours_MFS, targets_MFS)
    with pytest.raises(ValueError, match=r"no shares of a gain of .* whose interval holds 0"):
        gains.share(0)
    with pytest.raises(ValueError, match="an interval over documents needs two; got 1"):
        Gains(np.ones((3, 1, 2)), np.ones((3, 1, 2)))


def test_the_section_has_a_sentence_a_figure_and_a_line_for_each_stratum(
    tmp_path: pathlib.Path, task: text.Task, batch: Batch, documents: list[bytes]
) -> None:
    nats_BT = bigram(documents)[batch.tokens_BT, batch.targets_BT]
    plain = [row for row in scored(task, batch, nats_BT) if row["turn"] < 12]
    copying = [row for row in scored(task, batch, copied(batch, nats_BT)) if row["turn"] < 12]
    for arm, rows in {"attention": copying, "lstm": plain, "gru": plain}.items():
        put(tmp_path, ARMS[arm], "strata", rows, CPU)
    page = report.write(tmp_path)
    blocks = list(strata.strata(records.read(tmp_path)))
    [chart] = [block for block in blocks if isinstance(block, Chart)]
    [table] = [block for block in blocks if isinstance(block, Table)]
    _, sentence, *_ = [block.text for block in blocks if isinstance(block, Prose)]
    assert "by which attention reads the test better than the LSTM" in sentence
    assert table.columns[2:] == ("lstm less attention", "share of it", "gru less attention", "share of it")
    strata_of_rows = {(row["partition"], row["stratum"]) for row in plain}
    assert len(table.rows) == 1 + len(strata_of_rows)
    [dots] = layers(chart.spec, type="circle")
    assert len(dots) == 2 * len(strata_of_rows)
    assert (page.parent / "figures" / "strata_1.png").exists()
    assert "strata (not judged)" not in (page.parent / "report.md").read_text()


def test_one_arm_alone_has_no_gain(task: text.Task, batch: Batch) -> None:
    assert not compared({"attention": scored(task, batch, np.ones((EXAMPLES, JOB.length)))})


def test_a_seed_with_other_targets_is_in_no_pair(task: text.Task, batch: Batch) -> None:
    rows = scored(task, batch, np.ones((EXAMPLES, JOB.length)))
    changed = [rows[0] | {"targets": rows[0]["targets"] + 1}, *rows[1:]]
    assert not compared({"attention": rows, "lstm": changed})
    assert compared({"attention": rows, "lstm": rows})


HIGHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
FALLS = [3.0 - 0.2 * bin_ for bin_ in range(len(HIGHS))]


def stops(at: int, after: float = 0.0) -> Callable[[int], float]:
    """Loss that falls by 0.2 nats a bin as far as a position, and from there on by `after`."""
    bin_ = HIGHS.index(at)
    return lambda index: FALLS[min(index, bin_)] - after * max(0, index - bin_)


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        (stops(64), 64),
        (stops(64, after=0.001), 64),
        (stops(64, after=0.02), 2048),  # small gains in every bin are gains
        (stops(512, after=-1.0), 512),  # beyond the trained length it gets worse
        (stops(1, after=-1.0), 1),
        (stops(2048), 2048),
    ],
)
def test_the_reach_is_where_the_loss_falls_no_more(loss: Callable[[int], float], wanted: int) -> None:
    assert reach(np.asarray([[loss(bin_) for bin_ in range(len(HIGHS))]]), HIGHS) == [wanted]


def test_the_interval_of_a_reach_is_over_seeds() -> None:
    rng = np.random.default_rng(0)
    planted = [[stops(at)(bin_) for bin_ in range(len(HIGHS))] for at in (64, 64, 128)]
    members = tuple(rng.normal(losses, 0.002, (32, len(HIGHS))) for losses in planted)
    assert Curve(HIGHS, members[:2]).reach() == (64, 64, 64)
    value, low, high = Curve(HIGHS, members).reach()
    assert (low, high) == (64, 128)
    assert value == 128


def put_positions(root: pathlib.Path, job: Job, loss: Callable[[int], float], seed: int, knob: str = "") -> None:
    noise_GK = np.random.default_rng(seed).normal(0, 0.002, (32, len(HIGHS)))
    rows: list[Row] = [
        {"phase": "position", "low": high // 2 + 1, "high": high, "turn": group, "targets": 8 * high}
        | {"loss": loss(bin_) + noise_GK[group, bin_]}
        for group in range(32)
        for bin_, high in enumerate(HIGHS)
    ]
    remedy = f",remedy={knob}" if knob else ""
    put(root, job.replace(seed=seed), f"loss_by_position:longest=4{remedy}", rows, CPU)


def test_the_section_says_how_many_tokens_each_arm_reads_with_gain(tmp_path: pathlib.Path) -> None:
    for seed in (0, 1, 2):
        put_positions(tmp_path, ARMS["attention"], stops(512, after=-1.0), seed)
        put_positions(tmp_path, ARMS["lstm"], stops(64 if seed else 128), seed)
    put_positions(tmp_path, ARMS["gru"], stops(2048), 0)
    blocks = list(positions.positions(records.read(tmp_path)))
    [table] = [block for block in blocks if isinstance(block, Table)]
    [chart] = [block for block in blocks if isinstance(block, Chart)]
    by_arm = {row[0]: row[1:] for row in table.rows}
    assert by_arm["attention"][:2] == ("3", "512")
    assert by_arm["lstm"][:2] == ("3", "128 (95 % 64 to 128)")
    assert by_arm["gru"][:2] == ("1", "2,048"), "one seed has no interval"
    assert by_arm["attention"][3].startswith("+2.00 (95 % +")
    assert float(by_arm["gru"][3]) == pytest.approx(-0.4, abs=0.01)
    [_, sentence] = [block.text for block in blocks if isinstance(block, Prose)]
    assert "less than 0.01 nats a token are gained by attention after 512, " in sentence
    assert (
        "Without a remedy, and none was tried (launch.contexts --remedies), the mean loss changes from the bin that "
        "ends at 512 tokens to the one that ends at 2,048 by +2.00 (95 % +"
    ) in sentence
    [_, marks] = layers(chart.spec, type="circle")
    assert {mark["series"]: mark["x"] for mark in marks} == {"attention": 512, "lstm": 128, "gru": 2048}
