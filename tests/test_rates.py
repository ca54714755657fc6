"""The table of learning rates: how it is read, looked up and made from a grid that grows at its edges."""

import dataclasses
import pathlib
from typing import Any

import pytest

from suite import learning_rates
from suite.files import Damaged
from suite.job import Job
from suite.learning_rates import GRID, SEEDS, Choice, Curve
from suite.report import calibration
from suite.scale import PAIR, SCALES
from suite.sweep import schedule
from suite.sweep.record import Row

JOB = Job(mixer="lstm", match_to="attention", task="parity", width=32, length=40, batch=32, steps=500)
TEXT = JOB.replace(task="text", length=512)


def validated(job: Job, **facts: Any) -> Row:
    shared = {
        "run_id": job.id,
        "arm": job.arm,
        "measure": "learning",
        "repeat": 0,
        "interleave_with": "",
        "placed": False,
    }
    shared |= {"commit": "abc", "jax": "0.10.2", "device_kind": "Some CPU", "reference_width": job.width, "width": 28}
    own = {"phase": "validation", "step": job.steps, "outcome": "ok"}
    return dataclasses.asdict(job) | shared | own | facts


def curve_of(job: Job, scores: dict[float, tuple[float, float]]) -> Curve:
    """A curve with the same final accuracy and loss for both seeds of each rate."""
    rows = [
        validated(job.replace(learning_rate=learning_rate, seed=seed), final_accuracy=accuracy, loss=loss)
        for learning_rate, (accuracy, loss) in scores.items()
        for seed in SEEDS
    ]
    [curve] = learning_rates.gather(rows)
    return curve


def test_the_best_rate_has_the_best_accuracy_and_then_the_least_loss() -> None:
    curve = curve_of(
        JOB, {3e-4: (0.5, 0.7), 1e-3: (1.0, 0.02), 3e-3: (1.0, 0.01), 1e-2: (0.9, 0.001), 3e-2: (0.5, 0.7)}
    )
    assert curve.best == 3e-3
    assert curve.beyond() == []


def test_text_is_chosen_by_its_loss() -> None:
    curve = curve_of(TEXT, {3e-4: (0.9, 2.4), 1e-3: (0.1, 2.2), 3e-3: (0.2, 2.3)})
    assert curve.best == 1e-3
    assert curve.choice().scored_by == "loss"
    assert curve.choice().score == 2.2


@pytest.mark.parametrize(("best", "wanted"), [(3e-2, [0.1]), (3e-4, [1e-4]), (3e-3, [])])
def test_the_grid_grows_at_an_edge(best: float, wanted: list[float]) -> None:
    curve = curve_of(JOB, {learning_rate: (1.0 if learning_rate == best else 0.5, 0.7) for learning_rate in GRID})
    assert curve.beyond() == wanted


def test_the_grid_goes_on_until_the_best_lies_inside() -> None:
    scores = {learning_rate: (0.5, 0.7) for learning_rate in GRID}
    assert curve_of(JOB, scores | {0.1: (1.0, 0.1)}).beyond() == [0.1, 0.3]
    found = curve_of(JOB, scores | {0.1: (1.0, 0.1), 0.3: (0.5, 0.7)})
    assert found.beyond() == [0.1, 0.3]
    assert not found.choice().edge
    every = scores | {learning_rate: (0.5 + learning_rate / 10, 0.7) for learning_rate in (0.1, 0.3, 1.0)}
    assert curve_of(JOB, every).beyond() == [0.1, 0.3, 1.0]
    assert curve_of(JOB, every).choice().edge


def test_a_rate_that_diverged_is_not_chosen() -> None:
    rows = [
        validated(JOB.replace(learning_rate=learning_rate, seed=seed), final_accuracy=1.0, loss=0.1)
        for learning_rate in (1e-3, 3e-3)
        for seed in SEEDS
    ]
    rows[2] |= {"final_accuracy": 1.0, "loss": 0.01}
    rows.append(
        validated(JOB.replace(learning_rate=3e-3, seed=SEEDS[1]), phase="train", step=7) | {"outcome": "diverged"}
    )
    [curve] = learning_rates.gather(rows)
    assert curve.best == 1e-3
    assert "0.003" in curve.choice().tried


def test_cells_are_two_seeds_of_each_rate_apart_from_those_of_comparisons() -> None:
    cells = learning_rates.cells([JOB], [])
    assert {cell.job.learning_rate for cell in cells} == set(GRID)
    assert {cell.job.seed for cell in cells} == set(SEEDS)
    assert len(cells) == len(GRID) * len(SEEDS)
    # Whatever rate and seed a comparison would have trained with.
    assert learning_rates.cells([JOB.replace(learning_rate=0.5, seed=3)], []) == cells


def test_as_few_trainings_are_tuned_as_cover_all() -> None:
    jobs = [JOB.replace(seed=seed, learning_rate=learning_rate) for seed in range(3) for learning_rate in (1e-3, 3e-3)]
    others = [JOB.replace(length=4), JOB.replace(short_conv=4), JOB.replace(mixer="gru"), JOB.replace(steps=2000)]
    others += [JOB.replace(width=128), JOB.replace(task="copy"), JOB.replace(block="plain")]
    others += [JOB.replace(hidden=64), JOB.replace(hidden=-1)]
    tuned = learning_rates.to_tune([*jobs, *others, JOB.replace(width=48), JOB.replace(steps=700)])
    assert len(tuned) == 1 + len(others)
    for job in (*jobs, *others):
        assert learning_rates.covers_any(tuned, job)
    assert not learning_rates.covers_any(tuned, JOB.replace(batch=4))


RECALL = JOB.replace(task="recall:pairs=1,vocab=32,distance=48", length=52, batch=16, steps=200)


@pytest.mark.parametrize(
    ("task", "length", "covered"),
    [
        ("recall:pairs=1,vocab=32,distance=96", 100, True),
        ("recall:pairs=1,vocab=32,distance=24", 28, True),
        ("recall:pairs=1,vocab=32,distance=48,density=0.0", 52, True),
        ("recall:pairs=1,vocab=32,distance=97", 101, False),
        ("recall:pairs=1,vocab=32,distance=96", 128, False),  # the length is a size of its own
        ("recall:pairs=1,vocab=32,distance=20", 52, False),
        ("recall:pairs=1,vocab=32", 52, False),  # distances that vary
        ("recall:pairs=2,vocab=32,distance=48", 52, False),
        ("recall:pairs=1,vocab=64,distance=96", 100, False),
        ("copy", 52, False),
    ],
)
def test_a_distance_of_recall_is_a_length(task: str, length: int, covered: bool) -> None:
    assert learning_rates.covers_any([RECALL], RECALL.replace(task=task, length=length)) == covered
    assert learning_rates.covers_any([RECALL.replace(task=task, length=length)], RECALL) == covered


def test_no_other_knob_of_a_task_is_a_length() -> None:
    words = RECALL.replace(task="word_problem:group=A5")
    assert not learning_rates.covers_any([words], words.replace(task="word_problem:group=Z60"))


def test_the_window_of_good_rates_is_given_in_octaves() -> None:
    scores = {
        3e-4: (0.5, 0.7),
        1e-3: (0.97, 0.1),
        2e-3: (0.96, 0.1),
        4e-3: (1.0, 0.1),
        1e-2: (0.5, 0.7),
        3e-2: (1.0, 0.2),
    }
    assert curve_of(JOB, scores).window == pytest.approx(2)
    assert curve_of(TEXT, {1e-3: (0.0, 2.215), 2e-3: (0.0, 2.2), 4e-3: (0.0, 2.3)}).window == pytest.approx(1)


def test_a_comparison_first_tunes_what_the_table_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_rates, "table", lambda: ())
    plan = schedule.Plan(dataclasses.replace(SCALES["quick"], arms=PAIR), ("path_length",))
    first = plan.cells([])
    assert {(cell.measure, cell.job.seed in SEEDS) for cell in first} == {("learning", True)}
    best = {"attention": 1e-3, "lstm": 1e-2}
    rows = [
        validated(job, final_accuracy=0.9 if job.learning_rate == best.get(job.arm, 3e-3) else 0.5, loss=0.1)
        for job in (cell.job for cell in first)
    ]
    then = [cell for cell in plan.cells(rows) if cell.measure == "learning" and "recall" in cell.job.task]
    assert not {cell.job.seed for cell in then} & set(SEEDS)
    assert {cell.job.learning_rate for cell in then if cell.job.arm == "lstm"} == {1e-2}
    # Until every rate was tried with every seed, nothing else is run.
    assert plan.cells(rows[:-1]) == [cell for cell in first if cell.job.arm == first[-1].job.arm][-10:]
    by_table = dataclasses.replace(plan, rates="table")
    assert not {cell.job.seed for cell in by_table.cells([])} & set(SEEDS)


def test_a_training_of_which_every_rate_failed_is_not_tuned_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_rates, "table", lambda: ())
    plan = schedule.Plan(dataclasses.replace(SCALES["quick"], arms=PAIR), ("path_length",))
    rows = [validated(cell.job) | {"outcome": "oom"} for cell in plan.cells([])]
    assert not {cell.job.seed for cell in plan.cells(rows)} & set(SEEDS)


def test_the_table_says_the_same_after_it_was_written() -> None:
    choice = curve_of(JOB, {3e-4: (0.5, 0.7), 1e-3: (1.0, 0.02), 3e-3: (0.9, 0.1)}).choice()
    assert learning_rates.read(learning_rates.text([choice, choice])) == (choice, choice)


def test_a_table_with_other_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="wants the columns arm, task, block"):
        learning_rates.read("arm,task\nlstm,parity\n")


HARMS = {
    "empty": (lambda text: "", "wants the columns arm, task"),
    "another header": (lambda text: text.replace("arm,", "", 1), "wants the columns arm, task"),
    "cut in the last line": (lambda text: text[:-3], "the last line is cut"),
    "cut in a line": (
        lambda text: text[: text.rindex(",")] + "\n",
        f"columns, wanted {len(dataclasses.fields(Choice))}",
    ),
    "a rate of NaN": (lambda text: text.replace("0.01,", "nan,", 1), "line [0-9]+ wants a finite rate"),
    "no rate": (lambda text: text.replace(",0.01,", ",,", 1), "line [0-9]+: could not convert"),
    "a rate below nothing": (lambda text: text.replace(",0.01,", ",-0.01,", 1), "line [0-9]+ wants a finite rate"),
    "no steps": (lambda text: text.replace(",500,", ",0,", 1), "steps above 0"),
    "an edge that is neither": (lambda text: text.replace("False", "Fal", 1), "line [0-9]+: Fal"),
    "a byte that is no letter": (lambda text: text.encode().replace(b"lstm", b"l\xfftm", 1), "can't decode byte 0xff"),
}


@pytest.mark.parametrize("how", HARMS)
def test_a_damaged_table_is_refused_by_its_name(
    how: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm, said = HARMS[how]
    harmed = harm(learning_rates.TABLE.read_text())
    monkeypatch.setattr(learning_rates, "TABLE", tmp_path / "rates.csv")
    learning_rates.TABLE.write_bytes(harmed if isinstance(harmed, bytes) else harmed.encode())
    with pytest.raises(Damaged, match=f"^{learning_rates.TABLE} is damaged: .*{said}"):
        learning_rates.table.__wrapped__()


def test_a_missing_table_is_no_table_of_other_rates(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_rates, "TABLE", tmp_path / "rates.csv")
    with pytest.raises(FileNotFoundError, match=str(learning_rates.TABLE)):
        learning_rates.table.__wrapped__()


def test_a_rate_is_chosen_for_seconds_where_they_end_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = TEXT.replace(steps=100_000, budget_seconds=60.0)
    ends = [
        validated(timed.replace(learning_rate=rate, seed=seed), step=step, settled_steps=812, loss=loss)
        for rate, losses in {3e-4: (1.0, 2.4), 1e-3: (9.0, 2.2), 3e-3: (9.0, 2.3)}.items()
        for seed in SEEDS
        for step, loss in zip((80, 812), losses, strict=True)
    ]
    [curve] = learning_rates.gather(ends)
    choice = curve.choice()
    assert choice.learning_rate == 1e-3, "by the last validation, whatever its step"
    assert choice.provenance == "3 rates x 2 seeds on validation, T=512, 60 s of training, commit abc"
    monkeypatch.setattr(learning_rates, "table", lambda: (curve_of(TEXT, {1e-2: (0.5, 0.7)}).choice(),))
    assert learning_rates.is_tuned(timed.replace(learning_rate=1e-3, steps=9, budget_seconds=90.0), [choice])
    for other in (timed.replace(budget_seconds=600.0), TEXT.replace(steps=100_000), TEXT):
        assert not learning_rates.is_tuned(other.replace(learning_rate=1e-3), [choice])
    assert learning_rates.covering(timed) is None, "of the table"


def test_the_nearest_line_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def line(**changes: Any) -> Choice:
        choice = curve_of(JOB, {1e-3: (1.0, 0.1)}).choice()
        return dataclasses.replace(choice, **changes)

    lines = (
        line(length=16, learning_rate=1.0),
        line(length=256, learning_rate=2.0),
        line(length=64, short_conv=4, learning_rate=3.0),
        line(length=64, hidden=-1, learning_rate=5.0),
    )
    monkeypatch.setattr(learning_rates, "table", lambda: lines)
    assert learning_rates.look_up(JOB.replace(length=20)) == 1.0
    assert learning_rates.look_up(JOB.replace(length=300)) == 2.0
    lines = (*lines, line(length=300, steps=JOB.steps // 20, learning_rate=4.0))
    assert learning_rates.look_up(JOB.replace(length=300)) == 2.0
    assert learning_rates.look_up(JOB.replace(length=300, steps=JOB.steps // 20)) == 4.0
    assert learning_rates.look_up(JOB.replace(length=300, short_conv=4)) == 3.0
    assert learning_rates.look_up(JOB.replace(length=300, hidden=-1)) == 5.0
    assert learning_rates.look_up(JOB.replace(mixer="gru")) == learning_rates.OTHERWISE
    assert learning_rates.look_up(JOB.replace(task="copy")) == learning_rates.OTHERWISE


def test_how_a_rate_was_chosen_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = curve_of(JOB, {3e-4: (0.5, 0.7), 1e-3: (1.0, 0.02), 3e-3: (0.9, 0.1)}).choice()
    monkeypatch.setattr(learning_rates, "table", lambda: (choice,))

    def provenance(job: Job) -> str:
        return learning_rates.provenance(job)

    tried = f"3 rates x 2 seeds on validation, T=40, {JOB.steps:,} steps, commit abc"
    assert provenance(JOB.replace(learning_rate=1e-3)) == f"tuned: {tried}"
    assert provenance(JOB.replace(learning_rate=1e-3, length=400)).startswith(
        "not tuned for this training; the nearest: "
    )
    for probe in (3.33e-4, 3e-3):
        assert provenance(JOB.replace(learning_rate=probe)) == "probe"
    assert provenance(JOB.replace(learning_rate=0.7)) == "given"
    assert provenance(JOB.replace(mixer="gru", learning_rate=learning_rates.OTHERWISE)) == "default: not in the table"


# The table that ships.


def test_the_shipped_table_has_what_quick_trains_first() -> None:
    plan = schedule.Plan(SCALES["quick"], ("path_length", "state_tracking"))
    lacking = {cell.label for cell in plan.cells([]) if cell.job.seed in SEEDS}
    assert not lacking


def test_no_shipped_rate_lies_at_an_edge_that_was_not_extended() -> None:
    assert learning_rates.table()
    assert [
        line
        for line in learning_rates.table()
        if line.edge and learning_rates.LIMITS[0] < line.learning_rate < learning_rates.LIMITS[1]
    ] == []


def test_the_page_of_the_rates_shows_each_choice_and_the_table_is_read_again(tmp_path: pathlib.Path) -> None:
    curves = [
        curve_of(JOB, {3e-4: (0.5, 0.7), 1e-3: (1.0, 0.02), 3e-3: (1.0, 0.01)}),
        curve_of(TEXT, {3e-4: (0.9, 2.4), 1e-3: (0.1, 2.2), 3e-3: (0.2, 2.3)}),
    ]
    table = calibration.write_rates(curves, "the command", tmp_path)
    assert {choice.learning_rate for choice in learning_rates.read(table.read_text())} == {3e-3, 1e-3}
    page = (tmp_path / "rates.md").read_text()
    assert f"{6 * len(SEEDS)} trainings chose two learning rates" in page
    assert "0.0003: 2.4, 0.001: 2.2, 0.003: 2.3" in page
    assert len(list((tmp_path / "figures").glob("rates_*.png"))) == 2


def test_rates_of_other_budgets_stand_apart(tmp_path: pathlib.Path) -> None:
    scores = {3e-4: (0.5, 0.7), 1e-3: (1.0, 0.02), 3e-3: (0.9, 0.01)}
    calibration.write_rates([curve_of(job, scores) for job in (JOB, JOB.replace(steps=2000))], "again", tmp_path)
    page = (tmp_path / "rates.md").read_text()
    assert "## parity, 40 tokens, 500 steps" in page
    assert "## parity, 40 tokens, 2,000 steps" in page
    assert len(list((tmp_path / "figures").glob("rates_*.png"))) == 2
