"""Quality at equal seconds on planted arms: what they are read to gain is what was planted, and the report says it."""

import dataclasses
import functools
import itertools
import math
import pathlib
import re
from collections.abc import Callable, Iterator

import numpy as np
import programs
import pytest
from test_report import CPU, put

from suite import learning_rates, report
from suite.job import Cell, Job
from suite.judging import crossover, speedup
from suite.judging.crossover import Answer, Question
from suite.sweep import store
from suite.sweep.record import Row
from suite.sweep.search import Search
from suite.training import course

BUDGET = 60.0
ARMS = ("attention", "lstm")
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


# The crossing.


def searched(seed: int, rate: Callable[[int], float], offset: float) -> Answer:
    """A search in a world where attention trains on so many tokens a second, and the LSTM on as many at each length."""
    jobs = (JOB, LSTM)
    asked = Question("loss_at_equal_seconds", ARMS, jobs, 128, 2048, tolerance=0.1, repeats=5, own_rates=False)
    rows: list[Row] = []
    done: set[Cell] = set()
    while new := [cell for cell in crossover.cells(asked, rows) if cell not in done]:
        done.update(new)
        for job in (cell.job for cell in new):
            is_lstm = job.arm == "lstm"
            noise = np.random.default_rng([seed, job.length, job.seed, is_lstm]).normal(0, NOISE)
            named = {"run_id": job.id, "arm": job.arm, "measure": "learning", "repeat": 0, "interleave_with": ""}
            named |= dataclasses.asdict(job) | {"reference_width": job.width, "outcome": "ok"}
            value = loss((1e4 if is_lstm else rate(job.length)) * BUDGET, offset if is_lstm else 0.0) + noise
            rows.append({"phase": "test", "loss": value, **named})
    return crossover.replay(asked, rows)


def test_losses_at_equal_seconds_cross_where_rates_and_an_offset_were_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "replace", functools.cache(Job.replace))
    assert Job.id.fget is not None
    monkeypatch.setattr(Job, "id", property(functools.cache(Job.id.fget)))

    def rate(length: int) -> float:
        return 4e4 / (1 + length / 256)

    offset = 0.05  # nats that the LSTM has more of, whatever it is trained on
    needed = ((loss(1e4 * BUDGET, offset) - FLOOR) / SCALE) ** (-1 / EXPONENT) / BUDGET  # tokens a second
    at = 256 * (4e4 / needed - 1)
    assert rate(round(at)) == pytest.approx(needed, rel=1e-2)
    answers = [searched(seed, rate, offset) for seed in range(200)]
    held = [[one.low <= at <= one.high for one in answer.crossings] == [True] for answer in answers]
    assert sum(held) >= 190
    none = [searched(seed, lambda length: 1.5e4, offset) for seed in range(20)]
    assert sum(not answer.crossings for answer in none) >= 19, "none up to 2,048"


def test_rates_are_chosen_by_trainings_of_as_many_seconds_before_the_search() -> None:
    asked = Question("loss_at_equal_seconds", ARMS, (JOB, LSTM), 128, 512, tolerance=0.1, repeats=2, rates="tuned")
    search, rows = Search((asked,), "name"), []
    first = search.cells(rows)
    assert {cell.job.seed for cell in first} == set(learning_rates.SEEDS)
    assert {cell.job.budget_seconds for cell in first} == {BUDGET}
    assert {(cell.job.arm, cell.job.length) for cell in first} == set(itertools.product(ARMS, (128, 512)))
    for cell in first:
        job = cell.job
        off = abs(math.log(job.learning_rate / (1e-3 if job.arm == "lstm" else 1e-2)))
        named = dataclasses.asdict(job) | {"run_id": job.id, "arm": job.arm, "reference_width": job.width}
        named |= {"commit": "abc", "jax": "0", "device_kind": "Some CPU", "outcome": "ok", "final_accuracy": 0.5}
        named |= {"measure": "learning", "repeat": 0, "interleave_with": ""}
        rows += [{**named, **row} for row in rows_of(job, 1e4, 0.0, off)]
    then = {(cell.job.arm, cell.job.learning_rate) for cell in search.cells(rows)}
    assert then == {("attention", 1e-2), ("lstm", 1e-3)}
    as_in_table = dataclasses.replace(asked, rates="table")
    assert {cell.job.seed for cell in Search((as_in_table,), "name").cells(rows)} == {0, 1}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_crossover_of_loss_at_equal_seconds_as_a_user_starts_it(tmp_path: pathlib.Path) -> None:
    small = ["--task=recall:pairs=2,vocab=16", "--width=16", "--depth=1", "--batch=4", "--test_examples=64"]
    flags = [*small, "--arms=gru,elman", "--quantity=loss_at_equal_seconds", "--budget_seconds=0.5", "--rates=table"]
    argv = programs.command("crossover", *flags, "--from=16", "--to=32", "--repeats=2", f"--out={tmp_path}")
    ended = programs.run(argv, seconds=800)
    assert ended.returncode == 0, ended.stderr
    tests = [row for row in store.load(tmp_path) if row["phase"] == "test"]
    assert {(row["arm"], row["length"], row["seed"]) for row in tests} >= set(
        itertools.product(("gru", "elman"), (16, 32), (0, 1))
    )
    assert all(row["budget_seconds"] == 0.5 and row["steps"] > row["step"] for row in tests)
    assert np.median([row["seconds"] for row in tests]) == pytest.approx(0.5, rel=0.2)
    assert "test loss after equal seconds of training" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "figures" / "equal_seconds_1.png").exists()


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
