"""Whole rules on planted truths: wrong in at most one report of twenty, right where the effect is the textbook's."""

import pytest
import simulated

REPORTS = 40
WORLDS = {(world.claim, world.name): world for world in simulated.worlds()}


@pytest.mark.parametrize(
    "key",
    [
        ("path_length", "both arms solve it in 50%"),
        ("path_length", "the textbook's arm 95 %, the other 5 %"),
        ("state_tracking", "both arms solve it in 50%"),
        ("compute_scaling", "Chinchilla against Chinchilla, noise 0.003"),
        ("compute_scaling", "floor of 1.4 against floor of 1.4, noise 0.08 to 0.01"),
        ("compute_scaling", "floor of 1.0 against slower, floor of 1.0, noise 0.01 to 0.003"),
        ("compute_scaling", "floor of 1.4 against plateau, noise 0.03 to 0.006"),
        ("compute_scaling", "plateau against power law, noise 0.08 to 0.01"),
    ],
    ids=lambda key: f"{key[0]}: {key[1]}",
)
def test_a_rule_errs_rarely_and_sees_the_textbooks_effect(key: tuple[str, str]) -> None:
    world = WORLDS[key]
    share = simulated.rates(world, REPORTS)
    assert share["wrong"] <= 0.05, share
    if world.textbook:
        assert share[world.truth] >= 0.8, share
