"""The contract of every claim: a file in suite/claims is held to it the day it is added."""

import dataclasses
import functools
import importlib.util
import itertools
import pathlib
import random
import re
import shutil

import planted
import pytest

from suite import claims, learning_rates, parts, user_files
from suite.claims import ATTENTION, Finding
from suite.job import Cell
from suite.judging import rule
from suite.scale import PAIR, SCALES, Scale, claim_cells
from suite.sweep import schedule
from suite.sweep.record import Row

CLAIMS = parts.names("suite.claims")
ROUNDS = 10
# What `tell` adds to a finding.
TOLD = ("sentence", "headline", "figures", "tables", "speaks_for", "arms")


@pytest.fixture(autouse=True)
def tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever rate a training has, it was chosen for it."""
    monkeypatch.setattr(learning_rates, "is_tuned", lambda job, choices: True)


def scale() -> Scale:
    """The scale at which every claim can be decided, for the judged pair."""
    return dataclasses.replace(SCALES["gpu"], arms=PAIR, matches=("params",), seeds=5)


@functools.cache
def world(name: str, ahead: str) -> tuple[tuple[Cell, ...], tuple[Row, ...]]:
    """All cells of a comparison with a claim, round after round, and their rows where one of the pair is ahead."""
    plan = schedule.Plan(scale(), (name,), rates="table")
    cells: dict[Cell, None] = {}
    rows: list[Row] = []
    for _ in range(ROUNDS):
        # Every comparison measures the machine's peak, on which no verdict rests.
        new = [cell for cell in plan.cells(rows) if cell not in cells and cell.measure != "peak"]
        if not new:
            return tuple(cells), tuple(rows)
        cells.update(dict.fromkeys(new))
        rows += [row for cell in new for row in planted.rows_of(cell, ahead)]
    raise AssertionError(f"{name} still asks for {len(new)} new cells after {ROUNDS} rounds")


def find(name: str, rows: list[Row]) -> Finding:
    claim, thresholds = parts.load("suite.claims", name)
    return claims.judge(claim, rows, thresholds)


@functools.cache
def finding_of(name: str, ahead: str) -> Finding:
    """What comes of a claim where one of the pair is ahead."""
    return find(name, list(world(name, ahead)[1]))


@pytest.mark.parametrize("name", CLAIMS)
def test_of_no_rows_nothing_is_tested(name: str) -> None:
    finding = find(name, [])
    assert (finding.verdict, finding.numbers) == ("untested", ())
    assert finding.sentence
    assert finding.reason


@pytest.mark.parametrize("name", CLAIMS)
def test_its_cells_come_to_rest(name: str) -> None:
    cells, rows = world(name, ATTENTION)
    assert cells
    again = schedule.Plan(scale(), (name,), rates="table").cells(list(rows))
    assert {cell for cell in again if cell.measure != "peak"} <= set(cells)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_planted_world_holds_and_its_reverse_fails(name: str) -> None:
    findings = {ahead: finding_of(name, ahead) for ahead in PAIR}
    verdicts = sorted(finding.verdict for finding in findings.values())
    assert verdicts == ["fails", "holds"], {ahead: finding.reason for ahead, finding in findings.items()}
    for finding in findings.values():
        assert finding.numbers
        assert finding.figures
        assert all(control.met for control in finding.controls), finding.controls


@pytest.mark.parametrize("name", CLAIMS)
def test_the_order_of_the_rows_changes_nothing(name: str) -> None:
    rows = list(world(name, ATTENTION)[1])
    shuffled = rows.copy()
    random.Random(0).shuffle(shuffled)
    assert find(name, shuffled) == find(name, rows)


@pytest.mark.parametrize("name", CLAIMS)
def test_it_survives_every_outcome_of_its_cells(name: str) -> None:
    claim, _ = parts.load("suite.claims", name)
    cells, rows = world(name, ATTENTION)
    outcomes = itertools.cycle(planted.OUTCOMES)
    # Of each mixer one arm: its variants are judged by the same lines.
    arms = {parts.split(cell.job.arm)[0]: cell.job.arm for cell in cells}.values()
    of_arm = {arm: [cell for cell in cells if cell.job.arm == arm] for arm in arms}
    one_each = {(cell.job.arm, parts.split(cell.measure)[0]): [cell] for cell in cells if cell.job.arm in arms}
    plans = [(list(cells), outcome) for outcome in planted.OUTCOMES]
    plans += [(broken, next(outcomes)) for broken in (*of_arm.values(), *one_each.values())]
    for broken, outcome in plans:
        keys = {_key(cell) for cell in broken}
        failures = [planted.failed(cell, outcome) for cell in broken]
        claim_cells(claim, scale(), [*rows, *failures])
        for kept in ([row for row in rows if _key_of(row) not in keys], rows):  # it failed at once, or late
            finding = find(name, [*kept, *failures])
            assert finding.reason
            assert finding.sentence


def _key(cell: Cell) -> tuple:
    return cell.job.id, cell.measure, cell.repeat, cell.interleave_with


def _key_of(row: Row) -> tuple:
    return tuple(row[name] for name in ("run_id", "measure", "repeat", "interleave_with"))


@pytest.mark.parametrize("name", CLAIMS)
def test_telling_changes_nothing_that_was_judged(name: str) -> None:
    claim, thresholds = parts.load("suite.claims", name)
    rows = list(world(name, ATTENTION)[1])
    judged = claim.judge(rows, **thresholds)
    finding = claim.tell(rows, judged, **thresholds)
    changed = {
        field.name
        for field in dataclasses.fields(Finding)
        if getattr(judged, field.name) != getattr(finding, field.name)
    }
    assert "sentence" in changed
    assert changed <= set(TOLD)


@pytest.mark.parametrize("ahead", PAIR)
@pytest.mark.parametrize("name", CLAIMS)
def test_its_sentence_is_for_strangers_and_says_what_it_speaks_for(name: str, ahead: str) -> None:
    finding = finding_of(name, ahead)
    assert [number.name for number in finding.numbers if number.name in finding.sentence] == []
    assert re.findall(r"\b[A-Zbe]\b", finding.sentence) == []  # symbols of a rule
    assert finding.speaks_for


@pytest.mark.parametrize("name", CLAIMS)
def test_every_scale_has_sizes_or_a_reason(name: str) -> None:
    claim, _ = parts.load("suite.claims", name)
    for scale in SCALES.values():
        assert scale.name in claim.SIZES, f"say in SIZES of {name} what it runs at scale {scale.name}, or why it cannot"
        assert isinstance(claim.SIZES[scale.name].untested, str)
        assert claim_cells(claim, scale, []) or claim.SIZES[scale.name].untested


# The hash of the rule.


@pytest.mark.parametrize("name", CLAIMS)
def test_the_rule_reaches_what_decides_and_not_what_tells(name: str) -> None:
    path = parts.source("suite.claims", name).resolve()
    reached = {definition for file, definition in rule.reached(path) if file == path}
    assert {"cells", "judge", "SIZES"} <= reached
    assert not reached & {"tell", "QUESTION", "TEXTBOOK", "RULE"}
    elsewhere = {(file.stem, definition) for file, definition in rule.reached(path) if file != path}
    assert ("__init__", "Finding") in elsewhere
    assert not {definition for _, definition in elsewhere} & {"Figure", "Table", "Point"}


def hash_of(tree: pathlib.Path, claim: str) -> str:
    """The hash by a copy of the suite: a fresh import, which has read no file yet."""
    spec = importlib.util.spec_from_file_location("copied_rule", tree / "suite/judging/rule.py")
    assert spec is not None
    assert spec.loader is not None
    copied = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copied)
    return copied.rule_hash(tree / claim)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the suite, to edit."""
    root = tmp_path_factory.mktemp("tree")
    shutil.copytree(user_files.SUITE, root / "suite", ignore=shutil.ignore_patterns("__pycache__"))
    return root


CLAIM = "suite/claims/path_length.py"


@pytest.mark.parametrize(
    ("file", "before", "after", "moves"),
    [
        (CLAIM, "solved: float = 0.9,", "solved: float = 0.8,", True),  # a threshold
        (CLAIM, "EASY = 0.95", "EASY = 0.9", True),
        (CLAIM, "1, probes=True)", "1, probes=False)", True),  # its cells
        (CLAIM, "distances=(4, 48)", "distances=(4, 64)", True),  # a size
        (CLAIM, "attention.mostly_solved and behind == tested", "behind == tested", True),  # judging
        ("suite/judging/statistics.py", 'alternative="greater"', 'alternative="two-sided"', True),
        ("suite/judging/trials.py", "PROBES = (1 / 3, 3.0)", "PROBES = ()", True),
        ("suite/judging/trials.py", "return 2 * self.solved() > self.seeds", "return self.solved() > 0", True),
        ("suite/learning_rates.py", "SEEDS = (1000, 1001)", "SEEDS = (1000,)", True),
        ("suite/mixers/gru.py", '("one", "spread", "chrono")', '("one", "spread")', True),  # who may speak
        (
            "suite/mixers/elman.py",
            '("orthogonal", "identity")',
            '("orthogonal",)',
            False,
        ),  # which this claim never names
        ("suite/mixers/gru.py", 'FAMILY = "gru"', 'FAMILY = "lstm"', False),  # what a mixer computes is no rule
        (CLAIM, 'title="Recall of one pair, every seed a dot"', 'title="Recall"', False),  # a figure
        (
            CLAIM,
            '"""The finding at the farthest distance at which the judged pair was trained."""',
            '"""Judges."""',
            False,
        ),
        (CLAIM, "FAR = 999\n", "FAR = 999  # tokens\n", False),
        (CLAIM, "tokens back is recalled by", "tokens ago is recalled by", False),  # a sentence
        (CLAIM, "Does the length of the path decide", "Does the path decide", False),
        (CLAIM, "def judge(rows: list[Row], *,", "def judge(\n    rows: list, *,", False),  # layout, and a type
        ("suite/judging/trials.py", '"probes of the rate",', '"probes",', False),  # a table's column
        ("suite/judging/isoflop.py", "NEAR = 1.5", "NEAR = 2.5", False),  # which this claim does not use
    ],
)
def test_the_hash_moves_with_what_decides_and_with_nothing_else(
    tree: pathlib.Path, file: str, before: str, after: str, moves: bool
) -> None:
    path = tree / file
    source = path.read_text()
    assert source.count(before) >= 1
    stored = rule.rule_hash(parts.source("suite.claims", "path_length"))
    path.write_text(source.replace(before, after))
    try:
        assert (hash_of(tree, CLAIM) != stored) == moves
    finally:
        path.write_text(source)


OWN = """
from suite.claims import Finding
from suite.judging.trials import SOLVED
import beside

SIZES = {}
SIZES["quick"] = 1


def cells(scale, rows):
    return []


def judge(rows, *, bar: float = SOLVED):
    return Finding(beside.verdict(rows, bar), "measured")


def tell(rows, judged, *, bar):
    return judged
"""
BESIDE = "def verdict(rows, bar):\n    return 'holds'\n"


def test_a_users_own_claim_has_a_hash_of_its_own_files_too(tmp_path: pathlib.Path) -> None:
    def hash_of_own(name: str, own: str = OWN, beside: str = BESIDE) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "mine.py").write_text(own)
        (folder / "beside.py").write_text(beside)
        return rule.rule_hash(folder / "mine.py")

    stored = hash_of_own("first")
    assert hash_of_own("moved") == stored
    assert hash_of_own("told", OWN.replace("return judged", "return None")) == stored
    assert hash_of_own("sized", OWN.replace('SIZES["quick"] = 1', 'SIZES["quick"] = 2')) != stored
    assert hash_of_own("helped", beside=BESIDE.replace("holds", "fails")) != stored


def test_one_batch_size_gives_no_second_finding_on_speed() -> None:
    claim, _ = parts.load("suite.claims", "parallelism")
    one = scale().without({"batch"})  # the user's own, which is the equal one too
    cells = claim_cells(claim, one, [])
    assert {cell.interleave_with for cell in cells}.isdisjoint({claim.LADDER, claim.BEST})
    finding = find("parallelism", [row for cell in cells for row in planted.rows_of(cell, ATTENTION)])
    assert finding.verdict == "holds"
    assert not any("best batch" in number.name for number in finding.numbers)
    assert any(
        "best batch" in number.name for number in find("parallelism", list(world("parallelism", ATTENTION)[1])).numbers
    )
