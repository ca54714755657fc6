"""Widths and state knobs at which two arms meet a budget."""

import pytest

from suite import parts
from suite.job import Job
from suite.model import backbone, matching

VOCAB = 256
NAMES = parts.names("suite.mixers")


def parameters(job: Job) -> int:
    return backbone.count_parameters(backbone.shapes(job, VOCAB))


@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("name", NAMES)
def test_the_solved_width_meets_the_parameters_within_five_percent(name: str, width: int):
    job = Job(mixer=name, match_to="attention", width=width)
    assert abs(parameters(matching.solve(job, VOCAB)) / parameters(Job(mixer="attention", width=width)) - 1) < 0.05
    assert matching.mismatch(job, VOCAB) == pytest.approx(
        parameters(matching.solve(job, VOCAB)) / parameters(matching.reference(job)) - 1
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_solved_width_meets_the_flops_of_a_token_at_the_jobs_length(name: str):
    short, long = (
        Job(mixer=name, match="flops", match_to="attention", width=128, length=length) for length in (64, 2048)
    )
    for job in (short, long):
        assert abs(matching.mismatch(job, VOCAB)) < 0.05
    if name != "attention":  # whose scores cost the more the longer the sequence, so its match may be wider
        assert matching.solve(long, VOCAB).width > matching.solve(short, VOCAB).width


def test_an_arm_matched_in_flops_is_not_matched_in_parameters_by_the_way():
    job = Job(mixer="lstm", match="flops", match_to="attention", width=64, length=2048)
    assert parameters(matching.solve(job, VOCAB)) > 1.2 * parameters(matching.reference(job))


@pytest.mark.parametrize(
    ("mixer", "match_to", "knob"),
    [("attention", "lstm", "window"), ("mamba2", "gla", "d_state"), ("lru", "rglru", "d_hidden")],
)
def test_bytes_of_state_are_met_by_the_mixers_own_knob(mixer: str, match_to: str, knob: str):
    job = Job(mixer=mixer, match="state_bytes", match_to=match_to, width=64, length=512)
    solved = matching.solve(job, VOCAB)
    assert solved.width == 64
    assert parts.knobs("suite.mixers", solved.mixer)[knob] != parts.knobs("suite.mixers", job.mixer)[knob]
    wanted = matching.state_bytes(backbone.shapes(matching.reference(job), VOCAB), job, 512)
    assert abs(matching.state_bytes(backbone.shapes(solved, VOCAB), solved, 512) / wanted - 1) < 0.05


def test_bytes_of_state_are_met_by_the_width_where_the_mixer_has_no_such_knob():
    job = Job(mixer="gru", match="state_bytes", match_to="lstm", width=64)
    assert matching.solve(job, VOCAB).width == 128
    assert matching.mismatch(job, VOCAB) == 0


def test_a_budget_that_no_width_meets_is_said_to_be_out_of_reach():
    job = Job(mixer="lstm", match="state_bytes", match_to="attention", width=64, length=4096)
    with pytest.raises(ValueError, match=r"no width up to 256 gives lstm the .* bytes of state of attention"):
        matching.solve(job, VOCAB)


def test_step_time_is_not_solved_from_shapes():
    with pytest.raises(ValueError, match=r"--match=step_time has to be measured, which launch\.compare does"):
        matching.solve(Job(mixer="lstm", match="step_time", match_to="attention"), VOCAB)


def test_the_width_stays_where_nothing_is_matched():
    assert matching.solve(Job(mixer="lstm", width=64), VOCAB).width == 64
    assert matching.solve(Job(mixer="lstm", width=64, match="none", match_to="attention"), VOCAB).width == 64
    assert matching.solve(Job(mixer="attention", width=64, match_to="attention"), VOCAB).width == 64


def test_the_solved_width_is_one_that_the_mixer_takes():
    job = Job(mixer="attention:heads=12", match_to="lstm", width=128)
    assert matching.solve(job, VOCAB).width % 24 == 0  # 12 heads of even size
    assert abs(matching.mismatch(job, VOCAB)) < 0.2  # the widths that fit lie 24 apart


def test_knobs_that_fit_no_width_are_said_to():
    with pytest.raises(ValueError, match="heads 4 is not a multiple of kv_heads 3"):
        matching.solve(Job(mixer="attention:kv_heads=3", match_to="lstm", width=64), VOCAB)
