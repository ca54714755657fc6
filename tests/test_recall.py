"""launch.recall: sizes of each arm, the rate of an arm at all of them, the report's section, and all of it run once."""

import dataclasses
import json
import pathlib
import re

import pytest
from programs import command, run
from test_rates import validated
from test_report import CPU, put, section

from suite import parts
from suite.job import Cell, Job
from suite.learning_rates import GRID, SEEDS
from suite.model import backbone, matching
from suite.planning import most
from suite.report import page, recall, records, verdicts
from suite.sweep import recalling, store
from suite.sweep.recalling import SIZES, Recalling, Sizes
from suite.sweep.record import Row

ARMS = ("attention", "lstm", "mamba2")
JOB = Job(task="recall:pairs=2,vocab=16", width=32, depth=2, length=16, batch=8, steps=10, validate_every=10)
SMALL = Sizes(ARMS, JOB, widths=(16, 32, 64), windows=(4, 8, 0), states=(4, 8, 16))
RECALLING = Recalling(ARMS, SMALL, seeds=3, rates="")
BEYOND = sorted(SIZES.keys() - {"laptop"})  # scales of accelerators
TITLE = "Recall against state (not judged)"


def of(measure: str, cells: list[Cell]) -> list[Cell]:
    return [cell for cell in cells if parts.split(cell.measure)[0] == measure]


def test_the_knob_of_a_state_is_turned_where_a_mixer_has_one_and_else_the_width() -> None:
    turned = [(size.job.arm, size.turned, size.value, size.job.width) for size in RECALLING.ladder()]
    assert turned == [
        *(("attention:window=4", "window", 4, 32), ("attention:window=8", "window", 8, 32)),
        *(("attention", "window", 0, 32), ("lstm", "width", 16, 16), ("lstm", "width", 32, 32)),
        *(("lstm", "width", 64, 64), ("mamba2:d_state=4", "d_state", 4, 32), ("mamba2:d_state=8", "d_state", 8, 32)),
        ("mamba2:d_state=16", "d_state", 16, 32),
    ]


def test_an_arm_whose_name_sets_the_knob_and_a_hybrid_are_turned_by_the_width() -> None:
    arms = ("attention:window=8", "mamba2+attention")
    ladder = [*dataclasses.replace(RECALLING, arms=arms).ladder()]
    assert [(size.job.arm, size.job.width) for size in ladder] == [
        (arm, width) for arm in arms for width in (16, 32, 64)
    ]
    assert {size.turned for size in ladder} == {"width"}


def test_every_size_is_trained_with_every_seed_and_counted_and_decoded_once() -> None:
    cells = RECALLING.cells([])
    assert len(of("learning", cells)) == 9 * 3
    assert {cell.job for cell in of("size", cells)} == {cell.job for cell in of("decode", cells)}
    assert len(of("size", cells)) == 9
    assert {(cell.job.seed, cell.interleave_with, cell.repeat) for cell in of("decode", cells)} == {(0, "recall", 0)}
    context = parts.knobs("suite.measures", of("decode", cells)[0].measure)
    assert (context["shortest"], context["longest"]) == (16, 16)
    assert len(cells) == len(set(cells)) == 9 * 5


def test_others_have_as_many_parameters_as_the_first_arm_at_that_width() -> None:
    for cell in RECALLING.cells([]):
        reference = "" if cell.job.arm == "attention" else "attention"
        assert (cell.job.match, cell.job.match_to.partition(":")[0]) == ("params", reference)


def test_a_larger_size_has_a_larger_state() -> None:
    of_arm: dict[str, list[int]] = {}
    for size in RECALLING.ladder():
        job = matching.solve(size.job.replace(match_to="attention"), 16)
        of_arm.setdefault(size.arm, []).append(matching.state_bytes(backbone.shapes(job, 16), job, job.length))
    assert all(sizes == sorted(set(sizes)) and len(sizes) == 3 for sizes in of_arm.values()), of_arm


def tuned(cell: Cell, best: float) -> Row:
    """The last validation of a training in which one rate does best."""
    is_best = cell.job.learning_rate == best
    return validated(cell.job, final_accuracy=1.0 if is_best else 0.5, loss=0.1 if is_best else 0.7)


def test_a_rate_is_chosen_for_the_arm_as_it_is_named_and_serves_all_its_sizes() -> None:
    asked = dataclasses.replace(RECALLING, rates="tuned")
    first = asked.cells([])
    assert {(cell.job.arm, cell.job.width, cell.job.learning_rate) for cell in first} == {
        (arm, 32, rate) for arm in ARMS for rate in GRID
    }
    assert {(cell.measure, cell.job.seed) for cell in first} == {("learning", seed) for seed in SEEDS}
    best = {"attention": 1e-3, "lstm": 3e-3, "mamba2": 1e-2}
    trained = asked.cells([tuned(cell, best[cell.job.arm]) for cell in first])
    assert len(of("learning", trained)) == 9 * 3
    assert {(parts.split(cell.job.arm)[0], cell.job.learning_rate) for cell in trained} == set(best.items())


def test_without_rates_of_their_own_nothing_is_tuned() -> None:
    for asked in (RECALLING, dataclasses.replace(RECALLING, rates="table")):
        assert {cell.job.seed for cell in asked.cells([])} == {0, 1, 2}
    assert {cell.job.learning_rate for cell in RECALLING.cells([])} == {JOB.learning_rate}


@pytest.mark.parametrize("scale", ["laptop", *(pytest.param(scale, marks=pytest.mark.slow) for scale in BEYOND)])
def test_a_scale_has_six_arms_at_three_sizes_that_are_models(scale: str) -> None:
    sizes = SIZES[scale]
    asked = Recalling(sizes.arms, sizes, seeds=3, rates="table")
    counts = {arm: [size.arm for size in asked.ladder()].count(arm) for arm in sizes.arms}
    assert list(counts.values()) == [3] * 6
    vocab = int(parts.knobs("suite.tasks", sizes.job.task)["vocab"])
    for cell in asked.first_cells():
        if cell.measure == "size":
            solved = matching.solve(cell.job, vocab)
            assert matching.state_bytes(backbone.shapes(solved, vocab), solved, solved.length) > 0


def test_a_scale_without_sizes_is_refused_with_those_that_have_some() -> None:
    with pytest.raises(ValueError, match=r"launch\.recall has no scale smoke; known: laptop, gpu_hour, pod"):
        recalling.sizes("smoke")


def test_a_plan_counts_the_rates_that_may_come_to_be_tried_and_every_size() -> None:
    asked = dataclasses.replace(RECALLING, rates="anew")
    cells, first = most.cells(asked, lambda jobs: {job: {"outcome": "failed"} for job in jobs})
    assert first == len(ARMS) * len(GRID) * len(SEEDS)
    chosen = [cell for cell in cells if cell.job.seed in SEEDS]
    assert {cell.job.learning_rate for cell in chosen} > {*GRID}
    assert len(cells) - len(chosen) == 9 * 5


def test_examples_of_a_step_are_shared_by_the_devices() -> None:
    assert {cell.job.batch for cell in RECALLING.on(4).cells([])} == {32}


# The section of the report.

BYTES = {"attention": 1000, "lstm": 100, "mamba2": 300}


def put_all(root: pathlib.Path, arms: tuple[str, ...] = ARMS) -> records.Comparison:
    """Attention recalls what its window holds; Mamba-2 half; the LSTM nothing, and one of its seeds diverges."""
    asked = dataclasses.replace(RECALLING, arms=arms)
    place = {arm: [size.job.arm for size in asked.ladder() if size.arm == arm] for arm in arms}
    for cell in asked.cells([]):
        arm = parts.split(cell.job.arm)[0]
        step = (16, 32, 64).index(cell.job.width) if arm == "lstm" else place[arm].index(cell.job.arm)
        put(root, cell.job, cell.measure, rows_of(cell, arm, step), CPU, cell.repeat, cell.interleave_with)
    name, content = asked.describe({}, ["--arms=attention,lstm,mamba2", "--length=16"])
    (root / name).write_text(content)
    return records.read(root)


def rows_of(cell: Cell, arm: str, step: int) -> list[Row]:
    """Rows as the measure of a cell writes them, at the size number `step` of the arm."""
    match parts.split(cell.measure)[0]:
        case "learning":
            if arm == "lstm" and cell.job.seed == 2:
                return [{"phase": "train", "step": 3, "tokens": 9, "seconds": 1.0, "outcome": "diverged"}]
            accuracy = {"attention": (0.3, 0.6, 0.97), "lstm": (0.05, 0.05, 0.05), "mamba2": (0.4, 0.5, 0.55)}
            at = {"phase": "test", "step": 10, "tokens": 9, "seconds": 1.0, "fingerprint": 7, "examples": 256}
            right = accuracy[arm][step] + 0.01 * cell.job.seed
            return [at | {"loss": 0.5, "accuracy": right, "final_accuracy": 0.0}]
        case "size":
            other = {"phase": "state", "context": 8, "state_bytes": 7}
            return [other, {"phase": "state", "context": 16, "state_bytes": BYTES[arm] * 2**step}]
    at = {"context": 16, "sequences": 1}
    turns = [{"phase": "decode", **at, "turn": n, "decoded": 10, "decode_seconds": 1e-3 * (1 + n)} for n in range(3)]
    return [{"phase": "prefill", **at, "read": 16, "chunk": 16, "prefill_seconds": 1.0}, *turns]


def test_the_reading_says_what_arms_recall_within_one_state_and_which_state_is_enough(tmp_path: pathlib.Path) -> None:
    comparison = put_all(tmp_path)
    text = next(block.text for block in section(comparison, TITLE) if isinstance(block, page.Prose))
    within = r"ithin 1 kB of state Mamba-2 recalls 51 % \(50 % to 52 % in three seeds, d_state=8, [0-9,]+ parameters\)"
    assert re.search(within, text)
    assert re.search(r"the LSTM 5.5 % \(5.0 % to 6.0 % in two seeds, width=64, [0-9,]+ parameters\)", text)
    assert "90 % and more are recalled by attention with 4 kB; the LSTM and Mamba-2 recall less at every size." in text
    assert "An arm whose width is turned has more parameters with more state" in text
    assert "by the window (attention), width (lstm) and d_state (mamba2)" in text
    assert re.search(f"on recall:vocab=16,pairs=2, w{within}", verdicts.headline(comparison))
    assert not comparison.judged


def test_where_no_arm_recalls_enough_the_section_says_how_much_that_is(tmp_path: pathlib.Path) -> None:
    text = " ".join(map(str, section(put_all(tmp_path, ("mamba2", "lstm")), TITLE)))
    assert "No arm recalls 90 % of the values at any size." in text


def test_a_point_is_a_size_by_its_bytes_and_by_its_latency(tmp_path: pathlib.Path) -> None:
    charts = [block for block in section(put_all(tmp_path), TITLE) if isinstance(block, page.Chart)]
    assert [chart.name for chart in charts] == ["recall_1_state", "recall_1_latency"]
    bands, _, points, *_ = (layer["data"]["values"] for layer in charts[0].spec["layer"])
    drawn = {(point["series"], point["x"]): point["y"] for point in points}
    assert drawn == {
        **{("attention", 1000 * 2**step): pytest.approx(y) for step, y in enumerate((0.31, 0.61, 0.98))},
        **{("lstm", 100 * 2**step): pytest.approx(0.055) for step in range(3)},
        **{("mamba2", 300 * 2**step): pytest.approx(y) for step, y in enumerate((0.41, 0.51, 0.56))},
    }
    assert {band["series"] for band in bands} == set(ARMS)
    assert "attention: 0.980 at 200" in charts[1].alternative


def test_the_table_has_a_line_for_each_size_with_every_seed(tmp_path: pathlib.Path) -> None:
    [table] = [block for block in section(put_all(tmp_path), TITLE) if isinstance(block, page.Table)]
    assert len(table.rows) == 9
    assert table.rows[2][:2] == ("attention", "window=0, all tokens")
    assert table.rows[2][3:] == ("4 kB", "200 µs", "0.001", "98 %", "97 %, 98 %, 99 %")
    assert table.rows[3][-1] == "5.0 %, 6.0 %, diverged"


def test_a_training_that_chose_a_rate_and_one_of_other_steps_are_no_seeds_of_a_size(tmp_path: pathlib.Path) -> None:
    other = Cell(JOB.replace(seed=SEEDS[0]), "learning")
    longer = Cell(JOB.replace(steps=20), "learning")
    for cell in (other, longer):
        put(tmp_path, cell.job, "learning", rows_of(cell, "attention", 0), CPU)
    comparison = put_all(tmp_path)
    tables = [block for block in list(recall.recall(comparison)) if isinstance(block, page.Table)]
    assert [sum(len(line[-1].split(", ")) for line in table.rows if "not" not in line[-1]) for table in tables] == [
        27,
        1,
    ]


def records_blocks(comparison: records.Comparison) -> list[page.Block]:
    """The blocks of all sections of recall."""
    from suite.report import recall

    return list(recall.recall(comparison))


def test_what_has_no_number_says_why(tmp_path: pathlib.Path) -> None:
    name, content = RECALLING.describe({}, [])
    (tmp_path / name).write_text(content)
    [cell] = [
        cell for cell in of("learning", RECALLING.cells([])) if cell.job.seed == 0 and cell.job.arm == "attention"
    ]
    put(tmp_path, cell.job, cell.measure, rows_of(cell, "attention", 2), CPU)
    put(tmp_path, cell.job, "decode", [{"outcome": "oom", "context": 16}], CPU)
    [table] = [block for block in section(records.read(tmp_path), TITLE) if isinstance(block, page.Table)]
    assert table.rows[2][3:5] == ("not measured yet", "out of memory")
    assert table.rows[0][-1] == "not trained yet"


@pytest.mark.parametrize("damage", [{"arms": [1]}, {"sizes": [1]}, {"sizes": [{"arm": "lstm"}]}])
def test_what_was_asked_and_is_damaged_is_a_problem_and_no_crash(tmp_path: pathlib.Path, damage: dict) -> None:
    put_all(tmp_path)
    (tmp_path / recalling.FILE).write_text(json.dumps({"arms": [], "command": [], "sizes": []} | damage))
    comparison = records.read(tmp_path)
    assert [problem.where for problem in comparison.problems] == [recalling.FILE]
    assert not list(recall.recall(comparison))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_command_trains_counts_decodes_and_draws(tmp_path: pathlib.Path) -> None:
    sizes = ["--task=recall:pairs=2,vocab=16", "--length=16", "--width=16", "--depth=1", "--batch=8", "--steps=4"]
    few = ["--validation_examples=8", "--test_examples=16", "--seeds=2", "--widths=8", "--widths=16"]
    turned = ["--windows=4", "--windows=0", "--learning_rate=3e-3"]
    argv = command("recall", "--arms=attention,lstm", *sizes, *few, *turned, f"--out={tmp_path}")
    ended = run(argv, seconds=580)
    assert ended.returncode == 0, ended.stderr
    rows = store.load(tmp_path)
    tested = {(row["arm"], row["reference_width"], row["seed"]) for row in rows if row["phase"] == "test"}
    sizes_of = [("attention:window=4", 16), ("attention", 16), ("lstm", 8), ("lstm", 16)]
    assert tested == {(*size, seed) for size in sizes_of for seed in (0, 1)}
    assert {parts.split(row["measure"])[0] for row in rows} == {"learning", "size", "decode"}
    text = (tmp_path / "report.md").read_text()
    assert "Recall against state" in text
    assert "yet" not in text.partition("Recall against state")[2].partition("\n## ")[0]
