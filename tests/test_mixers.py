"""The contract of every mixer."""

import ast
import functools
import pathlib
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suite import contract, parts
from suite.contract import BATCH, CHANGED, LENGTH, WIDTH, in_parallel, run
from suite.job import Job
from suite.model import backbone
from suite.ops import implementations

NAMES = parts.names("suite.mixers")
STATES = ("cache", "nonlinear", "diagonal", "matrix")
OPS = pathlib.Path(implementations.__file__).parent
# Every file at its defaults, and the knobs that take another way through the code.
SPECS = [
    *NAMES,
    "attention:positions=none,heads=8,kv_heads=2",
    "attention:positions=alibi,kv_heads=1,window=4",
    "attention:positions=learned,max_length=12,window=40",
    "attention:positions=rope,interpolation=4",
    "attention:positions=rope,ntk=4",
    "elman:heads=4,implementation=scan",
    "gru:heads=2,remat=true",
    "lstm:heads=4,remat=true",
    "mingru:implementation=parallel",
    "lru:implementation=parallel,d_hidden=20",
    "rglru:heads=3,d_rnn=20,taps=1",
    "mamba2:heads=4,ngroups=2,d_state=8,expand=1.5",
    "mlstm:heads=2,qk_dim_factor=1.5,taps=2",
    "gla:heads=2,expand_v=2,gate_logit_normalizer=1,taps=4",
    "deltanet:allow_neg_eigval=true,taps=0",
    "gated_deltanet:allow_neg_eigval=true,heads=3,taps=9",
    "rwkv7:heads=3,lora=5",
]
# float32 rounds at 6e-8; some hundred products and a dozen dependent steps, summed in another order, stay below.
CLOSE = 1e-5


@functools.cache
def build(spec: str, width: int = WIDTH):
    module, knobs = parts.load("suite.mixers", spec)
    return module.Mixer(width, key=jax.random.key(0), **knobs)


def inputs(dtype: str = "float32") -> jax.Array:
    return contract.inputs(WIDTH, dtype)


def probe() -> jax.Array:
    return contract.probe(WIDTH)


def assert_close(actual, wanted, close: float = CLOSE):
    assert contract.distance(actual, wanted) <= close


@pytest.mark.parametrize("spec", SPECS)
def test_three_forms_agree_in_value_and_gradient(spec: str):
    contract.check_forms(build(spec), WIDTH, CLOSE)


@pytest.mark.parametrize(
    "spec",
    [
        *(name for name in NAMES if "implementation" in parts.knobs("suite.mixers", name)),
        "attention:kv_heads=2",
        "attention:window=200",
        "attention:positions=alibi,window=5",
        "elman:heads=2",
        "gru:heads=4",
        "lstm:heads=4",
        "lstm:remat=true",
        "mamba2:ngroups=2",
        "gla:gate_logit_normalizer=1",
        "deltanet:allow_neg_eigval=true",
    ],
)
def test_all_implementations_agree_in_value_and_gradient(spec: str):
    # 300 tokens: more than a block, and no multiple of one.
    x_BTD, probe_BTD = (jax.random.normal(jax.random.key(seed), (1, 300, WIDTH), jnp.float32) for seed in (1, 2))
    cannot = {"cudnn", "splash"} if "alibi" in spec else {"cudnn"}  # cuDNN wants its GPU, splash attention no bias
    cannot |= {"persistent"} if "heads" in spec else set()  # heads of 16 channels and more: tests/test_recurrent.py
    reference, *others = (
        run(in_parallel, build(with_implementation(spec, implementation)), x_BTD, probe_BTD)
        for implementation in implementations.family(family_of(spec)).IMPLEMENTATIONS
        if implementation not in cannot
    )
    assert others
    for other in others:
        assert_close(other, reference)


def family_of(spec: str) -> str:
    return str(parts.constant("suite.mixers", spec, "FAMILY"))


def with_implementation(spec: str, implementation: str) -> str:
    return f"{spec}{',' if ':' in spec else ':'}implementation={implementation}"


@pytest.mark.parametrize("name", NAMES)
def test_a_mixer_says_what_it_is(name: str):
    assert parts.constant("suite.mixers", name, "NAME")
    assert family_of(name) in implementations.FASTEST
    assert parts.constant("suite.mixers", name, "STATE") in STATES


def test_every_family_is_in_the_table_of_what_is_fastest():
    files = [path.stem for path in OPS.glob("*.py")]
    families = {name for name in files if hasattr(implementations.family(name), "IMPLEMENTATIONS")}
    assert families == set(implementations.FASTEST)


@pytest.mark.parametrize("family", implementations.FASTEST)
def test_the_table_refers_to_implementations_that_there_are(family: str):
    written = implementations.family(family).IMPLEMENTATIONS
    for fastest in implementations.FASTEST[family].values():
        assert set(fastest) <= set(written)
    for kernel, same in implementations.family(family).SAME_CHAIN.items():
        assert {kernel, same} <= set(written)
    for implementation in written:
        assert implementations.choose(family, implementation, jnp.dtype("float32")) == implementation


@pytest.mark.parametrize("family", implementations.FASTEST)
def test_an_implementation_that_is_not_written_is_refused(family: str):
    choose = functools.partial(implementations.choose, dtype=jnp.dtype("float32"))
    for ask in (implementations.pick, implementations.check, choose):
        with pytest.raises(ValueError, match="implementation 'phantom' is not known; wanted one of"):
            ask(family, "phantom")
    names = [
        name for name in NAMES if family_of(name) == family and "implementation" in parts.knobs("suite.mixers", name)
    ]
    for name in names:
        with pytest.raises(ValueError, match="implementation 'phantom' is not known"):
            build(f"{name}:implementation=phantom")


def test_a_kernel_that_has_no_float64_does_not_name_itself_there():
    for kernel in ("cudnn", "splash"):
        mixer = build(f"attention:implementation={kernel}")
        assert mixer.ran(jnp.dtype("bfloat16")) == kernel
        assert mixer.ran(jnp.dtype("float64")) == "dense"


@pytest.mark.parametrize("spec", SPECS)
def test_is_causal(spec: str):
    contract.check_causal(build(spec), WIDTH, rounding=0.0)
    before_BTD, after_BTD = (in_parallel(build(spec), x_BTD) for x_BTD in (inputs(), inputs().at[:, CHANGED].add(1.0)))
    assert np.all(np.any(before_BTD[:, CHANGED] != after_BTD[:, CHANGED], axis=-1))


@pytest.mark.parametrize("spec", SPECS)
def test_examples_do_not_see_each_other(spec: str):
    contract.check_examples(build(spec), WIDTH, rounding=0.0)


@pytest.mark.parametrize("spec", SPECS)
def test_sees_the_whole_past_or_its_window(spec: str):
    probe_BTD = jnp.zeros((BATCH, LENGTH, WIDTH), jnp.float32).at[:, CHANGED].set(1.0)
    _, (_, gradient_BTD) = run(in_parallel, build(spec), inputs(), probe_BTD)
    first = max(0, CHANGED + 1 - (int(parts.knobs("suite.mixers", spec).get("window", 0)) or LENGTH))
    assert np.all(np.any(gradient_BTD[:, first : CHANGED + 1] != 0.0, axis=-1))
    np.testing.assert_array_equal(gradient_BTD[:, :first], 0.0)


@pytest.mark.parametrize("spec", SPECS)
def test_outputs_leave_in_the_dtype_of_the_inputs(spec: str):
    contract.check_dtypes(build(spec), WIDTH)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_float32_but_for_rounding(name: str):
    x_BTD, probe_BTD = inputs("bfloat16"), probe().astype("bfloat16")
    low = run(in_parallel, build(name), x_BTD, probe_BTD)
    high, *near = (
        run(
            in_parallel, shaken(build(name), seed), shaken(x_BTD.astype(jnp.float32), seed), probe_BTD.astype("float32")
        )
        for seed in range(5)
    )
    actual, wanted, *others = (
        [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(t)] for t in (low, high, *near)
    )
    for index, (left, right) in enumerate(zip(actual, wanted, strict=True)):
        # 8 bits of mantissa are 0.4 % a rounding; some dozen of them, added up at random, are below 3 %. Where a norm
        # divides by almost nothing, as after one token, one rounding of what comes in is already more.
        moved = max(np.max(np.abs(other[index] - right)) for other in others)
        np.testing.assert_allclose(left, right, rtol=0, atol=max(0.03 * np.max(np.abs(right)), 4 * moved))


def shaken(tree, seed: int):
    """Every number changed by about a rounding of bfloat16; unchanged for seed 0."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    size = 2.0**-8 if seed else 0.0
    noises = [1 + size * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return structure.unflatten([leaf * noise for leaf, noise in zip(leaves, noises, strict=True)])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overflows_over_a_long_sequence_in_bfloat16(name: str):
    # Inputs of ten times unit scale: gates that are open or shut, decays of e^-100 and more within a chunk.
    x_BTD = 10 * jax.random.normal(jax.random.key(1), (1, 4096, WIDTH), jnp.float32)
    high = run(in_parallel, build(name), x_BTD, jnp.ones_like(x_BTD))
    low = run(in_parallel, build(name), x_BTD.astype("bfloat16"), jnp.ones_like(x_BTD).astype("bfloat16"))
    for leaf in jax.tree.leaves((low, high)):
        assert np.all(np.isfinite(np.asarray(leaf, np.float32)))


@pytest.mark.parametrize("spec", SPECS)
def test_a_state_has_the_shape_in_which_it_comes_back(spec: str):
    contract.check_state(build(spec), WIDTH)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if parts.constant("suite.mixers", spec, "STATE") != "cache"])
def test_a_recurrent_state_is_float32_and_does_not_grow(spec: str):
    mixer, dtype = build(spec), jnp.dtype("bfloat16")
    short, long = (jax.eval_shape(lambda length=length: mixer.start(BATCH, length, dtype)) for length in (8, 4096))
    assert short == long
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(short))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("spec", "kv_heads", "window"),
    [("attention", 4, 4096), ("attention:kv_heads=2", 2, 4096), ("attention:kv_heads=1,window=64", 1, 64)],
)
def test_a_cache_holds_the_keys_and_values_of_the_window_and_a_position(
    spec: str, kv_heads: int, window: int, dtype: str
):
    for length in (8, 64, 1000):
        cache = jax.eval_shape(lambda length=length: build(spec).start(BATCH, length, jnp.dtype(dtype)))
        n_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
        a_token = 2 * kv_heads * (WIDTH // 4) * jnp.dtype(dtype).itemsize
        assert n_bytes == BATCH * a_token * min(length, window) + jnp.dtype(jnp.int32).itemsize


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_names_the_paper(name: str):
    doc = ast.get_docstring(ast.parse(parts.source("suite.mixers", name).read_text()))
    assert re.search(r": .+ (19|20)\d\d", (doc or "").splitlines()[0])


@pytest.mark.parametrize(
    ("spec", "width", "said"),
    [
        ("attention:heads=5", 32, "width 32 is not a multiple of heads 5"),
        ("attention:heads=0", 32, "width 32 is not a multiple of heads 0"),
        ("attention:heads=-4", 32, "heads -4"),
        ("attention:kv_heads=3", 32, "heads 4 is not a multiple of kv_heads 3"),
        ("attention:kv_heads=-2", 32, "kv_heads -2"),
        ("attention:window=-1", 32, "window -1"),
        ("attention:max_length=0", 32, "max_length 0"),
        ("attention:positions=sine", 32, "positions 'sine' is not known; wanted one of rope, alibi, learned, none"),
        ("attention:heads=4", 20, "rope wants an even head size"),
        (
            "attention:implementation=fast",
            32,
            "implementation 'fast' is not known; wanted one of auto, reference, dense",
        ),
        ("attention:positions=alibi,implementation=splash", 32, "splash attention knows no distance bias"),
        ("attention:ntk=0.5", 32, "ntk 0.5 want at least 1"),
        ("attention:positions=alibi,interpolation=2", 32, "interpolation 2.0 and ntk 1.0 want at least 1, and are for"),
        ("lstm:heads=5", 32, "width 32 is not a multiple of heads 5"),
        ("lstm:heads=2,implementation=cudnn", 32, "cuDNN's LSTM has one head and not 2"),
        ("gru:heads=0", 32, "width 32 is not a multiple of heads 0"),
        ("gru:dilation=0", 32, "dilation 0 wants at least 1"),
        ("gru:forget=two", 32, "forget wants one of one, spread, chrono; got 'two'"),
        ("elman:start=zero", 32, "start wants one of orthogonal, identity; got 'zero'"),
        ("elman:implementation=fast", 32, "implementation 'fast' is not known; wanted one of auto, reference, scan"),
        (
            "mingru:implementation=fast",
            32,
            "implementation 'fast' is not known; wanted one of auto, reference, parallel",
        ),
        ("lru:r_min=0.5,r_max=0.4", 32, "r_min 0.5 and r_max 0.4 want 0 < r_min < r_max < 1"),
        ("lru:d_hidden=-1", 32, "d_hidden -1 wants at least 0"),
        ("rglru:heads=0", 32, "heads 0 wants at least 1"),
        ("rglru:d_rnn=-1", 32, "d_rnn -1 wants at least 0"),
        ("slstm:heads=5", 32, "width 32 is not a multiple of heads 5"),
        ("mlstm:qk_dim_factor=0", 32, "qk_dim_factor 0.0 wants more than 0"),
        ("mamba2:heads=4,ngroups=3", 32, "heads 4 is not a multiple of ngroups 3"),
        ("mamba2:taps=-1", 32, "taps -1 wants at least 0"),
        ("mamba2:d_state=0", 32, "d_state 0 wants at least 1"),
        ("gla:expand_k=0", 32, "expand_k 0.0 and expand_v 1.0 want more than 0"),
        ("gla:gate_low_rank_dim=0", 32, "gate_low_rank_dim 0 wants at least 1"),
        ("deltanet:expand_v=-1", 32, "expand_k 1.0 and expand_v -1.0 want more than 0"),
        ("rwkv7:lora=-1", 32, "lora -1 wants at least 0"),
        (
            "gated_deltanet:implementation=fast",
            32,
            "implementation 'fast' is not known; wanted one of auto, reference, chunked",
        ),
    ],
)
def test_knobs_that_do_not_fit_are_refused_in_a_line(spec: str, width: int, said: str):
    with pytest.raises(ValueError, match=f"^[^\n]*{re.escape(said)}[^\n]*$"):
        build(spec, width)


def test_learned_positions_end_where_they_end():
    with pytest.raises(ValueError, match="length 12 is beyond max_length 8"):
        build("attention:positions=learned,max_length=8")(inputs())


def test_a_window_as_long_as_the_sequence_is_no_window():
    windowed, whole = build("attention:window=12"), build("attention")
    np.testing.assert_array_equal(in_parallel(windowed, inputs()), in_parallel(whole, inputs()))


# Initialisation, as it is after a model has been put together under jit with its layers stacked.


@functools.cache
def assembled() -> dict:
    """Every mixer of one hybrid of two repeats: its parameters have a leading axis of layers."""
    job = Job(mixer="+".join(NAMES), width=WIDTH, depth=2 * len(NAMES))
    built = eqx.filter_jit(lambda key: backbone.build(job, 64, key=key))(jax.random.key(3))
    return {name: block.mixer for name, block in zip(NAMES, built.pattern, strict=True)}


@pytest.mark.parametrize("name", NAMES)
def test_assembly_keeps_every_initialisation(name: str):
    module, knobs = parts.load("suite.mixers", name)
    many = eqx.filter_vmap(lambda key: module.Mixer(WIDTH, key=key, **knobs))(jax.random.split(jax.random.key(0), 64))
    arrays = jax.tree.leaves(eqx.filter(assembled()[name], eqx.is_array))
    for leaf_L, leaf_S in zip(arrays, jax.tree.leaves(eqx.filter(many, eqx.is_array)), strict=True):
        leaf_L, leaf_S = np.asarray(leaf_L, np.float64), np.asarray(leaf_S, np.float64)
        assert leaf_L.shape[1:] == leaf_S.shape[1:]
        if (leaf_S == leaf_S[0]).all():  # starts at set values
            np.testing.assert_allclose(leaf_L, leaf_S[: len(leaf_L)], rtol=1e-6)  # compiled, a ramp rounds differently
            continue
        # A sample's mean and variance lie within four standard errors of what 64 others have together.
        squares_S = (leaf_S - leaf_S.mean()) ** 2
        four = 4 / np.sqrt(leaf_S[0].size)
        for layer in leaf_L:
            np.testing.assert_allclose(layer.mean(), leaf_S.mean(), rtol=0, atol=four * leaf_S.std())
            variance = np.mean((layer - leaf_S.mean()) ** 2)
            np.testing.assert_allclose(variance, squares_S.mean(), rtol=0, atol=four * squares_S.std())
        assert not np.array_equal(leaf_L[0], leaf_L[1]), "two layers started alike"


def test_forget_gates_of_a_model_start_open():
    open_N = np.log(np.linspace(1, 999, WIDTH))
    wanted_G = np.concatenate([-open_N, open_N, np.zeros(2 * WIDTH)])
    np.testing.assert_allclose(assembled()["lstm"].bias_G, [wanted_G, wanted_G], rtol=1e-5, atol=1e-6)
    cut = backbone.build(Job(mixer="lstm+attention", width=WIDTH, depth=3), 64, key=jax.random.key(3))
    np.testing.assert_allclose(cut.rest[0].mixer.bias_G, wanted_G, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_each_start_of_the_forget_gates_is_its_paper_s(name: str):
    def kept(start: str) -> np.ndarray:
        return np.asarray(build(f"{name}:heads=2,forget={start}").bias_G[WIDTH : 2 * WIDTH], np.float64)

    np.testing.assert_array_equal(kept("one"), 1)
    np.testing.assert_allclose(kept("spread"), np.tile(np.linspace(3, 6, WIDTH // 2), 2), rtol=1e-6)
    memories = np.exp(kept("chrono").reshape(2, -1))  # 1 / (1 - sigmoid(b)) is one more
    np.testing.assert_allclose(memories, np.tile(np.linspace(1, 999, WIDTH // 2), (2, 1)), rtol=1e-5)


def test_the_input_gates_of_chrono_are_closed_as_far_as_its_forget_gates_are_open():
    bias_G = np.asarray(build("lstm:forget=chrono").bias_G)
    np.testing.assert_array_equal(bias_G[:WIDTH], -bias_G[WIDTH : 2 * WIDTH])
    np.testing.assert_array_equal(bias_G[2 * WIDTH :], 0)


def test_an_elman_network_of_identity_starts_with_its_state_kept():
    np.testing.assert_array_equal(build("elman:heads=2,start=identity").recurrent_HKK, [np.eye(WIDTH // 2)] * 2)


@pytest.mark.parametrize(
    ("name", "leaf", "gates"),
    [("elman", "recurrent_HKK", 1), ("gru", "recurrent_HKG", 3), ("lstm", "recurrent_HKG", 4)],
)
def test_recurrent_matrices_of_a_model_start_orthogonal(name: str, leaf: str, gates: int):
    headed_HKG = getattr(build(f"{name}:heads=4"), leaf)
    layers_HKG = np.concatenate(getattr(assembled()[name], leaf)).astype(np.float64)
    for weight_KG in (*layers_HKG, *np.asarray(headed_HKG, np.float64)):
        for gate_KK in np.split(weight_KG, gates, axis=-1):
            size = gate_KK.shape[0]
            np.testing.assert_allclose(gate_KK @ gate_KK.T, np.eye(size), atol=1e-5)  # float32, 32 products
