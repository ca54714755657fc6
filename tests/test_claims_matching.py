"""Claims under every way of matching: what they ask for can be built, and a verdict must not turn between two ways."""

import dataclasses
import types

import pytest

from suite import claims, parts
from suite.claims import Finding
from suite.judging import trials
from suite.model import backbone, matching
from suite.scale import SCALES, Scale, claim_cells
from suite.sweep import schedule
from suite.sweep.record import Row

CLAIMS = parts.names("suite.claims")
VOCAB = 256


def row(match: str, verdict: str, mixer: str = "lstm") -> Row:
    conditions = {"match": match, "match_to": "attention" if mixer == "lstm" else "", "seed": 0, "measure": "size"}
    return {"arm": mixer, "verdict": verdict} | conditions


def judged(**verdicts: str) -> Finding:
    """Of a claim that reads its verdict in the rows, where arms were matched in each of these."""

    def judge(rows: list[Row], *, least: float = 1.0) -> Finding:
        [own] = [row for row in rows if row["arm"] == "lstm"]
        return Finding(own["verdict"], "measured", f"least {least}", "its reason")

    claim = types.ModuleType("claim")
    vars(claim).update(judge=judge, tell=lambda rows, judged, *, least: judged)
    rows = [row("params", "", "attention"), *(row(match, verdict) for match, verdict in verdicts.items())]
    return claims.judge(claim, rows, {"least": 2.0})


@pytest.mark.parametrize(
    ("params", "flops", "verdict"),
    [
        ("holds", "holds", "holds"),
        ("holds", "fails", "undecided"),
        ("holds", "undecided", "undecided"),
        ("fails", "holds", "undecided"),
        ("fails", "untested", "fails"),
        ("undecided", "holds", "undecided"),
        ("untested", "holds", "untested"),
    ],
)
def test_a_verdict_that_turns_between_matchings_is_undecided(params: str, flops: str, verdict: str):
    found = judged(params=params, flops=flops)
    assert found.verdict == verdict
    assert found.sentence == "least 2.0"
    turned = verdict == "undecided" and params != "undecided"
    reason = f"it turns. As it is judged first, {params}: its reason; with equal FLOPs a token {flops}: its reason"
    assert found.reason == (reason if turned else "its reason")


def test_the_first_matching_speaks_in_a_fixed_order():
    assert judged(flops="fails", params="fails").verdict == "fails"
    assert claims.matches([row("flops", ""), row("params", "")]) == ["params", "flops"]
    assert claims.held_equal([row("flops", "")]) == "equal FLOPs a token"
    assert claims.held_equal([row("none", "")]) == "equal width"


def scale_of(match: str) -> Scale:
    arms, reference = ("attention", "lstm", "slstm", "mamba2", "rglru+attention:window=8"), "attention"
    if match == "state_bytes":
        # A cache of all tokens is out of reach for a recurrence; for this state so is a window, and the last inputs of
        # a convolution, which are more than a whole LSTM's.
        arms, reference = ("attention", "lstm", "slstm", "mamba2:taps=0"), "lstm"
    scale = dataclasses.replace(SCALES["quick"], arms=arms, match=match, matches=(match,), reference=reference)
    if match != "step_time":
        return scale
    return dataclasses.replace(scale, own_widths=dict.fromkeys(schedule.arms_of(scale, CLAIMS), 37))


SLOW = ("flops",)  # every width that is tried is counted


@pytest.mark.parametrize(
    "match",
    [pytest.param(match, marks=pytest.mark.slow) if match in SLOW else match for match in (*claims.MATCHES, "none")],
)
def test_every_cell_that_a_claim_asks_for_can_be_built(match: str):
    scale = scale_of(match)
    jobs = {cell.job for claim in CLAIMS for cell in claim_cells(parts.load("suite.claims", claim)[0], scale, [])}
    alike = {"task": "text", "steps": 1, "batch": 1, "seed": 0, "learning_rate": 0.0}
    alike |= {"validate_every": 1, "validation_examples": 1, "test_examples": 1}
    alike |= {} if match == "state_bytes" else {"length": 64}  # nothing else depends on it but slowly
    mixers = parts.names("suite.mixers")
    starts = {arm for mixer in mixers for arm in trials.variants(mixer)} - {*mixers}  # these change no shape
    for job in {job.replace(**alike) for job in jobs if job.arm not in starts}:
        backbone.shapes(matching.solve(job, VOCAB), VOCAB)
