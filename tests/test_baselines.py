"""The contract of every baseline: it says what it needs and knows, and its value and gradient are ours."""

import importlib.util
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from suite import benchmark, contract, parts

NAMES = parts.names("suite.baselines")


def rows_of(family: str, dtype: str = "float32") -> dict[str, Any]:
    return {row["contender"]: row for row in benchmark.run(benchmark.Benchmark(family, 2, 24, 32, 16, dtype), 1)}


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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_who_computes_no_gradient_is_not_timed(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = types.SimpleNamespace(PACKAGE="numpy", GRADIENTS={"attention": forward_alone}, TRAININGS={})
    monkeypatch.setattr(benchmark, "BASELINES", {"lazy": lazy})
    rows = rows_of("attention", dtype)
    assert rows["lazy"]["outcome"] == "refused"
    assert "gives other gradients than ours" in rows["lazy"]["error"]
    assert rows["blocked"]["outcome"] == "ok"


def scaled(leaf: str, factor: float) -> types.SimpleNamespace:
    """A baseline that is our LSTM's plain loop, with one of its gradients scaled."""

    def make(arrays: Mapping[str, np.ndarray], inputs: list[np.ndarray], dtype: str) -> tuple[Callable, Callable]:
        one = benchmark.Benchmark("lstm", 2, 24, 32, 16, dtype)
        right = benchmark._gradient(one, benchmark.Work(dict(arrays), inputs, benchmark._work(one).compute), "scan")
        assert right.gradients is not None
        of_arrays, of_inputs = right.gradients()
        return right.call, lambda: ({**of_arrays, leaf: factor * of_arrays[leaf]}, of_inputs)

    return types.SimpleNamespace(PACKAGE="numpy", GRADIENTS={"lstm": make}, TRAININGS={})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_who_computes_one_wrong_gradient_is_not_timed_and_it_is_named(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = {"recurrent_HKG": 0.0, "input_DG": 1.1, "bias_G": 1.1}
    monkeypatch.setattr(
        benchmark, "BASELINES", {"right": scaled("bias_G", 1.0), **{x: scaled(x, by) for x, by in planted.items()}}
    )
    rows = rows_of("lstm", dtype)
    assert {name: rows[name]["outcome"] for name in ("scan", "factors", "right")} == dict.fromkeys(
        ("scan", "factors", "right"), "ok"
    )
    for leaf in planted:
        assert rows[leaf]["outcome"] == "refused"
        assert f"largest entry: that of {leaf} by " in rows[leaf]["error"]
        assert rows[leaf]["error"].count("that of") == 1


def test_a_benchmark_of_many_tokens_starts_where_rounding_stays_small() -> None:
    """A fifth of the bound is left for it: a sum over the tokens in bfloat16 takes more, as does a chaotic start."""
    one = benchmark.Benchmark("lstm", 1, 512, 32, 16, "bfloat16")
    work = benchmark._work(one)
    program = benchmark._gradient(one, work, "scan")
    assert program.gradients is not None
    assert contract.distance(program.gradients(), benchmark._truth(one, work)) < benchmark.CLOSE["bfloat16"] / 5
