"""Short convolutions: causal and depthwise, a few taps over the last tokens of each channel."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from suite import mesh as meshes
from suite.ops import context, initial


def taps(key: PRNGKeyArray, count: int, channels: int) -> Float[Array, "C F"] | None:
    """The first weights of `count` taps; None for 0, which is no convolution; ValueError below that."""
    if count < 0:
        raise ValueError(f"taps {count} wants at least 0")
    return initial.dense(key, count, count, channels) if count else None


def start(batch: int, taps_CF: Float[Array, "C F"] | None, dtype: jnp.dtype) -> Float[Array, "B P F"] | None:
    """The inputs before the first token, all zero: as many as there are taps, less one."""
    return None if taps_CF is None else jnp.zeros((batch, taps_CF.shape[0] - 1, taps_CF.shape[1]), dtype)


def extend(
    x_BTF: Float[Array, "B T F"],
    past_BPF: Float[Array, "B P F"] | None,
    taps_CF: Float[Array, "C F"] | None,
    bias_F: Float[Array, " F"] | None = None,
    starts_BT: Bool[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T F"], Float[Array, "B P F"] | None]:
    """The convolution of a chunk of tokens, and the inputs that the next chunk needs; without taps the chunk itself.

    A token of `starts_BT` begins a document, which sees no token before it.
    """
    if taps_CF is None or past_BPF is None:
        return x_BTF, past_BPF
    if x_BTF.shape[1] < past_BPF.shape[1] and meshes.shards_of_context() > 1:
        raise ValueError(f"a shard of {x_BTF.shape[1]} tokens is shorter than {past_BPF.shape[1] + 1} taps")
    past_BPF = context.before(x_BTF[:, max(0, x_BTF.shape[1] - past_BPF.shape[1]) :], past_BPF)
    seen_BSF = jnp.concatenate([past_BPF.astype(x_BTF.dtype), x_BTF], axis=1)
    if starts_BT is None:
        y_BTF, kept_BPF = causal_convolution(seen_BSF, taps_CF), seen_BSF[:, x_BTF.shape[1] :]
    else:
        before = ((0, 0), (past_BPF.shape[1], 0))
        document_BS = jnp.pad(jnp.cumsum(starts_BT.astype(jnp.int32), axis=1), before)
        y_BTF = causal_convolution(seen_BSF, taps_CF, document_BS)
        is_last_BP = document_BS[:, x_BTF.shape[1] :] == document_BS[:, -1:]
        kept_BPF = jnp.where(is_last_BP[..., None], seen_BSF[:, x_BTF.shape[1] :], 0)
    y_BTF = y_BTF if bias_F is None else y_BTF + bias_F.astype(y_BTF.dtype)[None, None]
    return y_BTF, kept_BPF.astype(past_BPF.dtype)


def shifted(
    x_BTD: Float[Array, "B T D"], last_BD: Float[Array, "B D"], starts_BT: Bool[Array, "B T"] | None = None
) -> Float[Array, "B T D"]:
    """The token before each, `last_BD` before the first, and 0 before one that begins a document."""
    last_BD = context.before(x_BTD[:, -1], last_BD)
    before_BTD = jnp.concatenate([last_BD[:, None].astype(x_BTD.dtype), x_BTD[:, :-1]], axis=1)
    return before_BTD if starts_BT is None else jnp.where(starts_BT[..., None], 0, before_BTD)


@jax.jit  # suite/counting/flops.py knows it by its name: a product that no jaxpr shows as one
def causal_convolution(
    seen_BSF: Float[Array, "B S F"], taps_CF: Float[Array, "C F"], document_BS: Int[Array, "B S"] | None = None
) -> Float[Array, "B T F"]:
    """y_t = sum over k of taps_k * x_{t-k}, where `seen_BSF` starts C - 1 tokens before the first.

    With documents' numbers, of the tokens of the same document alone.

    A sum of products of whole arrays: as a contraction or as XLA's own convolution it took 2 to 85 times the time on
    two CPU cores, in float32 and gradients included.
    """
    last = taps_CF.shape[0] - 1
    length = seen_BSF.shape[1] - last

    def back(tap: int) -> Float[Array, "B T F"]:
        x_BTF = seen_BSF[:, last - tap : last - tap + length]
        if document_BS is None:
            return x_BTF
        same_BT = document_BS[:, last - tap : last - tap + length] == document_BS[:, last:]
        return jnp.where(same_BT[..., None], x_BTF, 0)

    return sum(
        (taps_CF[tap].astype(seen_BSF.dtype)[None, None] * back(tap) for tap in range(taps_CF.shape[0])),
        start=jnp.zeros_like(seen_BSF[:, last:]),
    )
