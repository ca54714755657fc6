"""PyTorch: its own recurrent layers, its fused attention, and models of torch.nn modules.

Not compiled by torch.compile: that wants a C++ compiler, which those who time on their laptop need not have.
"""

import functools
import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from suite.job import Job

PACKAGE = "torch"
Arrays = Mapping[str, np.ndarray]
Call = Callable[[], float]
Gradients = tuple[Call, Callable[[], tuple[dict[str, np.ndarray], list[np.ndarray]]]]


def _torch() -> Any:
    """The package, with as many threads as this process may use; it is no dependency of the suite."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch


def _device(torch: Any) -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _tensor(array: np.ndarray, dtype: str = "float32") -> Any:
    torch = _torch()
    return torch.tensor(np.array(array)).to(_device(torch), getattr(torch, dtype))


def _recurrent(name: str, arrays: Arrays, inputs: list[np.ndarray], dtype: str) -> Gradients:
    """Value and gradient of a layer of torch.nn with our weights; its second bias is 0 unless ours has one."""
    torch = _torch()
    width = inputs[0].shape[-1]
    layer = getattr(torch.nn, name)(width, width, batch_first=True)
    _set_recurrent(layer, arrays)
    layer.to(_device(torch), getattr(torch, dtype))
    x_BTD, weigh_BTD = (_tensor(array, dtype) for array in inputs)
    x_BTD.requires_grad_()

    def call() -> float:
        layer.zero_grad()
        x_BTD.grad = None
        value = (layer(x_BTD)[0] * weigh_BTD).sum(dtype=torch.float32)
        value.backward()
        return _done(value)

    def gradients() -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        return _recurrent_gradients(layer, arrays), [_array(x_BTD.grad)]

    return call, gradients


def _recurrent_gradients(layer: Any, arrays: Arrays) -> dict[str, np.ndarray]:
    """As our arrays are laid out, by their names."""
    of_input, of_recurrent = _array(layer.weight_ih_l0.grad).T, _array(layer.weight_hh_l0.grad).T[None]
    of_bias, of_other = _array(layer.bias_ih_l0.grad), _array(layer.bias_hh_l0.grad)
    known = {
        **dict.fromkeys(("input_DG", "input_DN"), of_input),
        **dict.fromkeys(("recurrent_HKG", "recurrent_HKK"), of_recurrent),
        **dict.fromkeys(("bias_G", "bias_N"), of_bias),
        "reset_bias_N": of_other[-of_recurrent.shape[1] :],
    }
    return {name: known[name] for name in arrays}


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


def _set_recurrent(layer: Any, arrays: Arrays) -> None:
    """Our weights, one head: torch has them transposed, gates in the same order, and a bias at either product."""
    torch = _torch()
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.tensor(_first(arrays, "input_DG", "input_DN").T))
        layer.weight_hh_l0.copy_(torch.tensor(_first(arrays, "recurrent_HKG", "recurrent_HKK")[0].T))
        layer.bias_ih_l0.copy_(torch.tensor(_first(arrays, "bias_G", "bias_N")))
        layer.bias_hh_l0.zero_()
        if "reset_bias_N" in arrays:
            width = len(arrays["reset_bias_N"])
            layer.bias_hh_l0[-width:].copy_(torch.tensor(arrays["reset_bias_N"]))


def _first(arrays: Arrays, *names: str) -> np.ndarray:
    return np.array(next(arrays[name] for name in names if name in arrays))


def _done(value: Any) -> float:
    """The number; to read it waits for the forward pass alone, so the device is waited for."""
    if value.is_cuda:
        importlib.import_module("torch").cuda.synchronize()
    return value.item()


def attention(arrays: Arrays, inputs: list[np.ndarray], dtype: str) -> Gradients:
    """scaled_dot_product_attention of queries, keys and values (B, T, H, K), heads first as it wants them."""
    del arrays
    torch = _torch()
    *tensors, weigh = (_tensor(np.swapaxes(array, 1, 2), dtype).contiguous() for array in inputs)
    for tensor in tensors:
        tensor.requires_grad_()

    def call() -> float:
        for tensor in tensors:
            tensor.grad = None
        y_BHTK = torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=True)
        value = (y_BHTK * weigh).sum(dtype=torch.float32)
        value.backward()
        return _done(value)

    return call, lambda: ({}, [np.swapaxes(_array(tensor.grad), 1, 2) for tensor in tensors])


def _train(make_mixer: Callable[[Arrays, Callable], Any], weights: Arrays, tokens_BS: np.ndarray, job: Job) -> Call:
    """One step of the language model whose mixers `make_mixer(weights, linear)` makes for a layer; adamw, clipped.

    `weights`: the embedding, the last scale, and every array of a block with the layers before its own axes.
    """
    torch = _torch()
    nn = torch.nn
    device = _device(torch)
    matrices = []

    def linear(array: np.ndarray) -> Any:
        layer = nn.Linear(*array.shape, bias=False)
        layer.weight.data = torch.tensor(np.ascontiguousarray(array.T))
        matrices.append(layer.weight)
        return layer

    def norm(scale: np.ndarray) -> Any:
        layer = nn.RMSNorm(len(scale), eps=1e-6)
        layer.weight.data = torch.tensor(np.array(scale))
        return layer

    class Block(nn.Module):
        def __init__(self, block: Arrays):
            super().__init__()
            self.mixer_norm, self.mlp_norm = norm(block["mixer_scale_D"]), norm(block["mlp_scale_D"])
            self.mixer = make_mixer(block, linear)
            self.gate, self.up, self.down = (linear(block[name]) for name in ("gate_DF", "up_DF", "down_FD"))

        def forward(self, x_BTD: Any) -> Any:
            x_BTD = x_BTD + self.mixer(self.mixer_norm(x_BTD))
            inner_BTD = self.mlp_norm(x_BTD)
            return x_BTD + self.down(nn.functional.silu(self.gate(inner_BTD)) * self.up(inner_BTD))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            vocab, self.width = weights["embedding_VD"].shape
            self.embedding = nn.Embedding(vocab, self.width)
            self.embedding.weight.data = torch.tensor(np.array(weights["embedding_VD"]))
            of_blocks = [name for name in weights if name not in ("embedding_VD", "scale_D")]
            self.blocks = nn.ModuleList(
                Block({name: weights[name][layer] for name in of_blocks}) for layer in range(job.depth)
            )
            self.norm = norm(weights["scale_D"])

        def forward(self, tokens_BT: Any) -> Any:
            x_BTD = self.embedding(tokens_BT) * self.width**0.5
            for block in self.blocks:
                x_BTD = block(x_BTD)
            return self.norm(x_BTD) @ self.embedding.weight.T

    model = Model().to(device)
    matrices.append(model.embedding.weight)
    decayed = {id(weight) for weight in matrices}
    decayed |= {id(weight) for name, weight in model.named_parameters() if "weight_" in name}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trained if id(weight) in decayed], "weight_decay": job.weight_decay},
        {"params": [weight for weight in trained if id(weight) not in decayed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=job.learning_rate, betas=(0.9, 0.95), fused=True)
    tokens_BS = torch.tensor(np.array(tokens_BS, np.int64)).to(device)

    def call() -> float:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=job.dtype == "bfloat16"):
            logits_BTV = model(tokens_BS[:, :-1])
        loss = nn.functional.cross_entropy(logits_BTV.flatten(0, 1).float(), tokens_BS[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(trained, job.clip)
        optimizer.step()
        return _done(loss)

    return call


def train_attention(weights: Arrays, tokens_BS: np.ndarray, job: Job) -> Call:
    """A small GPT: rotary positions, four heads, fused attention."""
    torch = _torch()
    heads = 4

    def rotate(x_BHTK: Any, cos_TK: Any, sin_TK: Any) -> Any:
        first, second = x_BHTK.chunk(2, dim=-1)
        return torch.cat([first * cos_TK - second * sin_TK, second * cos_TK + first * sin_TK], dim=-1)

    class Attention(torch.nn.Module):
        def __init__(self, block: Arrays, linear: Callable):
            super().__init__()
            names = ("query_DF", "key_DF", "value_DF", "out_FD")
            self.query, self.key, self.value, self.out = (linear(block[name]) for name in names)
            half = block["query_DF"].shape[1] // heads // 2
            angle_TK = torch.arange(job.length)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
            self.register_buffer("cos_TK", angle_TK.cos())
            self.register_buffer("sin_TK", angle_TK.sin())

        def forward(self, x_BTD: Any) -> Any:
            q, k, v = (
                each(x_BTD).unflatten(-1, (heads, -1)).transpose(1, 2) for each in (self.query, self.key, self.value)
            )
            q, k = (rotate(each, self.cos_TK, self.sin_TK).to(v.dtype) for each in (q, k))
            y_BHTK = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(y_BHTK.transpose(1, 2).flatten(2))

    return _train(Attention, weights, tokens_BS, job)


def train_lstm(weights: Arrays, tokens_BS: np.ndarray, job: Job) -> Call:
    """The same with nn.LSTM; the bias that ours has not stays 0."""
    torch = _torch()

    class Recurrent(torch.nn.Module):
        def __init__(self, block: Arrays, linear: Callable):
            super().__init__()
            del linear
            width = block["bias_G"].shape[0] // 4
            self.layer = torch.nn.LSTM(width, width, batch_first=True)
            _set_recurrent(self.layer, block)
            self.layer.bias_hh_l0.requires_grad_(requires_grad=False)

        def forward(self, x_BTD: Any) -> Any:
            return self.layer(x_BTD)[0]

    return _train(Recurrent, weights, tokens_BS, job)


GRADIENTS = {
    **{
        mixer: functools.partial(_recurrent, name)
        for mixer, name in {"lstm": "LSTM", "gru": "GRU", "elman": "RNN"}.items()
    },
    "attention": attention,
}
TRAININGS = {"attention": train_attention, "lstm": train_lstm}
