"""RWKV-7: Peng et al. 2025, "RWKV-7 Goose with Expressive Dynamic State Evolution".

The value residual from the first layer is left out, as a mixer sees one layer; its channel mixing is the block's MLP.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from suite.mixers import Recurrence
from suite.ops import convolution, implementations, initial, low_rank, multihead, precision

NAME = "RWKV-7"
FAMILY = "low_rank"
STATE = "matrix"
# The input before the chunk, and a matrix a head.
State = tuple[Float[Array, "B D"], Float[Array, "B H K P"]]
FASTEST = 0.606531  # exp(-1/2): a decay is at least exp(-FASTEST)
MIXED = ("r", "w", "k", "v", "a", "g")  # inputs that are each their own mean of this token and the last


class Mixer(Recurrence):
    """S_t = (diag(w) - (a * c) c^T) S_{t-1} + k v^T read by r, a bonus for the token itself, norm, gate, projection.

    c is the removal key at length 1, a how much of it is replaced, w = exp(-exp(-1/2) sigmoid(..)) the decay; w, a and
    the gate g come from products of low rank (`lora` channels; 0 is 2.5 sqrt(D), and twice that for the gate). Heads
    have at most `head_size` channels, and there are at least 4, unless `heads` says how many.
    """

    n_heads: int = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    shift_G: Float[Array, " G"]  # how much of the last token is mixed into each of MIXED
    receptance_DF: Float[Array, "D F"]
    key_DF: Float[Array, "D F"]
    value_DF: Float[Array, "D F"]
    decay_down_DN: Float[Array, "D N"]
    decay_up_NF: Float[Array, "N F"]
    decay_bias_F: Float[Array, " F"]
    replace_down_DN: Float[Array, "D N"]
    replace_up_NF: Float[Array, "N F"]
    replace_bias_F: Float[Array, " F"]
    gate_down_DG: Float[Array, "D G"]
    gate_up_GF: Float[Array, "G F"]
    removal_F: Float[Array, " F"]
    key_replace_F: Float[Array, " F"]
    bonus_F: Float[Array, " F"]
    norm_F: Float[Array, " F"]
    norm_bias_F: Float[Array, " F"]
    out_FD: Float[Array, "F D"]

    def __init__(
        self,
        width: int,
        *,
        key: PRNGKeyArray,
        heads: int = 0,
        head_size: int = 64,
        lora: int = 0,
        implementation: str = "auto",
    ):
        if lora < 0:
            raise ValueError(f"lora {lora} wants at least 0")
        heads = multihead.count(width, heads, head_size)
        implementations.check(FAMILY, implementation)
        self.n_heads, self.implementation = heads, implementation
        size = multihead.size(width, heads)
        inner, rank = heads * size, lora or 8 * -(-round(2.5 * width**0.5) // 8)
        receptance_key, key_key, value_key, out_key, low_key = jax.random.split(key, 5)
        low_keys = jax.random.split(low_key, 6)
        # Vectors start as the paper's code has them for a layer in the middle; those of its first and last ones lie on
        # either side. Matrices start as those of every arm.
        channel_D, channel_F = jnp.arange(width) / width, jnp.arange(inner) / max(1, inner - 1)
        power_6 = 0.5 * jnp.asarray([0.2, 0.9, 0.7, 0.7, 0.9, 0.2], jnp.float32)
        self.shift_G = (1.0 - channel_D[None].astype(jnp.float32) ** power_6[:, None]).reshape(-1)
        zigzag_F = 2 * (jnp.arange(inner) % size) / max(1, size - 1) - 1
        zigzag_F = zigzag_F * jnp.abs(zigzag_F)
        self.receptance_DF = initial.dense(receptance_key, width, width, inner)
        self.key_DF = initial.dense(key_key, width, width, inner)
        self.value_DF = initial.dense(value_key, width, width, inner)
        # The second matrices start small: decays and replacement rates start near their biases.
        self.decay_down_DN = initial.dense(low_keys[0], width, width, rank)
        self.decay_up_NF = 0.1 * initial.dense(low_keys[1], rank, rank, inner)
        self.decay_bias_F = (-6 + 6 * channel_F**1.8 + 0.5 + 2.5 * zigzag_F).astype(jnp.float32)
        self.replace_down_DN = initial.dense(low_keys[2], width, width, rank)
        self.replace_up_NF = 0.1 * initial.dense(low_keys[3], rank, rank, inner)
        self.replace_bias_F = (-0.19 + 0.3 * zigzag_F + 0.4 * (channel_F - 0.5)).astype(jnp.float32)
        self.gate_down_DG = initial.dense(low_keys[4], width, width, 2 * rank)
        self.gate_up_GF = initial.dense(low_keys[5], 2 * rank, 2 * rank, inner)
        self.removal_F = (0.71 - 0.1 * (channel_F - 0.5)).astype(jnp.float32)
        self.key_replace_F = jnp.full(inner, 1.02, jnp.float32)
        self.bonus_F = jnp.full(inner, -0.04, jnp.float32)
        self.norm_F = jnp.ones(inner, jnp.float32)
        self.norm_bias_F = jnp.zeros(inner, jnp.float32)
        self.out_FD = initial.dense(out_key, inner, inner, width)

    def ran(self, dtype: jnp.dtype, *, cut: bool = False) -> str:
        return implementations.choose(FAMILY, self.implementation, dtype, cut=cut)

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> State:
        del length  # a vector and a matrix a head, whatever the context
        size, wide = self.norm_F.shape[0] // self.n_heads, precision.wide(dtype)
        last_BD = jnp.zeros((batch, self.out_FD.shape[1]), wide)
        return last_BD, jnp.zeros((batch, self.n_heads, size, size), wide)

    def extend(
        self, x_BTD: Float[Array, "B T D"], state: State, starts_BT: Bool[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B T D"], State]:
        last_BD, state_BHKP = state
        before_BTD = convolution.shifted(x_BTD, last_BD, starts_BT)
        inputs, gate_BTF = self._project(x_BTD, before_BTD)
        recurrence = implementations.pick(FAMILY, self.ran(x_BTD.dtype))
        if starts_BT is None:
            y_BTHP, state_BHKP = recurrence(*inputs, state_BHKP, FASTEST)
        else:
            y_BTHP, state_BHKP = recurrence(*low_rank.cut(inputs, starts_BT), state_BHKP)
        return self._merge(y_BTHP, inputs[:3], gate_BTF), (x_BTD[:, -1].astype(last_BD.dtype), state_BHKP)

    def step(self, x_BD: Float[Array, "B D"], state: State) -> tuple[Float[Array, "B D"], State]:
        last_BD, state_BHKP = state
        inputs, gate_BF = self._project(x_BD, last_BD.astype(x_BD.dtype))
        y_BHP, state_BHKP = low_rank.step(inputs, state_BHKP)
        return self._merge(y_BHP, inputs[:3], gate_BF), (x_BD.astype(last_BD.dtype), state_BHKP)

    def _project(
        self, x_D: Float[Array, "*T D"], before_D: Float[Array, "*T D"]
    ) -> tuple[tuple[Array, ...], Float[Array, "*T F"]]:
        """Receptance, key, value, removal and replacement keys, logarithms of decays (wide), all by head; the gate."""
        dtype, wide = x_D.dtype, precision.wide(x_D.dtype)
        shares: dict[str, Array] = dict(zip(MIXED, jnp.split(self.shift_G, len(MIXED)), strict=True))

        def mix(name: str) -> Float[Array, "*T D"]:
            return x_D + jnp.broadcast_to(shares[name].astype(dtype), x_D.shape) * (before_D - x_D)

        def product(x: Array, weight: Array, dtype_out: jnp.dtype = dtype) -> Array:
            return jnp.matmul(x, weight.astype(dtype), preferred_element_type=dtype_out)

        def along(parameter_F: Float[Array, " F"], like_F: Float[Array, "*T F"]) -> Float[Array, "*T F"]:
            return jnp.broadcast_to(parameter_F, like_F.shape).astype(like_F.dtype)

        r_F = product(mix("r"), self.receptance_DF)
        k_F = product(mix("k"), self.key_DF)
        v_F = product(mix("v"), self.value_DF)
        decay_F = product(jnp.tanh(product(mix("w"), self.decay_down_DN)), self.decay_up_NF, wide)
        log_decay_F = -FASTEST * jax.nn.sigmoid(decay_F + along(self.decay_bias_F, decay_F))
        replace_F = product(product(mix("a"), self.replace_down_DN), self.replace_up_NF, wide)
        replace_F = jax.nn.sigmoid(replace_F + along(self.replace_bias_F, replace_F)).astype(dtype)
        gate_F = product(jax.nn.sigmoid(product(mix("g"), self.gate_down_DG)), self.gate_up_GF)
        c_HK = multihead.unit(multihead.split(k_F * along(self.removal_F, k_F), self.n_heads))
        k_F = k_F * (1 + (replace_F - 1) * along(self.key_replace_F, k_F))
        r_HK, k_HK, v_HP, replace_HK, log_decay_HK = (
            multihead.split(x_F, self.n_heads) for x_F in (r_F, k_F, v_F, replace_F, log_decay_F)
        )
        return (r_HK, k_HK, v_HP, c_HK, replace_HK * c_HK, log_decay_HK), gate_F

    def _merge(
        self, y_HP: Float[Array, "*T H P"], read: tuple[Array, ...], gate_F: Float[Array, "*T F"]
    ) -> Float[Array, "*T D"]:
        r_HK, k_HK, v_HP = read
        dtype, wide = gate_F.dtype, y_HP.dtype
        y_F = multihead.layer_norm(y_HP, self.norm_F, epsilon=1e-5 * y_HP.shape[-1])
        y_F = y_F + jnp.broadcast_to(self.norm_bias_F, y_F.shape)
        bonus_HK = multihead.split(self.bonus_F, self.n_heads)
        bonus_H1 = jnp.sum((r_HK * k_HK).astype(wide) * jnp.broadcast_to(bonus_HK, r_HK.shape), axis=-1, keepdims=True)
        y_F = y_F + multihead.join(bonus_H1 * v_HP.astype(wide))
        return (y_F.astype(dtype) * gate_F) @ self.out_FD.astype(dtype)
