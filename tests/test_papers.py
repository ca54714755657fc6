"""Every mixer against its paper's equations, written out one token after another in NumPy and float64."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from suite import parts
from suite.ops import attention

WIDTH, BATCH, LENGTH, HEADS = 32, 2, 40, 4  # more than one chunk, and no multiple of one
# float32 rounds at 6e-8; some hundred products and some dozen dependent steps, summed in another order, stay below.
CLOSE = 1e-5


@functools.cache
def build(spec: str):
    module, knobs = parts.load("suite.mixers", spec)
    return module.Mixer(WIDTH, key=jax.random.key(0), **knobs)


def inputs() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (BATCH, LENGTH, WIDTH), jnp.float32)


def numbers(mixer) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf, np.float64) for name, leaf in vars(mixer).items() if eqx.is_array(leaf)}


def moved(mixer):
    """Parameters away from where they start: at a bias of zero, a wrong sign or order would not show."""
    return jax.tree.map(lambda leaf: leaf + jnp.linspace(-0.2, 0.3, leaf.size).reshape(leaf.shape), mixer)


def assert_close(actual, wanted) -> None:
    actual = np.asarray(actual, np.float64)
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=CLOSE * np.max(np.abs(wanted)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return np.log1p(np.exp(x))


def unit(x):
    return x / np.sqrt(np.sum(x**2) + 1e-6)


def rms(x, epsilon: float = 1e-6):
    return x / np.sqrt(np.mean(x**2) + epsilon)


def convolved(weights: dict, x_TF: np.ndarray) -> np.ndarray:
    """The short convolution with its bias, of a mixer that has them."""
    taps_CF = next((leaf for name, leaf in weights.items() if name.startswith("taps_C")), np.ones((1, 1)))
    bias_F = next((leaf for name, leaf in weights.items() if name.startswith("taps_bias")), 0.0)
    shifted_CTF = np.stack([np.pad(x_TF, ((tap, 0), (0, 0)))[: len(x_TF)] for tap in range(len(taps_CF))])
    return np.sum(taps_CF[:, None] * shifted_CTF, axis=0) + bias_F


def whole(blocks_HKG: np.ndarray, gates: int) -> np.ndarray:
    """The matrix with the blocks of each gate on its diagonal, gates side by side."""
    by_gate = np.split(blocks_HKG, gates, axis=2)
    return np.concatenate([np.asarray(scipy.linalg.block_diag(*blocks_HKK)) for blocks_HKK in by_gate], axis=1)


def elman(weights: dict, x_TD: np.ndarray) -> np.ndarray:
    h_N, outputs = np.zeros(WIDTH), []
    for x_D in x_TD:
        h_N = np.tanh(x_D @ weights["input_DN"] + h_N @ whole(weights["recurrent_HKK"], 1) + weights["bias_N"])
        outputs.append(h_N)
    return np.stack(outputs)


def lstm(weights: dict, x_TD: np.ndarray) -> np.ndarray:
    h_N, c_N, outputs = np.zeros(WIDTH), np.zeros(WIDTH), []
    for x_D in x_TD:
        into_N, forget_N, cell_N, out_N = np.split(
            x_D @ weights["input_DG"] + h_N @ whole(weights["recurrent_HKG"], 4) + weights["bias_G"], 4
        )
        c_N = sigmoid(forget_N) * c_N + sigmoid(into_N) * np.tanh(cell_N)
        h_N = sigmoid(out_N) * np.tanh(c_N)
        outputs.append(h_N)
    return np.stack(outputs)


def gru(weights: dict, x_TD: np.ndarray) -> np.ndarray:
    h_N, outputs = np.zeros(WIDTH), []
    w_r, w_z, w_n = np.split(weights["input_DG"], 3, axis=1)
    u_r, u_z, u_n = np.split(whole(weights["recurrent_HKG"], 3), 3, axis=1)
    b_r, b_z, b_n = np.split(weights["bias_G"], 3)
    for x_D in x_TD:
        reset_N = sigmoid(x_D @ w_r + h_N @ u_r + b_r)
        update_N = sigmoid(x_D @ w_z + h_N @ u_z + b_z)
        new_N = np.tanh(x_D @ w_n + b_n + reset_N * (h_N @ u_n + weights["reset_bias_N"]))
        h_N = (1 - update_N) * new_N + update_N * h_N
        outputs.append(h_N)
    return np.stack(outputs)


def mingru(weights: dict, x_TD: np.ndarray) -> np.ndarray:
    h_N, outputs = np.zeros(WIDTH), []
    w_z, w_h = np.split(weights["input_DG"], 2, axis=1)
    for x_D in x_TD:
        update_N = sigmoid(x_D @ w_z + weights["bias_N"])
        h_N = (1 - update_N) * h_N + update_N * (x_D @ w_h)
        outputs.append(h_N)
    return np.stack(outputs)


def minlstm(weights: dict, x_TD: np.ndarray) -> np.ndarray:
    h_N, outputs = np.zeros(WIDTH), []
    w_f, w_i, w_h = np.split(weights["input_DG"], 3, axis=1)
    b_f, b_i = np.split(weights["bias_G"], 2)
    for x_D in x_TD:
        forget_N, into_N = sigmoid(x_D @ w_f + b_f), sigmoid(x_D @ w_i + b_i)
        h_N = (forget_N * h_N + into_N * (x_D @ w_h)) / (forget_N + into_N)
        outputs.append(h_N)
    return np.stack(outputs)


def lru(weights: dict, x_TD: np.ndarray) -> np.ndarray:
    decay_N = np.exp(-np.exp(weights["decay_N"]) + 1j * np.exp(weights["phase_N"]))
    real, imaginary = np.split(weights["input_DG"], 2, axis=1)
    out_real, out_imaginary = np.split(weights["out_GD"], 2, axis=0)
    h_N, outputs = np.zeros(WIDTH, complex), []
    for x_D in x_TD:
        h_N = decay_N * h_N + np.exp(weights["gain_N"]) * (x_D @ (real + 1j * imaginary))
        outputs.append(np.real(h_N @ (out_real - 1j * out_imaginary)) + weights["skip_D"] * x_D)
    return np.stack(outputs)


def rglru(weights: dict, x_TD: np.ndarray) -> np.ndarray:
    w_branch, w_u = np.split(weights["input_DG"], 2, axis=1)
    w_r, w_i = np.split(weights["gate_HKG"], 2, axis=2)
    b_r, b_i = np.split(weights["gate_bias_G"], 2)
    h_N, outputs = np.zeros(w_u.shape[1]), []
    for x_D, u_N in zip(x_TD, convolved(weights, x_TD @ w_u), strict=True):
        branch_N = x_D @ w_branch
        blocks = np.split(u_N, HEADS)
        r_N = sigmoid(np.concatenate([u_K @ w_KK for u_K, w_KK in zip(blocks, w_r, strict=True)]) + b_r)
        i_N = sigmoid(np.concatenate([u_K @ w_KK for u_K, w_KK in zip(blocks, w_i, strict=True)]) + b_i)
        a_N = sigmoid(weights["decay_N"]) ** (8 * r_N)
        h_N = a_N * h_N + np.sqrt(1 - a_N**2) * i_N * u_N
        gelu_N = 0.5 * branch_N * (1 + np.tanh(np.sqrt(2 / np.pi) * (branch_N + 0.044715 * branch_N**3)))
        outputs.append((gelu_N * h_N) @ weights["out_ND"])
    return np.stack(outputs)


def slstm(weights: dict, x_TD: np.ndarray) -> np.ndarray:
    """Without the stabiliser: float64 holds exp(i) of these inputs as it is."""
    h_N, c_N, n_N, outputs = np.zeros(WIDTH), np.zeros(WIDTH), np.zeros(WIDTH), []
    for x_D in x_TD:
        by_head = [h_K @ w_KG for h_K, w_KG in zip(np.split(h_N, HEADS), weights["recurrent_HKG"], strict=True)]
        recurrent_G = np.concatenate(
            [np.concatenate(gate) for gate in zip(*(np.split(x, 4) for x in by_head), strict=True)]
        )
        into_N, forget_N, cell_N, out_N = np.split(x_D @ weights["input_DG"] + recurrent_G + weights["bias_G"], 4)
        c_N = sigmoid(forget_N) * c_N + np.exp(into_N) * np.tanh(cell_N)
        n_N = sigmoid(forget_N) * n_N + np.exp(into_N)
        h_N = sigmoid(out_N) * c_N / n_N
        normed = [rms(h_K - np.mean(h_K)) for h_K in np.split(h_N, HEADS)]
        outputs.append(np.concatenate(normed) * weights["norm_N"])
    return np.stack(outputs)


def mlstm(weights: dict, x_TD: np.ndarray) -> np.ndarray:
    """Without the stabiliser: float64 holds exp(i) of these inputs as it is."""
    keys = (weights["qkv_DE"].shape[1] - 2 * WIDTH) // 2
    memory, normaliser = [0.0] * HEADS, [0.0] * HEADS
    outputs = []
    seen_TD = silu(convolved(weights, x_TD)) if "taps_CE" in weights else x_TD
    for x_D, seen_D in zip(x_TD, seen_TD, strict=True):
        q_F, k_F = np.split(seen_D @ weights["qkv_DE"][:, : 2 * keys], 2)
        v_F, gate_F = np.split(x_D @ weights["qkv_DE"][:, 2 * keys :], 2)
        into_H, forget_H = np.split(x_D @ weights["gate_DG"] + weights["gate_bias_G"], 2)
        y_F = []
        for head in range(HEADS):
            q_K, k_K, v_P = (np.split(x_F, HEADS)[head] for x_F in (q_F, k_F, v_F))
            k_K = k_K / np.sqrt(len(k_K))
            memory[head] = sigmoid(forget_H[head]) * memory[head] + np.exp(into_H[head]) * np.outer(v_P, k_K)
            normaliser[head] = sigmoid(forget_H[head]) * normaliser[head] + np.exp(into_H[head]) * k_K
            y_P = memory[head] @ q_K / max(abs(normaliser[head] @ q_K), 1.0)
            y_F.append(rms(y_P - np.mean(y_P)))
        outputs.append((sigmoid(gate_F) * np.concatenate(y_F) * weights["norm_F"]) @ weights["out_FD"])
    return np.stack(outputs)


def mamba2(weights: dict, x_TD: np.ndarray) -> np.ndarray:
    inner, d_state = 2 * WIDTH, 64
    state, outputs = [0.0] * HEADS, []
    z_TF, u_TF = np.split(x_TD @ weights["input_DE"], [inner], axis=1)
    for x_D, z_F, u_F in zip(x_TD, z_TF, silu(convolved(weights, u_TF)), strict=True):
        x_F, b_K, c_K = np.split(u_F, np.cumsum([inner, d_state]))
        step_H = softplus(x_D @ weights["step_DH"] + weights["step_bias_H"])
        y_F = []
        for head, x_P in enumerate(np.split(x_F, HEADS)):
            decay = np.exp(-step_H[head] * np.exp(weights["rate_H"][head]))
            state[head] = decay * state[head] + step_H[head] * np.outer(x_P, b_K)
            y_F.append(state[head] @ c_K + weights["skip_H"][head] * x_P)
        outputs.append((rms(np.concatenate(y_F) * silu(z_F)) * weights["norm_F"]) @ weights["out_FD"])
    return np.stack(outputs)


def gla(weights: dict, x_TD: np.ndarray) -> np.ndarray:
    keys = WIDTH // 2
    state, outputs = [np.zeros((keys // HEADS, WIDTH // HEADS))] * HEADS, []
    qkv_TF, gate_TF = np.split(x_TD @ weights["input_DE"], [2 * keys + WIDTH], axis=1)
    qkv_TF = silu(convolved(weights, qkv_TF)) if "taps_CE" in weights else qkv_TF
    for x_D, qkv_F, gate_F in zip(x_TD, qkv_TF, gate_TF, strict=True):
        q_F, k_F, v_F = np.split(qkv_F, np.cumsum([keys, keys]))
        alpha_F = sigmoid(x_D @ weights["down_DN"] @ weights["up_NF"] + weights["decay_bias_F"]) ** (1 / 16)
        y_F = []
        for head in range(HEADS):
            q_K, k_K, v_P, alpha_K = (np.split(part_F, HEADS)[head] for part_F in (q_F, k_F, v_F, alpha_F))
            state[head] = np.diag(alpha_K) @ state[head] + np.outer(k_K, v_P)
            y_F.append(rms(q_K @ state[head] / np.sqrt(len(q_K))))
        outputs.append((silu(gate_F) * np.concatenate(y_F) * weights["norm_F"]) @ weights["out_FD"])
    return np.stack(outputs)


def deltanet(weights: dict, x_TD: np.ndarray, largest: float = 1.0) -> np.ndarray:
    size = WIDTH // HEADS
    state, outputs = [np.zeros((size, size))] * HEADS, []
    for x_D, qkv_F in zip(x_TD, silu(convolved(weights, x_TD @ weights["input_DE"])), strict=True):
        q_F, k_F, v_F = np.split(qkv_F, 3)
        beta_H = largest * sigmoid(x_D @ weights["beta_DH"])
        y_F = []
        for head, beta in enumerate(beta_H):
            q_K, k_K, v_P = (np.split(part_F, HEADS)[head] for part_F in (q_F, k_F, v_F))
            q_K, k_K = unit(q_K), unit(k_K)
            state[head] = state[head] @ (np.eye(size) - beta * np.outer(k_K, k_K)) + beta * np.outer(v_P, k_K)
            y_F.append(rms(state[head] @ q_K))
        outputs.append((np.concatenate(y_F) * weights["norm_F"]) @ weights["out_FD"])
    return np.stack(outputs)


def reflecting(weights: dict, x_TD: np.ndarray) -> np.ndarray:
    return deltanet(weights, x_TD, largest=2.0)


def gated_deltanet(weights: dict, x_TD: np.ndarray) -> np.ndarray:
    keys, inner = 3 * WIDTH // 4, 3 * WIDTH // 2
    state, outputs = [np.zeros((inner // HEADS, keys // HEADS))] * HEADS, []
    for x_D, qkv_F in zip(x_TD, silu(convolved(weights, x_TD @ weights["input_DE"])), strict=True):
        q_F, k_F, v_F = np.split(qkv_F, np.cumsum([keys, keys]))
        beta_H = sigmoid(x_D @ weights["beta_DH"])
        step_H = softplus(x_D @ weights["step_DH"] + weights["step_bias_H"])
        alpha_H = np.exp(-np.exp(weights["rate_H"]) * step_H)
        y_F = []
        for head, (alpha, beta) in enumerate(zip(alpha_H, beta_H, strict=True)):
            q_K, k_K, v_P = (np.split(part_F, HEADS)[head] for part_F in (q_F, k_F, v_F))
            q_K, k_K = unit(q_K), unit(k_K)
            forget_KK = alpha * (np.eye(len(k_K)) - beta * np.outer(k_K, k_K))
            state[head] = state[head] @ forget_KK + beta * np.outer(v_P, k_K)
            y_F.append(rms(state[head] @ q_K))
        outputs.append((silu(x_D @ weights["gate_DF"]) * np.concatenate(y_F) * weights["norm_F"]) @ weights["out_FD"])
    return np.stack(outputs)


def rwkv7(weights: dict, x_TD: np.ndarray) -> np.ndarray:
    size = WIDTH // HEADS
    state, outputs, last_D = [np.zeros((size, size))] * HEADS, [], np.zeros(WIDTH)
    for x_D in x_TD:
        x_r, x_w, x_k, x_v, x_a, x_g = x_D + weights["shift_G"].reshape(6, WIDTH) * (last_D - x_D)
        last_D = x_D
        r_F, k_F, v_F = x_r @ weights["receptance_DF"], x_k @ weights["key_DF"], x_v @ weights["value_DF"]
        low_N = np.tanh(x_w @ weights["decay_down_DN"])
        w_F = np.exp(-np.exp(-0.5) * sigmoid(low_N @ weights["decay_up_NF"] + weights["decay_bias_F"]))
        a_F = sigmoid(x_a @ weights["replace_down_DN"] @ weights["replace_up_NF"] + weights["replace_bias_F"])
        g_F = sigmoid(x_g @ weights["gate_down_DG"]) @ weights["gate_up_GF"]
        removal_F = k_F * weights["removal_F"]
        k_F = k_F * (1 + (a_F - 1) * weights["key_replace_F"])
        y_F = []
        for head in range(HEADS):
            r_K, w_K, k_K, v_P, a_K, c_K, bonus_K, scale_P, bias_P = (
                np.split(part_F, HEADS)[head]
                for part_F in (
                    *(r_F, w_F, k_F, v_F, a_F, removal_F),
                    *(weights["bonus_F"], weights["norm_F"], weights["norm_bias_F"]),
                )
            )
            c_K = unit(c_K)
            state[head] = state[head] @ (np.diag(w_K) - np.outer(c_K, a_K * c_K)) + np.outer(v_P, k_K)
            y_P = state[head] @ r_K
            y_P = rms(y_P - np.mean(y_P), 1e-5 * size) * scale_P + bias_P
            y_F.append(y_P + np.sum(r_K * bonus_K * k_K) * v_P)
        outputs.append((np.concatenate(y_F) * g_F) @ weights["out_FD"])
    return np.stack(outputs)


RECURRENCES = {
    **{paper.__name__: paper for paper in (elman, lstm, gru, mingru, minlstm, lru, rglru, slstm, mlstm, mamba2, gla)},
    **{paper.__name__: paper for paper in (deltanet, gated_deltanet, rwkv7)},
    "deltanet:allow_neg_eigval=true": reflecting,
    **{"elman:heads=4": elman, "lstm:heads=4": lstm, "gru:heads=2": gru},
    **{"mlstm:taps=4": mlstm, "gla:taps=2": gla, "mamba2:taps=0": mamba2, "rglru:taps=0": rglru},
    **{"deltanet:taps=0": deltanet, "gated_deltanet:taps=0": gated_deltanet},
}


@pytest.mark.parametrize("spec", RECURRENCES)
def test_a_recurrence_is_its_papers_equations(spec: str):
    mixer, x_BTD = moved(build(spec)), inputs()
    wanted_BTD = np.stack([RECURRENCES[spec](numbers(mixer), np.asarray(x_TD, np.float64)) for x_TD in x_BTD])
    assert_close(mixer(x_BTD), wanted_BTD)


@pytest.mark.parametrize("spec", RECURRENCES)
def test_gradients_are_those_of_the_papers_equations(spec: str):
    """Along a random direction of the inputs and of each parameter: the equations' central difference in float64."""
    mixer, x_TD = moved(build(spec)), inputs()[0]
    arrays, static = eqx.partition(mixer, eqx.is_array)
    probe_TD = np.random.default_rng(0).normal(size=x_TD.shape)

    def read(arrays, x_TD):
        return jnp.sum(eqx.combine(arrays, static)(x_TD[None])[0] * jnp.asarray(probe_TD, jnp.float32))

    of_arrays, of_x_TD = jax.jit(jax.grad(read, argnums=(0, 1)))(arrays, x_TD)
    gradients = {**numbers(of_arrays), "x": np.asarray(of_x_TD, np.float64)}
    at = {**numbers(mixer), "x": np.asarray(x_TD, np.float64)}
    slopes = {}
    for index, name in enumerate(at):
        direction = np.random.default_rng(index + 1).normal(size=at[name].shape)
        ends = []
        for sign in (1, -1):
            there = {**at, name: at[name] + sign * 1e-6 * direction}
            ends.append(np.sum(RECURRENCES[spec](there, there["x"]) * probe_TD))
        slopes[name] = (ends[0] - ends[1]) / 2e-6, np.sum(gradients[name] * direction)
    largest = max(abs(wanted) for wanted, _ in slopes.values())
    for name, (wanted, found) in slopes.items():
        # A sum over a leaf's entries rounds as the largest of them does, whatever is left of it.
        np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE * 10 * largest, err_msg=name)
        assert wanted != 0, name


# What the papers and their authors' code say of where parameters start.


def start(spec: str) -> dict[str, np.ndarray]:
    module, knobs = parts.load("suite.mixers", spec)
    return numbers(module.Mixer(256, key=jax.random.key(5), **knobs))


def within(values: np.ndarray, low: float, high: float) -> None:
    """All of them, and they fill it: its ends are come near to."""
    assert low <= values.min() < low + 0.2 * (high - low)
    assert high - 0.2 * (high - low) < values.max() <= high


def test_an_lru_starts_on_its_ring_with_normalised_inputs():
    weights = start("lru")
    radius_N = np.exp(-np.exp(weights["decay_N"]))
    within(radius_N, 0.9, 0.999)
    within(np.exp(weights["phase_N"]), 0.0, 6.28)
    np.testing.assert_allclose(np.exp(weights["gain_N"]), np.sqrt(1 - radius_N**2), rtol=1e-4)


def test_an_rglru_starts_with_decays_near_one():
    decay_N = sigmoid(start("rglru")["decay_N"]) ** 8
    within(decay_N, 0.9, 0.999)


@pytest.mark.parametrize(("spec", "slowest"), [("mamba2:heads=64", 1.0), ("gated_deltanet:heads=64", 0.0)])
def test_rates_and_steps_start_where_the_authors_code_has_them(spec: str, slowest: float):
    weights = start(spec)
    within(np.exp(weights["rate_H"]), slowest, 16.0)
    within(np.log(softplus(weights["step_bias_H"])), np.log(1e-3), np.log(1e-1))


def test_forget_gates_of_an_xlstm_start_open_and_apart():
    scalar, matrix = start("slstm"), start("mlstm")
    forget_HK = scalar["bias_G"][256:512].reshape(4, 64)
    np.testing.assert_allclose(forget_HK, np.tile(np.linspace(3, 6, 64), (4, 1)), rtol=1e-6)
    np.testing.assert_allclose(matrix["gate_bias_G"][4:], np.linspace(3, 6, 4), rtol=1e-6)
    assert np.all(matrix["gate_DG"] == 0)
    assert 0 < np.abs(matrix["gate_bias_G"][:4]).max() < 0.5  # ten times less than a normal number


def test_an_rwkv7_starts_with_its_papers_decays():
    within(start("rwkv7")["decay_bias_F"], -6 + 0.5 - 2.5, 0.5 + 2.5)


@pytest.mark.parametrize(("width", "heads"), [(64, 4), (256, 8), (768, 24)])
def test_heads_keep_their_size_as_models_grow(width: int, heads: int):
    for spec, factor in (("mamba2", 2), ("rwkv7", 1)):
        module, knobs = parts.load("suite.mixers", spec)
        built = eqx.filter_eval_shape(
            lambda module=module, knobs=knobs: module.Mixer(width, key=jax.random.key(0), **knobs)
        )
        assert built.n_heads == max(4, heads * factor // 2)


def attend(weights: dict, x_TD: np.ndarray, *, heads: int, kv_heads: int, window: int, positions: str) -> np.ndarray:
    size, outputs = WIDTH // heads, []
    for head in range(heads):
        group = slice((head // (heads // kv_heads)) * size, (head // (heads // kv_heads) + 1) * size)
        q_TK = x_TD @ weights["query_DF"][:, head * size : (head + 1) * size]
        k_TK = x_TD @ weights["key_DF"][:, group]
        v_TK = x_TD @ weights["value_DF"][:, group]
        if positions == "rope":  # a turn in the complex plane of each pair of channels
            turn_TK = np.exp(1j * np.outer(np.arange(LENGTH), 10_000.0 ** (-2 * np.arange(size // 2) / size)))
            q_TK, k_TK = ((x[:, : size // 2] + 1j * x[:, size // 2 :]) * turn_TK for x in (q_TK, k_TK))
        score_TS = np.real(q_TK @ k_TK.conj().T) / np.sqrt(size)
        for query in range(LENGTH):
            for key in range(LENGTH):
                if positions == "alibi":
                    score_TS[query, key] -= 2.0 ** (-8 * (head + 1) / heads) * (query - key)
                if key > query or (window and query - key >= window):
                    score_TS[query, key] = -np.inf
        share_TS = np.exp(score_TS - score_TS.max(axis=1, keepdims=True))
        outputs.append(share_TS / share_TS.sum(axis=1, keepdims=True) @ v_TK)
    return np.concatenate(outputs, axis=1) @ weights["out_FD"]


@pytest.mark.parametrize(
    "knobs",
    [
        {"positions": "none"},
        {"positions": "rope"},
        {"positions": "alibi"},
        {"positions": "rope", "kv_heads": 2},
        {"positions": "alibi", "window": 4, "kv_heads": 1},
    ],
    ids=str,
)
def test_attention_is_its_papers_equations(knobs: dict):
    knobs = {"heads": 4, "kv_heads": 4, "window": 0, **knobs}
    mixer = build("attention:" + ",".join(f"{knob}={value}" for knob, value in knobs.items()))
    x_BTD = inputs()
    wanted_BTD = np.stack([attend(numbers(mixer), np.asarray(x_TD, np.float64), **knobs) for x_TD in x_BTD])
    assert_close(mixer(x_BTD), wanted_BTD)


def test_learned_positions_are_added_to_the_inputs():
    mixer = build("attention:positions=learned,max_length=64")
    weights, x_BTD = numbers(mixer), inputs()
    seen_BTD = np.asarray(x_BTD, np.float64) + weights["learned_SD"][:LENGTH]
    wanted_BTD = np.stack([attend(weights, x_TD, heads=4, kv_heads=4, window=0, positions="none") for x_TD in seen_BTD])
    assert_close(mixer(x_BTD), wanted_BTD)


def test_alibi_slopes_are_the_papers():
    np.testing.assert_allclose(attention.alibi_slopes(8), 0.5 ** np.arange(1, 9), rtol=1e-6)
    # Between powers of two: those of 4 heads, then every second one of 8.
    np.testing.assert_allclose(attention.alibi_slopes(6), [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3], rtol=1e-6)
