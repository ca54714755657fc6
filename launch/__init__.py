"""Programs: python -m launch.<name> --flags. One door: flags in, the exit codes of suite/sweep/exit_codes.py out."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from absl import app, flags, logging

from suite import files
from suite.sweep import exit_codes

# Of glibc's mallopt: no memory from mmap, none given back, one arena.
MALLOPT = {-4: 0, -1: -1, -8: 1}
# LLVM holds back from the widest vectors that a processor has. With them a small GPT's step took 0.87 of PyTorch's time
# and an LSTM language model's 1.00, where in a run without them it was 0.90 and 1.04 (five processes each, two cores of
# an AMD EPYC whose model was not recorded). No other platform notices.
WIDE_VECTORS = "--xla_cpu_prefer_vector_width=512"

LONGEST_SECONDS = 30 * 24 * 3600.0


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
    """What XLA is told: ours, then the user's, which count where both say something, then `more`. Read as it starts."""
    return " ".join(filter(None, (WIDE_VECTORS, os.environ.get("XLA_FLAGS", ""), more)))


flags.disclaim_key_flags()  # those that are defined here are the caller's


class _Directory(flags.ArgumentParser):
    syntactic_help = "a path or gs://"

    def parse(self, argument: str) -> str:
        return os.fspath(files.root(argument))


def define_directory(name: str, default: str | None, help: str) -> flags.FlagHolder:
    """Defines a flag of the calling program that names a directory: expanded here, whoever reads it reads the same."""
    return flags.DEFINE(_Directory(), name, default, help, serializer=flags.ArgumentSerializer())


def check_xla_flags() -> None:
    """ValueError for flags that XLA does not know: it ends the process that reads them, so another one does."""
    if not os.environ.get("XLA_FLAGS"):
        return
    program = "from jaxlib import _jax; _jax.CompileOptions().executable_build_options.debug_options"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode:
        line = done.stderr.partition("] ")[2].partition("\n")[0]
        raise ValueError(f"XLA does not start with XLA_FLAGS={os.environ['XLA_FLAGS']}: {line}")


def define_seconds(
    name: str, default: float, help: str, low: float, high: float = LONGEST_SECONDS
) -> flags.FlagHolder[float]:
    """A flag of seconds between two bounds; what is no number of seconds, as NaN, lies outside of them."""
    holder = flags.DEFINE_float(name, default, help)
    flags.register_validator(name, lambda seconds: low <= seconds <= high, f"wants {low:g} to {high:g} seconds")
    return holder


class Stopped(BaseException):
    """A signal has asked the program to end; like KeyboardInterrupt it passes by what catches errors."""

    def __init__(self, code: int):
        self.code = code


def run(main: Callable[[], int | None], more: flags.FlagHolder | None = None) -> NoReturn:
    """Parses the flags and runs a program; what the command line got wrong is answered in one line.

    Arguments without a flag are more values of the flag `more`, where that was given: --diff A B.
    """

    def parse(argv: list[str]) -> list[str]:
        try:
            left = flags.FLAGS(argv)
        except flags.Error as error:
            refuse(error)
        if more is not None and more.present:
            flags.FLAGS[more.name].value = [*more.value, *left[1:]]
            left = left[:1]
        if left[1:]:
            refuse(f"unexpected argument {left[1]!r}; flags are written --name=value")
        return left

    def guarded(_: list[str]) -> int | None:
        signal.signal(signal.SIGINT, _stop)
        signal.signal(signal.SIGTERM, _stop)
        on_hangup(_stop)
        try:
            return main()
        except Stopped as stopped:
            print("stopped; the same command goes on from here", file=sys.stderr)
            leave(stopped.code)
        except SystemExit as left:
            leave(left.code if isinstance(left.code, int) else exit_codes.REFUSED)
        except exit_codes.NotMet as error:
            print(f"crossover: {error}", file=sys.stderr)
            leave(exit_codes.code_of(error))
        except Exception as error:
            refused = exit_codes.refused_by_files(error)
            if refused:
                print(f"crossover: {refused}", file=sys.stderr)
            else:
                traceback.print_exception(error)
            leave(exit_codes.code_of(error))

    logging.set_verbosity(logging.ERROR)
    logging.set_stderrthreshold(logging.ERROR)
    app.run(guarded, flags_parser=parse)
    raise AssertionError("app.run exits")


def on_hangup(handler: Callable[[int, object], None]) -> None:
    """Says what the end of the terminal does: what SIGTERM does, unless nohup has it ignored."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handler)


def leave(code: int) -> NoReturn:
    """Ends the process at once: what runs at a normal exit would wait for processes of the job that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _stop(number: int, _: object) -> None:
    raise Stopped(exit_codes.INTERRUPTED if number == signal.SIGINT else exit_codes.PREEMPTED)


@contextlib.contextmanager
def door() -> Iterator[None]:
    """What goes wrong in here the user can mend: bad flags, unknown parts, files and packages that are not there."""
    try:
        yield
    except (KeyError, IndexError):
        raise  # a bug of ours: what a user got wrong is never said by these
    except (ValueError, LookupError, TypeError, OSError, ImportError) as error:
        logging.debug("refused", exc_info=error)
        refuse(error)


def refuse(why: object) -> NoReturn:
    """Says in one line why it cannot succeed and exits with 70."""
    text = why.args[0] if isinstance(why, LookupError) and why.args else why
    print(f"crossover: {' '.join(str(text).split())}", file=sys.stderr)
    sys.exit(exit_codes.REFUSED)
