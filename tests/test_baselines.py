"""The contract of every baseline: it says what it needs and knows, and its value and gradient are ours."""

import importlib.util
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from suite import benchmark, parts

NAMES = parts.names("suite.baselines")


def rows_of(family: str) -> dict[str, Any]:
    return {row["contender"]: row for row in benchmark.run(benchmark.Benchmark(family, 2, 24, 32, 16, "float32"), 1)}


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_says_what_it_needs_and_what_it_knows(name: str) -> None:
    module = benchmark.BASELINES[name]
    assert isinstance(module.PACKAGE, str)
    assert set(module.GRADIENTS) <= {*benchmark.LAYERS, *benchmark.HEADED, *benchmark.OPERATIONS}
    assert set(module.TRAININGS) <= set(parts.names("suite.mixers"))
    assert all(callable(make) for make in (*module.GRADIENTS.values(), *module.TRAININGS.values()))


@pytest.mark.parametrize(
    ("name", "family"), [(name, each) for name in NAMES for each in benchmark.BASELINES[name].GRADIENTS]
)
def test_a_baseline_has_our_value_and_gradient(name: str, family: str) -> None:
    if importlib.util.find_spec(benchmark.BASELINES[name].PACKAGE) is None:
        pytest.skip(f"{benchmark.BASELINES[name].PACKAGE} is not installed")
    rows = rows_of(family)
    assert rows[name]["outcome"] == "ok", rows[name]["error"]  # refused where gradients are others than ours
    ours = rows[benchmark.chosen(benchmark.Benchmark(family, 2, 24, 32, 16, "float32"))]
    assert rows[name]["value"] == pytest.approx(ours["value"], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("family", [*benchmark.LAYERS, *benchmark.HEADED, *benchmark.OPERATIONS])
def test_ours_agree_in_bfloat16_where_this_machine_has_them(family: str) -> None:
    rows = list(benchmark.run(benchmark.Benchmark(family, 1, 24, 32, 16, "bfloat16"), 1))
    ours = [row for row in rows if row["contender"] not in NAMES]
    assert any(row["outcome"] == "ok" for row in ours)
    assert [row["error"] for row in ours if row["outcome"] != "ok" and "gives other" in row["error"]] == []


def attend(q_BTHK: np.ndarray, k_BTHK: np.ndarray, v_BTHK: np.ndarray) -> np.ndarray:
    score_BHTS = np.einsum("BTHK,BSHK->BHTS", q_BTHK, k_BTHK) / q_BTHK.shape[-1] ** 0.5
    weight_BHTS = np.exp(score_BHTS) * np.tri(q_BTHK.shape[1])
    return np.einsum("BHTS,BSHK->BTHK", weight_BHTS / weight_BHTS.sum(-1, keepdims=True), v_BTHK)


def forward_alone(arrays: Mapping[str, np.ndarray], inputs: list[np.ndarray], dtype: str) -> tuple[Callable, Callable]:
    """The right value, and zeros for the gradients."""
    *qkv, weigh = inputs
    return lambda: float(np.sum(attend(*qkv) * weigh)), lambda: ({}, [np.zeros_like(x) for x in qkv])


def test_who_computes_no_gradient_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = types.SimpleNamespace(PACKAGE="numpy", GRADIENTS={"attention": forward_alone}, TRAININGS={})
    monkeypatch.setattr(benchmark, "BASELINES", {"lazy": lazy})
    rows = rows_of("attention")
    assert rows["lazy"]["outcome"] == "refused"
    assert "gives other gradients than ours" in rows["lazy"]["error"]
    assert rows["blocked"]["outcome"] == "ok"
