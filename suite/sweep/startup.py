"""Settings of a process before JAX starts: malloc, the flags of XLA, signals, and what its lines begin with."""

import contextlib
import ctypes
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TextIO

from absl import logging

# Of glibc's mallopt: no memory from mmap, none given back, one arena.
MALLOPT = {-4: 0, -1: -1, -8: 1}
# LLVM holds back from the widest vectors that a processor has. With them a small GPT's step took 0.87 of PyTorch's time
# and an LSTM language model's 1.00, where in a run without them it was 0.90 and 1.04 (five processes each, two cores of
# an AMD EPYC whose model was not recorded). No other platform notices.
WIDE_VECTORS = "--xla_cpu_prefer_vector_width=512"


def keep_memory() -> None:
    """Keeps what was freed, before any thread has begun. It breaks into pieces: a process may come to twice its size.

    JAX's CPU client takes its buffers from malloc, and glibc returns large ones to the system after every step: page
    faults were a fifth of an attention step's processor time and a third of an LSTM's (1,024 tokens, two cores).
    Accelerators and other C libraries do not notice.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in MALLOPT.items():
            mallopt(parameter, value)


def xla_flags(more: str = "") -> str:
    """The flags of XLA: ours, then the user's, then `more`; the last of two counts. XLA reads them as it starts."""
    return " ".join(filter(None, (WIDE_VECTORS, os.environ.get("XLA_FLAGS", ""), more)))


def check_xla_flags() -> None:
    """ValueError for flags that XLA does not know: it ends the process that reads them, so another one does."""
    if not os.environ.get("XLA_FLAGS"):
        return
    program = "from jaxlib import _jax; _jax.CompileOptions().executable_build_options.debug_options"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode:
        line = done.stderr.partition("] ")[2].partition("\n")[0]
        raise ValueError(f"XLA does not start with XLA_FLAGS={os.environ['XLA_FLAGS']}: {line}")


def tell_xla() -> None:
    """Sets the flags of XLA, which reads them as it starts; ValueError for those of the user that it does not know."""
    check_xla_flags()
    os.environ["XLA_FLAGS"] = xla_flags()


def on_hangup(handler: Callable[[int, object], None]) -> None:
    """Handles the end of the terminal, unless nohup has it ignored."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handler)


def label_lines(rank: int) -> None:
    """Begins every line that Python prints from now on with the rank: the processes of a job share a terminal.

    Libraries in C++ write past it.
    """
    sys.stdout, sys.stderr = (_Labelled(stream, f"rank {rank}: ") for stream in (sys.stdout, sys.stderr))
    logging.get_absl_handler().python_handler.setStream(sys.stderr)


def unlabelled(line: str) -> str:
    """A line of a process without the rank that it begins with."""
    return re.sub(r"^rank \d+: ", "", line)


class _Labelled(io.TextIOBase):
    """A stream whose lines are written whole, each with the label before it."""

    def __init__(self, stream: TextIO, label: str):
        self._stream = stream
        self._label = label
        self._begun = ""  # of the line that is being written

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        if lines:
            self._stream.write("".join(f"{self._label}{line}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    @property
    def encoding(self) -> str:
        return self._stream.encoding
