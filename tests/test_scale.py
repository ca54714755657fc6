"""Scales: which sizes give way to the user's flags, and what grows with the devices."""

from suite.scale import SCALES

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
