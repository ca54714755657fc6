"""What a trained model writes: prompts of the test split, and how it goes on from them."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PyTree

from suite import inference, parts
from suite.inference import Reader
from suite.job import Job
from suite.model.backbone import Model
from suite.sweep.record import Row
from suite.training.rig import Rig

NEEDS = ("learning",)
PLACED = False
RESUMES = False
SECONDS = 8
CONDITIONS = {
    "example": "id",
    "temperature": "1",
    "prompt": "text",
    "continuation": "text",
    "wanted": "text",
    "decoded": "n",
}
QUANTITIES = {"sample": {"agreement": "fraction as agreement_of_example_{example}_at_{temperature}"}}
BOUNDS = {
    "prompts": (1, 10_000),
    "tokens": (1, 2**20),
    "read": (0, 2**28),
    "temperature": (0.0, 100.0),
    "seed": (0, 2**31 - 1),
}


def check(job: Job, task: Any, *, prompts: int, read: int, tokens: int, **_: float) -> None:
    """Refuses a mixer without a state, and a prompt that is longer than an example."""
    if read >= job.length:
        raise ValueError(f"samples: a prompt of {read} tokens leaves none of an example of {job.length}")
    inference.check(job, task, "samples", prompts, _read(job, read) + tokens)


def measure(
    rig: Rig, *, prompts: int = 3, tokens: int = 200, read: int = 0, temperature: float = 0.0, seed: int = 0
) -> Iterator[Row]:
    """A row for each of the first test examples: a prompt of its first `read` tokens, 0 for half, and what comes next.

    At temperature 0 every token is the likeliest; else it is drawn, by `seed`. `wanted` is how the example itself goes
    on, and `agreement` the fraction of those tokens that were written: of text little says more than that it is none.
    """
    length = _read(rig.job, read)
    built = inference.on_one_device(rig, rig.trained)
    tokens_BT = rig.task.batch("test", np.arange(prompts)).tokens_BT
    written_BT = np.asarray(write(built, tokens_BT[:, :length], tokens, temperature, seed))
    is_text = parts.split(rig.job.task)[0] == "text"
    for example in range(prompts):
        wanted_T = tokens_BT[example, length : length + tokens]
        agreement = np.mean(written_BT[example, : len(wanted_T)] == wanted_T)
        yield {
            "phase": "sample",
            "example": example,
            "temperature": temperature,
            "prompt": spelt(tokens_BT[example, :length], is_text),
            "continuation": spelt(written_BT[example], is_text),
            "wanted": spelt(wanted_T, is_text),
            "decoded": tokens,
            "agreement": float(agreement),
            "outcome": "ok",
        }


def _read(job: Job, read: int) -> int:
    """Tokens of a prompt."""
    return read or max(1, job.length // 2)


def write(built: Model, prompt_BT: np.ndarray, tokens: int, temperature: float, seed: int) -> Int[Array, "B N"]:
    """The tokens that a model writes after prompts; at temperature 0 the likeliest, else drawn by the seed."""
    params, static = eqx.partition(built, eqx.is_array)
    batch, length = prompt_BT.shape
    capacity = length + tokens

    @jax.jit
    def go_on(params: Model, token_B: Int[Array, " B"], state: PyTree, key: Key[Array, ""]) -> Int[Array, "N B"]:
        whole = eqx.combine(params, static)

        def one(carry: tuple[Array, PyTree], key: Array) -> tuple[tuple[Array, PyTree], Array]:
            logits_BV, state = whole.step(*carry)
            likeliest_B = jnp.argmax(logits_BV, axis=-1)
            drawn_B = jax.random.categorical(key, logits_BV / temperature) if temperature else likeliest_B
            token_B = drawn_B.astype(jnp.int32)
            return (token_B, state), token_B

        return jax.lax.scan(one, (token_B, state), jax.random.split(key, tokens))[1]

    with jax.default_device(inference.device_of(built)):
        state = inference.make_start(built, batch, capacity)()
        if length > 1:  # the last token of a prompt is the first that is gone on from
            reader = Reader(built, batch, length - 1, capacity, length)
            _, state = reader(reader.cut(prompt_BT[:, :-1]))
        return go_on(params, jnp.asarray(prompt_BT[:, -1]), state, jax.random.key(seed)).T


def spelt(tokens_T: np.ndarray, is_text: bool) -> str:
    """Tokens as a person reads them: bytes as letters, with what is no letter escaped; of other tasks their numbers."""
    if not is_text:
        return " ".join(map(str, tokens_T.tolist()))
    text = bytes(tokens_T.astype(np.uint8)).decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)
