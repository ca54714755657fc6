"""Whole rules on planted truths: wrong in at most one report of twenty, right where the effect is the textbook's."""

import functools

import pytest
import simulated

from suite import learning_rates
from suite.job import Job

REPORTS = 40

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
WORLDS = {(world.claim, world.name): world for world in simulated.worlds()}


@pytest.fixture(autouse=True)
def tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever rate a training has, it was chosen for it."""
    monkeypatch.setattr(learning_rates, "is_tuned", lambda job, choices: True)
    monkeypatch.setattr(Job, "replace", functools.cache(Job.replace))  # most of the time goes into the same jobs


@pytest.mark.parametrize(
    "key",
    [
        ("path_length", "all arms solve it in 50%, quick"),
        ("path_length", "attention, sLSTM and minGRU 100%, other long paths 5%, quick"),
        ("path_length", "attention 100%, long paths 50%, quick"),
        ("path_length", "attention 95%, long paths 5%, control broken, quick"),
        ("state_tracking", "both solve it in 30%, and beyond it, quick"),
        ("state_tracking", "attention 5%, the LSTM 95%, control broken, quick"),
        ("gradient_flow", "20 decades against 0.1, seeds 0.3 decades apart, quick"),
        ("gradient_flow", "20 decades against 0.1, control broken, quick"),
        ("parallelism", "both ratios 10, processes 10% apart"),
        ("parallelism", "both ratios 40, processes 10% apart"),
        ("context_length", "both reach 1,024 tokens, windows 0.001 nats apart"),
        ("context_length", "control broken: no context helps attention, windows 0.001 nats apart"),
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
    share = simulated.rates(world.truth, simulated.verdicts(world, REPORTS))
    assert share["wrong"] <= 0.05, share
    if world.textbook:
        assert share[world.truth] >= 0.8, share
