"""Where a ratio passes through 1, on planted ratios: the crossing, its interval, none, several, an extrapolation."""

import math

import numpy as np
import pytest

from suite.judging.crossing import ABOVE, BELOW, EITHER, REACH, Region, beyond, crossings, regions
from suite.judging.statistics import Interval, t_interval

SURE = [Interval(log, log - 0.1, log + 0.1) for log in (-1.0, 1.0)]


def exact(*logs: float) -> list[Interval]:
    return [Interval(log, log, log) for log in logs]


def test_a_crossing_ranges_over_the_lengths_whose_interval_holds_one() -> None:
    [at] = crossings([16, 64], SURE)
    # Half way both ends count half: sqrt(0.1^2 + 0.1^2) / 2, over a slope of 2 in ln 4.
    half = math.exp(math.hypot(0.05, 0.05) * math.log(4) / 2)
    assert at == pytest.approx((32, 32 / half, 32 * half), rel=1e-3)
    [falling] = crossings([16, 64], SURE[::-1])
    assert falling == pytest.approx(at)
    # Not beyond doubt on one side: then it may lie beyond the lengths that were measured.
    assert crossings([16, 64], [Interval(-0.1, -0.3, 0.1), SURE[1]]) == []
    assert crossings([16, 64, 256], [*SURE, Interval(1.0, -0.5, 2.5)])[0] == pytest.approx(at)


def test_at_the_bounds_of_a_crossing_the_ratio_is_just_not_told_apart() -> None:
    logs = [Interval(-1.0, -1.3, -0.8), Interval(0.5, 0.1, 1.0)]
    [at] = crossings([100, 1000], logs)
    assert [region.side for region in regions([100, 1000], logs)] == [BELOW, EITHER, ABOVE]
    for length, sides in ((at.low, (0.2, 0.5)), (at.high, (0.3, 0.4))):  # of each end the half towards 0
        share = math.log(length / 100) / math.log(10)
        half = math.hypot((1 - share) * sides[0], share * sides[1])
        assert abs((1 - share) * -1.0 + share * 0.5) == pytest.approx(half)


def test_several_crossings_are_several_and_none_is_none() -> None:
    x = [16, 64, 256, 1024]
    assert [at.value for at in crossings(x, exact(-1, 1, 3, -1))] == pytest.approx([32, 256 * 4**0.75])
    assert crossings(x, exact(1, 2, 0.5, 3)) == []
    assert regions(x, exact(1, 2, 0.5, 3)) == [Region(16, 1024, ABOVE)]
    assert regions([16], exact(-1)) == [Region(16, 16, BELOW)]
    assert crossings([], []) == regions([], []) == []


def test_between_two_lengths_in_doubt_their_mean_may_be_beyond_it() -> None:
    doubtful, more = Interval(0.2, -0.3, 0.7), Interval(0.3, -0.1, 0.7)
    assert regions([16, 64], [doubtful, doubtful]) == [Region(16, 64, EITHER)]
    assert [region.side for region in regions([16, 64], [more, more])] == [EITHER, ABOVE, EITHER]


def test_what_is_exact_crosses_at_one_length() -> None:
    [at] = crossings([16, 64], exact(-1, 1))
    assert at.low == at.value == at.high == pytest.approx(32)
    assert crossings([16, 64, 256], exact(-1, 0, 2)) == [Interval(64, 64, 64)]
    assert crossings([16, 64, 256], exact(1, 0, 2)) == [], "it only touches"


def test_crossings_that_are_not_told_apart_are_one() -> None:
    x = [16, 64, 128, 256, 1024]
    doubtful = [Interval(log, log - 0.5, log + 0.5) for log in (0.2, -0.2, 0.2)]
    [at] = crossings(x, [SURE[0], *doubtful, SURE[1]])
    assert at.low < 64
    assert at.high > 256
    assert 64 < at.value < 128


def test_a_line_that_goes_on_is_an_extrapolation() -> None:
    logs = [Interval(log, log - 0.1, log + 0.1) for log in (3.0, 1.0)]
    at = beyond([16, 64], logs)
    assert at is not None
    assert at.value == pytest.approx(128)
    assert 64 < at.low < 128 < at.high
    assert crossings([16, 64], logs) == []
    at = beyond([16, 64], exact(3, 1))
    assert at is not None
    assert at == pytest.approx((128, 128, 128))
    # Of the end that is taken away, what lies on its other side counts.
    one_sided = [Interval(3.0, 2.9, 5.0), Interval(1.0, 0.9, 1.1)]
    longer = beyond([16, 64], one_sided)
    assert longer is not None
    assert longer.low < at.low
    assert longer.high < 150
    assert beyond([16, 64], exact(1, 3)) is None, "it goes away from 1"
    assert beyond([16, 64], exact(-1, 1)) is None, "it is behind"
    assert beyond([16, 64], exact(3, 2.9)) is None, f"it is further than {REACH} times away"
    assert beyond([16, 64], [Interval(1.5, 0.1, 2.9), Interval(1.0, 0.1, 1.9)]) is None, "within no bounds"


def test_the_interval_holds_the_crossing_in_19_of_20() -> None:
    x, truth = [256, 1024], 600.0
    held = []
    for seed in range(400):
        noise = np.random.default_rng([1, seed]).normal(0, 0.2, (2, 6))
        logs = [t_interval(list(math.log(at / truth) + of_length)) for at, of_length in zip(x, noise, strict=True)]
        held += [at.low <= truth <= at.high for at in crossings(x, logs)]
    assert len(held) > 390
    assert sum(held) >= 0.95 * len(held) - 1.65 * math.sqrt(0.95 * 0.05 * len(held))
