"""Crossovers on planted rows: found where arithmetic says, none where there is none, and the same after a kill."""

import dataclasses
import functools
import json
import math
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats
from etils import epath
from programs import command, run, start, wait, worker

from suite import declarations, parts
from suite.job import Cell, Job
from suite.judging import crossover
from suite.judging.crossing import ABOVE, BELOW
from suite.judging.crossover import FOLDER, Answer, Question
from suite.report import records
from suite.sweep import store
from suite.sweep.record import Row
from suite.sweep.search import Search

JOB = Job(task="recall:pairs=2,vocab=16", width=16, depth=1, batch=4)
ARMS = ("attention", "lstm")
SEARCHES = 200
# So many of SEARCHES, or more, in 19 of 20 tests of a search that is right in 19 of 20.
ENOUGH = scipy.stats.binom.ppf(0.05, SEARCHES, 0.95)
Cost = Callable[[int], float]


@pytest.fixture(autouse=True, scope="module")
def jobs_are_made_once() -> Iterator[None]:
    """Most of the time of a simulation would go into the same jobs and their names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "replace", functools.cache(Job.replace))
        patch.setattr(Job, "id", property(functools.cache(Job.id.__get__)))
        patch.setattr(store, "job_of", functools.partial(once, store.job_of, {}))
        yield


def job_of(quantity: str) -> Job:
    return JOB.replace(**parts.constant(FOLDER, quantity, "DEFAULTS"))


def once(job_of: Callable[[Row], Job], jobs: dict[str, Job], row: Row) -> Job:
    if row["run_id"] not in jobs:
        jobs[row["run_id"]] = job_of(row)
    return jobs[row["run_id"]]


def question(quantity: str = "step_time", **changes: Any) -> Question:
    job = job_of(quantity)
    jobs = (job.replace(mixer=ARMS[0]), job.replace(mixer=ARMS[1], match_to=ARMS[0]))
    return Question(
        **{
            **{"quantity": quantity, "arms": ARMS, "jobs": jobs, "shortest": 32, "longest": 16384},
            **{"tolerance": 0.1, "repeats": 12},
            **changes,
        }
    )


@dataclasses.dataclass(frozen=True)
class World:
    """The cost of each arm at a length, with log-normal noise of each process and a little of each turn."""

    attention: Cost
    lstm: Cost
    noise: float = 0.2
    seed: int = 0
    most: int = 10**9  # tokens: of more, attention runs out of memory

    def rows_of(self, cell: Cell) -> list[Row]:
        """The rows of a timing or a size, the same whenever it is run."""
        job, is_attention = cell.job, cell.job.arm == "attention"
        shared = dataclasses.asdict(job) | {"reference_width": job.width, "run_id": job.id, "arm": job.arm}
        shared |= {"measure": cell.measure, "repeat": cell.repeat, "interleave_with": cell.interleave_with}
        cost = (self.attention if is_attention else self.lstm)(job.length)
        if is_attention and job.length > self.most:
            return [shared | {"outcome": "oom"}]
        if cell.measure == "size":
            return [shared | {"outcome": "ok", "phase": "state", "context": job.length, "state_bytes": cost}]
        rng = np.random.default_rng([self.seed, job.length, cell.repeat, is_attention])
        of_process, *of_turns = np.exp(rng.normal(0, [self.noise, *[0.02] * 5]))
        row = shared | {"outcome": "ok", "phase": "block", "calls": 2}
        return [
            row | {"turn": turn, "burst_seconds": 2 * cost * of_process * of_turn}
            for turn, of_turn in enumerate(of_turns)
        ]


def named(cell: Cell | Row) -> tuple:
    if isinstance(cell, Cell):
        return cell.job.id, cell.measure, cell.repeat, cell.interleave_with
    return cell["run_id"], cell["measure"], cell["repeat"], cell["interleave_with"]


def searched(asked: Question, world: World, rows: Sequence[Row] = (), most: int = 100_000) -> tuple[Answer, list[Row]]:
    """The answer after a search in a world, or after so many more cells of it, and its rows."""
    rows = list(rows)
    done = set(map(named, rows))
    while new := [cell for cell in crossover.cells(asked, rows) if named(cell) not in done][:most]:
        most -= len(new)
        done.update(map(named, new))
        rows += [row for cell in new for row in world.rows_of(cell)]
    return crossover.replay(asked, rows), rows


def squared(length: int) -> float:
    return 1e-6 * length**2


def linear(length: int) -> float:
    return 1e-3 * length


def test_a_line_and_a_square_cross_inside_the_interval_in_19_of_20() -> None:
    at = [searched(question(), World(squared, linear, seed=seed))[0].crossings for seed in range(SEARCHES)]
    held = [len(crossings) == 1 and crossings[0].low <= 1000 <= crossings[0].high for crossings in at]
    assert sum(held) >= ENOUGH
    assert np.median([crossings[0].high / crossings[0].low for crossings in at]) < 2


def test_where_none_is_there_is_none_in_19_of_20() -> None:
    for ratio in (2.0, 1.0):
        answers = [
            searched(question(), World(lambda length, ratio=ratio: ratio * linear(length), linear, seed=seed))[0]
            for seed in range(SEARCHES // 2)
        ]
        assert sum(not answer.crossings for answer in answers) >= ENOUGH / 2
        assert all(max(answer.intervals) == 16384 for answer in answers)
        if ratio == 2:
            clear = [[region.side for region in answer.regions] == [ABOVE] for answer in answers]
            assert sum(clear) >= ENOUGH / 2


def test_the_less_noise_the_fewer_repeats_and_the_tolerance_is_met() -> None:
    answer, _ = searched(question(), World(squared, linear, noise=0.02))
    [at] = answer.crossings
    assert at.low <= 1000 <= at.high
    assert crossover.is_within(at, 0.1)
    noisy, _ = searched(question(), World(squared, linear, noise=0.3))
    assert noisy.spent > answer.spent
    assert max(noisy.asked.values()) == 12, "all its repeats, where it is in doubt"


def test_the_more_often_a_length_is_looked_at_the_wider_its_intervals() -> None:
    assert question(repeats=3).looks == [3]
    assert question(repeats=12).looks == [3, 5, 7, 10, 12]
    assert question("state_bytes").looks == [1]
    assert question(repeats=12).confidence == pytest.approx(0.99)
    assert question(repeats=3).confidence == pytest.approx(0.95)


def test_two_crossings_are_two() -> None:
    def twice(length: int) -> float:
        return linear(length) * math.exp(0.4 * math.log(length / 100) * math.log(length / 5000))

    answer, _ = searched(question(), World(twice, linear, noise=0.05))
    first, second = answer.crossings
    assert first.low <= 100 <= first.high
    assert second.low <= 5000 <= second.high


def test_a_search_that_was_killed_goes_on_to_the_same_answer() -> None:
    world = World(squared, linear)
    whole, rows = searched(question(), world)
    n_cells = len(set(map(named, rows)))
    for killed_after in (1, 8, n_cells // 2, n_cells - 1):
        _, before = searched(question(), world, most=killed_after)
        torn = before[:-2]  # of the last cell two turns are lost
        # A timing that was cut off counts for nothing, and is begun again.
        kept = [row for row in torn if named(row) != named(before[-1])]
        assert crossover.replay(question(), torn) == crossover.replay(question(), kept)
        answer, _ = searched(question(), world, kept)
        assert answer == whole


def test_rows_that_were_not_asked_for_change_nothing() -> None:
    world = World(squared, linear)
    whole, rows = searched(question(), world)
    other = dataclasses.replace(question(), longest=8192)
    _, more = searched(other, world)
    _, wider = searched(
        dataclasses.replace(question(), jobs=tuple(job.replace(width=32) for job in question().jobs)), world
    )
    asked = set(map(named, rows))
    others = [row for row in (*more, *wider) if named(row) not in asked]
    assert others
    assert whole.is_over
    assert crossover.replay(question(), [*others, *rows]) == whole


def test_state_bytes_cross_at_the_token_that_arithmetic_says() -> None:
    answer, rows = searched(question("state_bytes"), World(lambda length: 128 * length + 4, lambda length: 100_000))
    [at] = answer.crossings
    assert (at.low, at.high) == (781, 782)  # 128 x 781 + 4 < 100,000 < 128 x 782 + 4
    assert len(rows) < 30
    window = World(lambda length: 128 * min(length, 600), lambda length: 64 * length)
    [at] = searched(question("state_bytes"), window)[0].crossings
    assert (at.low, at.high) == (1200, 1200)
    none, _ = searched(question("state_bytes"), World(lambda length: 128 * length, lambda length: 8))
    assert not none.crossings
    assert none.spent == len(none.asked) == 6


def test_what_runs_out_of_memory_is_told_and_the_rest_is_searched() -> None:
    answer, _ = searched(question(), World(squared, linear, most=8000))
    assert answer.failed == {("attention", 16384): "oom"}
    assert max(answer.intervals) < 16384
    assert answer.is_over
    assert [at.low <= 1000 <= at.high for at in answer.crossings] == [True]
    extrapolated, _ = searched(question(longest=512), World(squared, linear, noise=0.01))
    assert not extrapolated.crossings
    assert extrapolated.beyond is not None
    assert extrapolated.beyond.low <= 1000 <= extrapolated.beyond.high
    assert [region.side for region in extrapolated.regions] == [BELOW]


def test_what_no_search_can_answer_is_refused() -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"shortest": 64, "longest": 64}, "no lengths from 64 to 64"),
        ({"tolerance": 0.0}, "never reached"),
        ({"repeats": 1}, "wanted at least 2"),
        ({"longest": 2**31}, "length wants at most"),
    ]
    for changes, why in refused:
        with pytest.raises(ValueError, match=why):
            question(**changes)
    assert question("state_bytes", repeats=1)
    asked = question("decode")
    assert Question.from_dict(asked.to_dict()) == asked


# The program, as a user starts it.

TINY = ["--task=recall:pairs=2,vocab=16", "--width=16", "--depth=1", "--batch=4"]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--arms=lstm"], "wanted two or more"),
        (["--from=100", "--to=64"], "no lengths from 100 to 64"),
        (["--match=flops"], "other models at other lengths"),
        (["--length=64"], "takes --arms, --quantity, --from, --to"),
        (["--repeats=1"], "wanted at least 2"),
        (["--quantity=loss_at_equal_seconds", "--budget_seconds=0"], "wants a budget that ends each training"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_searched_is_refused_in_one_line(flags: list[str], why: str, tmp_path: pathlib.Path) -> None:
    ended = run(command("crossover", *flags, f"--out={tmp_path / 'out'}"))
    assert ended.returncode == 70
    [line] = ended.stderr.strip().splitlines()
    assert why in line
    assert not (tmp_path / "out").exists()


def test_a_comparison_and_a_search_have_each_its_own_out(tmp_path: pathlib.Path) -> None:
    (tmp_path / "compare.json").write_text("{}")
    refused = run(command("crossover", f"--out={tmp_path}"))
    assert refused.returncode == 70
    assert "holds a comparison" in refused.stderr
    (tmp_path / "other" / "crossovers").mkdir(parents=True)
    refused = run(command("compare", f"--out={tmp_path / 'other'}"))
    assert refused.returncode == 70
    assert "holds crossovers" in refused.stderr


def test_a_damaged_question_is_told_and_left_out(tmp_path: pathlib.Path) -> None:
    search = Search((question(),), "step_time-0")
    (tmp_path / "crossovers").mkdir()
    name, content = search.describe({}, ["--quantity=step_time"])
    (tmp_path / name).write_text(content)
    out = epath.Path(tmp_path)
    [stored], problems = records.read_searches(out)
    assert (stored.questions, problems) == ((question(),), [])
    damages = [content[:100], "[]", '{"questions": [5], "command": []}', '{"questions": [], "command": []}']
    changes = {'"step_time"': '"./nowhere.py"', "16384": "16", '"repeats": 12': '"repeats": "12"', '"jobs"': '"job"'}
    for damage in [*damages, *(content.replace(*change) for change in changes.items())]:
        (tmp_path / name).write_text(damage)
        searches, problems = records.read_searches(out)
        assert not searches
        assert [problem.where for problem in problems] == [name]


def test_bytes_cross_between_two_neighbouring_contexts_and_the_report_says_so(tmp_path: pathlib.Path) -> None:
    flags = [*TINY, "--arms=attention,mamba2", "--quantity=state_bytes", "--from=32", "--to=128", f"--out={tmp_path}"]
    ended = run(command("crossover", *flags))
    assert ended.returncode == 0, ended.stderr
    table = [line for line in ended.stdout.splitlines() if line.startswith("attention / mamba2")]
    assert len(table) == 1
    told = json.loads((tmp_path / "report.json").read_text())
    [answer] = told["crossovers"]
    [at] = answer["crossings"]
    rows = [row for row in store.load(tmp_path) if row["phase"] == "state" and row["context"] == row["length"]]
    held = {(row["arm"], row["length"]): row["state_bytes"] for row in rows}
    assert at["high"] == at["low"] + 1
    assert held["attention", at["low"]] < held["mamba2", at["low"]]
    assert held["attention", at["high"]] > held["mamba2", at["high"]]
    assert "bytes of one sequence's state: attention has more than mamba2 from" in told["headline"]
    written = (tmp_path / "report.md").read_text()
    assert "## Crossovers" in written
    assert "without noise, between neighbouring lengths" in written
    assert list((tmp_path / "figures").glob("crossover_state_bytes*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_step_times_are_searched_killed_and_searched_on(tmp_path: pathlib.Path) -> None:
    flags = [*TINY, "--quantity=step_time", "--from=32", "--to=256", "--repeats=2", "--lease_seconds=3"]
    argv = command("crossover", *flags, f"--out={tmp_path}")
    first = start(argv)
    while not list(tmp_path.glob("runs/*/*.done")):
        assert first.poll() is None, "it ended before it could be disturbed"
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    assert wait([first])[0] == [75]
    done = {path.with_suffix(".jsonl") for path in tmp_path.glob("runs/*/*.done")}
    before = {path: path.read_text() for path in done}
    ended = run(argv, seconds=800)
    assert ended.returncode == 0, ended.stderr
    assert before == {path: path.read_text() for path in done}, "what was done is not done again"
    rows = store.load(tmp_path)
    [answer] = json.loads((tmp_path / "report.json").read_text())["crossovers"]
    assert answer["is_over"]
    assert answer["measured_to"] == 256
    [stored] = [json.loads(path.read_text()) for path in (tmp_path / "crossovers").iterdir()]
    asked = Question.from_dict(stored["questions"][0])
    replayed = crossover.replay(asked, rows)
    assert [at._asdict() for at in replayed.crossings] == answer["crossings"]
    assert replayed.spent == answer["repeats"] >= 2 * len(replayed.asked)
    pairs = {(row["repeat"], row["interleave_with"]) for row in rows}
    assert len({(row["repeat"], row["interleave_with"], row["arm"]) for row in rows}) == 2 * len(pairs)
    again = run(command("report", f"--out={tmp_path}"))
    assert again.returncode == 0
    assert "seconds of a training step" in again.stdout


# The folder of quantities.


@pytest.mark.parametrize("name", parts.names(FOLDER))
def test_a_quantity_says_how_it_is_measured(name: str) -> None:
    module, knobs = parts.load(FOLDER, name)
    assert not knobs
    assert module.ABOUT
    assert module.UNIT
    assert module.AXIS in ("length", "context")
    assert module.COMPARED in ("ratio", "difference")
    cells = [module.cell(job_of(name), length, repeat) for length in (32, 64) for repeat in (0, 1)]
    for cell in cells:
        declarations.check(cell.measure)
        assert not cell.interleave_with, "a group is given to the pair"
    assert len(set(cells)) == 4
    assert module.values([], 32) == []
    placed = parts.constant("suite.measures", cells[0].measure, "PLACED")
    assert placed or not module.TIMED, "a timing depends on the place"
    assert not (module.TIMED and module.TRAINED)
    assert cells[0].job.seed == JOB.seed
    assert (cells[1].job.seed != JOB.seed) == module.TRAINED


def test_arms_are_timed_in_turns_and_trained_at_their_own_rates() -> None:
    for name in parts.names(FOLDER):
        asked = question(name)
        first, second = crossover.cells(asked, [])[:2]
        assert (first.job.arm, second.job.arm) == ARMS
        assert first.interleave_with == second.interleave_with
        assert bool(first.interleave_with) == asked.read.TIMED
        if asked.read.TRAINED:
            assert first.job.learning_rate != JOB.learning_rate
            as_given = crossover.cells(dataclasses.replace(asked, own_rates=False), [])[0]
            assert as_given.job.learning_rate == JOB.learning_rate


@pytest.mark.parametrize("name", parts.names(FOLDER))
def test_a_quantity_reads_its_values_from_the_rows_of_its_measure(name: str, tmp_path: pathlib.Path) -> None:
    module, _ = parts.load(FOLDER, name)
    small = {"steps": 4, "validate_every": 4, "validation_examples": 4, "test_examples": 16}
    cell = module.cell(job_of(name).replace(mixer="lstm", **small), 16, 0)
    assert worker(tmp_path).run([cell]) == 0
    values = module.values(store.of_cell(store.load(tmp_path), cell), 16)
    assert values
    assert all(value > 0 or name == "accuracy" for value in values)
