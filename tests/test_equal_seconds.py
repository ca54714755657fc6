"""Quality at equal seconds on planted arms: what they are read to gain is what was planted, and the report says it."""

import math
import pathlib
import re
from collections.abc import Iterator

import numpy as np
import pytest
from test_report import CPU, put

from suite import learning_rates, report
from suite.job import Job
from suite.judging import speedup
from suite.sweep.record import Row
from suite.training import course

BUDGET = 60.0
JOB = Job(task="text", width=64, depth=3, length=512, batch=2, steps=10**6, budget_seconds=BUDGET, validate_every=10**6)
LSTM = JOB.replace(mixer="lstm", match_to="attention")
HYBRID = JOB.replace(mixer="rglru+rglru+attention:window=64")
SEEDS = range(3)
FLOOR, SCALE, EXPONENT = 1.5, 12.0, 0.25  # of a loss in nats against tokens
NOISE = 0.01  # nats between seeds


def loss(tokens: float, offset: float = 0.0) -> float:
    return FLOOR + SCALE * tokens**-EXPONENT + offset


def rows_of(job: Job, rate: float, noise: float, offset: float = 0.0) -> Iterator[Row]:
    """The rows of a training of so many tokens a second whose loss is off by so much."""
    for share in (*course.SHARES, 1.0):
        tokens = round(rate * share * BUDGET)
        step = max(1, round(tokens / (job.batch * job.length)))
        at = {"step": step, "tokens": tokens, "seconds": share * BUDGET, "loss": loss(tokens, offset) + noise}
        yield {"phase": "validation", "settled_steps": step, **at}
    yield {"phase": "test", "settled_steps": step, "accuracy": 0.5, "examples": 256, "fingerprint": 7, **at}


def curves(rng: np.random.Generator, rate: float, offset: float) -> dict[int, speedup.Curve]:
    """The curves of an arm's seeds, each a little off, and each validation a little more."""
    rows = []
    for seed in range(5):
        shared = rng.normal(0, NOISE)
        for row in rows_of(JOB, rate, shared, offset):
            rows.append({**row, "seed": seed, "outcome": "ok", "loss": row["loss"] + rng.normal(0, NOISE / 10)})
    return speedup.curves(rows)


def seconds_to(level: float, rate: float, offset: float) -> float:
    """When an arm has this loss, by arithmetic."""
    return ((level - FLOOR - offset) / SCALE) ** (-1 / EXPONENT) / rate


@pytest.mark.parametrize(
    ("rates", "offsets"),
    [((3e4, 1e4), (0.0, 0.0)), ((1e4, 2.5e4), (0.0, 0.0)), ((1e4, 1e4), (0.0, 0.1)), ((1e4, 2e4), (0.0, 0.2))],
)
def test_the_interval_of_the_speedup_has_the_planted_one(
    rates: tuple[float, float], offsets: tuple[float, float]
) -> None:
    level = max(loss(rate * BUDGET, offset) for rate, offset in zip(rates, offsets, strict=True))
    first, second = (seconds_to(level, rate, offset) for rate, offset in zip(rates, offsets, strict=True))
    rng = np.random.default_rng(19)
    covered = 0
    for _ in range(200):
        at = speedup.speedup(*(curves(rng, rate, offset) for rate, offset in zip(rates, offsets, strict=True)))
        assert at is not None
        covered += at.low <= second / first <= at.high
    assert covered >= 190


def test_arms_of_one_rate_are_not_told_apart_where_only_seeds_differ() -> None:
    rng = np.random.default_rng(7)
    intervals = [speedup.speedup(curves(rng, 1e4, 0.0), curves(rng, 1e4, 0.0)) for _ in range(200)]
    assert sum(at is not None and at.low <= 1 <= at.high for at in intervals) >= 190


def test_no_curve_is_followed_beyond_its_end() -> None:
    curve = speedup.Curve((1.0, 10.0, 60.0), (4.0, 3.0, 2.0))
    assert curve.seconds_to(1.9) is None
    assert curve.seconds_to(2.0) == pytest.approx(60.0)
    assert curve.seconds_to(3.5) == pytest.approx(math.sqrt(10))
    assert curve.seconds_to(5.0) == 1.0, "at its first validation, or before"
    ahead = {0: speedup.Curve((1.0, 60.0), (4.0, 1.0)), 1: speedup.Curve((1.0, 60.0), (4.0, 2.5))}
    assert speedup.caught_up(ahead, {0: curve, 1: curve, 2: curve}) == (1, 2)


def test_a_loss_that_rises_again_counts_as_it_was_at_its_best() -> None:
    rows = [
        {"phase": "validation", "outcome": "ok", "seed": 0, "seconds": at, "loss": value}
        for at, value in ((0.0, 9.0), (1.0, 4.0), (2.0, 3.0), (4.0, 3.5), (8.0, 2.0))
    ]
    assert speedup.curves(rows) == {0: speedup.Curve((1.0, 2.0, 4.0, 8.0), (4.0, 3.0, 3.0, 2.0))}


# The report.


def put_trainings(out: pathlib.Path, lengths: tuple[int, ...] = (128, 512, 2048)) -> None:
    """Attention, whose rate falls with the length, the LSTM and a hybrid: three seeds each, their rates chosen."""
    for length in lengths:
        rates = {JOB: 4e4 / (1 + length / 256), LSTM: 1e4, HYBRID: 8e3}
        for job, rate in rates.items():
            of_length = job.replace(length=length, learning_rate=3e-3)
            for seed in SEEDS:
                put(out, of_length.replace(seed=seed), "learning", list(rows_of(job, rate, NOISE * (seed - 1))), CPU)
            for seed in learning_rates.SEEDS:
                for chosen in learning_rates.GRID:
                    off = 0.1 * abs(math.log(chosen / 3e-3))
                    tried = list(rows_of(job, rate, NOISE, off))
                    put(out, of_length.replace(seed=seed, learning_rate=chosen), "learning", tried, CPU)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("drawn")
    put_trainings(out)
    report.write(out)
    return out


def lines(text: str, beginning: str) -> list[str]:
    """The lines of a table that begin so, without the spaces that fill its columns."""
    return [line for line in (re.sub(" +", " ", line) for line in text.splitlines()) if line.startswith(beginning)]


def test_the_report_has_loss_against_length_with_its_seeds_and_ends(drawn: pathlib.Path) -> None:
    text = (drawn / "report.md").read_text()
    assert "## text after 60 s of training (not judged)" in text
    assert "Every training ends after 60 seconds" in text
    assert "Each arm has its own learning rate at each length, chosen on validation" in text
    tokens = round(4e4 / (1 + 128 / 256) * BUDGET)
    bits = loss(tokens) / math.log(2)
    [line] = lines(text, "| 128 | attention |")
    assert f"| {bits:.2f} (" in line
    assert f"| 3 | 60 | {round(tokens / (2 * 512)):,} | {tokens:,} |" in line, (
        "of the seeds that did not choose the rate"
    )
    assert (drawn / "figures" / "equal_seconds_1.png").exists()
    assert len(list((drawn / "figures").glob("equal_seconds_1_*.png"))) == 3, "a curve for each length"
    assert "Learning on text" not in text, "curves of other budgets and these stand apart"


def test_the_report_has_the_effective_speedup_and_says_what_was_not_reached(drawn: pathlib.Path) -> None:
    text = (drawn / "report.md").read_text()
    [line] = lines(text, "| 128 | attention / lstm |")
    planted = (4e4 / (1 + 128 / 256)) / 1e4
    assert abs(float(line.split("|")[3].split()[0]) / planted - 1) < 0.02
    assert "attention's: not reached by lstm within its budget" in line
    [line] = lines(text, "| 2,048 | attention / lstm |")
    assert "lstm's: not reached by attention within its budget" in line


def test_the_report_names_rates_that_were_not_chosen_and_budgets_that_were_not_met(tmp_path: pathlib.Path) -> None:
    for job in (JOB, LSTM):
        *rows, test = rows_of(job, 1e4, 0.0)
        early = {**test, "seconds": 40.0}
        put(tmp_path, job, "learning", [*rows, early if job is LSTM else test], CPU)
    report.write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "The rates of attention and lstm were not chosen for trainings of so many seconds" in text
    assert "lstm at 512 tokens, seed 0: ended after 40 s of 60 s" in text
    assert "attention at 512 tokens, seed 0" not in text
