"""Scales: which sizes give way to the user's flags, and what grows with the devices."""

import pytest

from suite import parts
from suite.job import Job
from suite.model import backbone
from suite.scale import HEAD_SIZE, SCALES

QUICK = SCALES["quick"]
SIZES = {"width": 32, "batch": 16, "steps": 200}


def test_a_claims_sizes_give_way_to_the_users_fields_and_its_conditions_do_not() -> None:
    scale = QUICK.without({"width", "learning_rate"})
    job = scale.arm("lstm", SIZES, task="parity", length=20)
    assert (job.width, job.batch, job.steps, job.length) == (QUICK.job.width, 16, 200, 20)
    assert job.learning_rate == QUICK.job.learning_rate
    assert scale.arm("lstm", SIZES, width=48).width == 48


def test_batches_are_those_of_all_devices_unless_the_user_gave_one() -> None:
    scale = QUICK.on(4)
    assert scale.job.batch == 4 * QUICK.job.batch
    assert scale.arm("lstm", SIZES).batch == 64
    assert scale.arm("lstm", SIZES, batch=6).batch == 6
    assert scale.batches((2, 8)) == (8, 32)
    given = QUICK.without({"batch"})
    assert given.arm("lstm", SIZES).batch == QUICK.job.batch
    assert given.batches((2, 8)) == (QUICK.job.batch,)


def test_arms_are_matched_to_the_first_and_the_first_to_nothing() -> None:
    assert QUICK.arm("attention").match_to == ""
    assert QUICK.arm("lstm").match_to.startswith("attention")


@pytest.mark.parametrize("name", ["gpu_hour", "gpu", "pod"])
def test_heads_follow_from_the_width_where_accelerators_run(name: str) -> None:
    job = SCALES[name].arm("attention")
    for width in (job.width, 2 * job.width):
        [spec] = backbone.pattern(job.replace(width=width))
        assert int(parts.knobs("suite.mixers", spec)["heads"]) * HEAD_SIZE == width
    assert job.arm == "attention", "an arm's name is the same at every scale"


def test_an_arm_that_says_how_many_heads_it_has_keeps_them() -> None:
    specs = backbone.pattern(Job(mixer="attention:heads=2+attention+lstm", depth=3, width=512, head_size=64))
    assert [parts.short("suite.mixers", spec) for spec in specs] == ["attention:heads=2", "attention:heads=8", "lstm"]
