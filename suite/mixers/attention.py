"""Causal attention: Vaswani et al. 2017, "Attention Is All You Need"; grouped keys as in Ainslie et al. 2023."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from suite.ops import attention, implementations, initial

NAME = "attention"
FAMILY = "attention"
STATE = "cache"
STATE_KNOB = "window"
HEADS_KNOB = "heads"
VARIANTS = {"positions": ("rope", "none", "alibi")}
POSITIONS = ("rope", "alibi", "learned", "none")


class Cache(eqx.Module):
    """Keys and values of the tokens seen so far, and how many they are."""

    k_BGSK: Float[Array, "B G S K"]
    v_BGSK: Float[Array, "B G S K"]
    position: Int[Array, ""]


class Mixer(eqx.Module):
    """softmax(q k / sqrt K) v over the past. kv_heads 0 means as many as heads; window 0 means the whole past.

    `interpolation` and `ntk` are remedies of rope for sequences that many times longer than the trained ones.
    """

    takes_kept_state: ClassVar[bool] = True
    heads: int = eqx.field(static=True)
    kv_heads: int = eqx.field(static=True)
    head_size: int = eqx.field(static=True)
    window: int = eqx.field(static=True)
    positions: str = eqx.field(static=True)
    interpolation: float = eqx.field(static=True)
    ntk: float = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    query_DF: Float[Array, "D F"]
    key_DF: Float[Array, "D E"]
    value_DF: Float[Array, "D E"]
    out_FD: Float[Array, "F D"]
    learned_SD: Float[Array, "S D"] | None

    def __init__(
        self,
        width: int,
        *,
        key: PRNGKeyArray,
        heads: int = 4,
        kv_heads: int = 0,
        window: int = 0,
        positions: str = "rope",
        interpolation: float = 1.0,
        ntk: float = 1.0,
        max_length: int = 2048,
        implementation: str = "auto",
    ):
        if heads < 1 or width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        if kv_heads < 0 or heads % (kv_heads or heads):
            raise ValueError(f"heads {heads} is not a multiple of kv_heads {kv_heads}")
        if window < 0 or max_length < 1:
            raise ValueError(f"window {window} wants at least 0 and max_length {max_length} at least 1")
        if positions not in POSITIONS:
            raise ValueError(f"positions {positions!r} is not known; wanted one of {', '.join(POSITIONS)}")
        if positions == "rope" and width // heads % 2:
            raise ValueError(f"rope wants an even head size; width {width} over {heads} heads gives {width // heads}")
        if min(interpolation, ntk) < 1 or (max(interpolation, ntk) > 1 and positions != "rope"):
            raise ValueError(
                f"interpolation {interpolation} and ntk {ntk} want at least 1, and are for rope, not {positions}"
            )
        implementations.check(FAMILY, implementation)
        if positions == "alibi" and implementation == "splash":
            raise ValueError("splash attention knows no distance bias; positions=alibi wants implementation=dense")
        self.heads, self.kv_heads, self.head_size = heads, kv_heads or heads, width // heads
        self.window, self.positions, self.implementation = window, positions, implementation
        self.interpolation, self.ntk = interpolation, ntk
        query_key, key_key, value_key, out_key, learned_key = jax.random.split(key, 5)
        kv_width = self.kv_heads * self.head_size
        self.query_DF = initial.dense(query_key, width, width, width)
        self.key_DF = initial.dense(key_key, width, width, kv_width)
        self.value_DF = initial.dense(value_key, width, width, kv_width)
        self.out_FD = initial.dense(out_key, width, width, width)
        self.learned_SD = initial.dense(learned_key, width, max_length, width) if positions == "learned" else None

    def __call__(
        self, x_BTD: Float[Array, "B T D"], starts_BT: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        y_BTD, _, _ = self._attend(x_BTD, starts_BT)
        return y_BTD

    def read(self, x_BTD: Float[Array, "B T D"], length: int) -> tuple[Float[Array, "B T D"], Cache]:
        """A whole sequence as `__call__` reads it, and the cache for `length` tokens with its keys and values."""
        empty = self.start(x_BTD.shape[0], length, x_BTD.dtype)
        y_BTD, k_BTGK, v_BTGK = self._attend(x_BTD)
        tokens, kept = x_BTD.shape[1], empty.k_BGSK.shape[2]

        def filled(x_BTGK: Float[Array, "B T G K"]) -> Float[Array, "B G S K"]:
            x_BGTK = jnp.swapaxes(x_BTGK, 1, 2)
            if self.window:  # the newest key stands last
                return jnp.pad(x_BGTK, ((0, 0), (0, 0), (max(0, kept - tokens), 0), (0, 0)))[:, :, -kept:]
            return jnp.pad(x_BGTK, ((0, 0), (0, 0), (0, kept - tokens), (0, 0)))

        return y_BTD, Cache(filled(k_BTGK), filled(v_BTGK), jnp.full((), tokens, jnp.int32))

    def ran(self, dtype: jnp.dtype, *, cut: bool = False) -> str:
        biased = self.positions == "alibi"
        implementation = implementations.choose(
            FAMILY, self.implementation, dtype, head_size=self.head_size, biased=biased, cut=cut
        )
        return attention.WIDEST.get(implementation, implementation) if dtype == jnp.float64 else implementation

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> Cache:
        """An empty cache for `length` tokens; more must not be read into it, which a traced position cannot check."""
        self._check_length(length)
        kept = min(length, self.window) if self.window else length
        zero_BGSK = jnp.zeros((batch, self.kv_heads, kept, self.head_size), dtype)
        return Cache(zero_BGSK, zero_BGSK, jnp.zeros((), jnp.int32))

    def extend(self, x_BTD: Float[Array, "B T D"], cache: Cache) -> tuple[Float[Array, "B T D"], Cache]:
        length, kept = x_BTD.shape[1], cache.k_BGSK.shape[2]
        query_T = cache.position + jnp.arange(length, dtype=jnp.int32)
        q_BTHK, k_BTHK, v_BTHK = self._project(x_BTD, query_T)
        new_k_BGTK, new_v_BGTK = (jnp.swapaxes(x_BTHK, 1, 2).astype(cache.k_BGSK.dtype) for x_BTHK in (k_BTHK, v_BTHK))
        if self.window:
            # The oldest key is out of every new query's window: the new ones push it out.
            k_BGSK = jnp.concatenate([cache.k_BGSK[:, :, 1:], new_k_BGTK], axis=2)
            v_BGSK = jnp.concatenate([cache.v_BGSK[:, :, 1:], new_v_BGTK], axis=2)
            key_S = cache.position + jnp.arange(1 - kept, length, dtype=jnp.int32)
        else:
            k_BGSK = jax.lax.dynamic_update_slice_in_dim(cache.k_BGSK, new_k_BGTK, cache.position, axis=2)
            v_BGSK = jax.lax.dynamic_update_slice_in_dim(cache.v_BGSK, new_v_BGTK, cache.position, axis=2)
            key_S = jnp.arange(kept, dtype=jnp.int32)
        y_BTHK = attention.cached(
            q_BTHK, k_BGSK, v_BGSK, query_T=query_T, key_S=key_S, window=self.window, slope_H=self._slopes()
        )
        return self._merge(y_BTHK), Cache(k_BGSK[:, :, -kept:], v_BGSK[:, :, -kept:], cache.position + length)

    def step(self, x_BD: Float[Array, "B D"], cache: Cache) -> tuple[Float[Array, "B D"], Cache]:
        y_BTD, cache = self.extend(x_BD[:, None], cache)
        return y_BTD[:, 0], cache

    def _attend(
        self, x_BTD: Float[Array, "B T D"], starts_BT: Bool[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B T G K"], Float[Array, "B T G K"]]:
        """The outputs of a whole sequence, by the fastest form, with its keys and values."""
        q_BTHK, k_BTHK, v_BTHK = self._project(x_BTD, attention.positions(x_BTD.shape[1]))
        attend = implementations.pick(FAMILY, self.ran(x_BTD.dtype, cut=starts_BT is not None))
        documents = () if starts_BT is None else (jnp.cumsum(starts_BT.astype(jnp.int32), axis=1),)
        return self._merge(attend(q_BTHK, k_BTHK, v_BTHK, self.window, self._slopes(), *documents)), k_BTHK, v_BTHK

    def _project(
        self, x_BTD: Float[Array, "B T D"], at_T: Int[Array, " T"]
    ) -> tuple[Float[Array, "B T H K"], Float[Array, "B T G K"], Float[Array, "B T G K"]]:
        batch, length, _ = x_BTD.shape
        if self.learned_SD is not None:
            self._check_length(length)
            x_BTD = x_BTD + jnp.take(self.learned_SD, at_T, axis=0, mode="clip").astype(x_BTD.dtype)[None]
        q_BTHK, k_BTHK, v_BTHK = (
            (x_BTD @ weight.astype(x_BTD.dtype)).reshape(batch, length, heads, self.head_size)
            for weight, heads in (
                (self.query_DF, self.heads),
                (self.key_DF, self.kv_heads),
                (self.value_DF, self.kv_heads),
            )
        )
        if self.positions == "rope":
            q_BTHK, k_BTHK = (
                attention.rotate(x_BTHK, at_T, interpolation=self.interpolation, ntk=self.ntk)
                for x_BTHK in (q_BTHK, k_BTHK)
            )
        return q_BTHK, k_BTHK, v_BTHK

    def _check_length(self, length: int) -> None:
        if self.learned_SD is not None and length > self.learned_SD.shape[0]:
            known = self.learned_SD.shape[0]
            raise ValueError(f"length {length} is beyond max_length {known} of the learned positions")

    def _merge(self, y_BTHK: Float[Array, "B T H K"]) -> Float[Array, "B T D"]:
        batch, length = y_BTHK.shape[:2]
        return y_BTHK.reshape(batch, length, -1) @ self.out_FD.astype(y_BTHK.dtype)

    def _slopes(self) -> Float[Array, " H"] | None:
        return attention.alibi_slopes(self.heads) if self.positions == "alibi" else None
