"""Programs: python -m launch.<name> --flags. Here is their one door: flags in, exit codes out.

0    done; an out-of-memory or diverged cell is done, its outcome is a result
70   cannot succeed: a bad flag, an unknown part, records of another job; one line says what to do
130  interrupted by the user; the same command goes on
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from absl import app, flags, logging

_interrupted = threading.Event()
REFUSED = 70
INTERRUPTED = 130


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
        signal.signal(signal.SIGINT, _interrupt)
        try:
            return main()
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            return INTERRUPTED

    logging.set_verbosity(logging.ERROR)
    logging.set_stderrthreshold(logging.ERROR)
    app.run(guarded, flags_parser=parse)
    raise AssertionError("app.run exits")


def check_interrupt() -> None:
    """Raises KeyboardInterrupt after a Ctrl-C: what was raised where the signal landed, in a callback, may be lost."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


def _interrupt(*_: object) -> None:
    _interrupted.set()
    raise KeyboardInterrupt


@contextlib.contextmanager
def door() -> Iterator[None]:
    """What goes wrong in here the user can mend: bad flags, unknown parts, files that are not there."""
    try:
        yield
    except (KeyError, IndexError):
        raise  # a bug of ours: what a user got wrong is never said by these
    except (ValueError, LookupError, TypeError, OSError) as error:
        logging.debug("refused", exc_info=error)
        refuse(error)


def refuse(why: object) -> NoReturn:
    """Says in one line why it cannot succeed and exits with 70."""
    text = why.args[0] if isinstance(why, LookupError) and why.args else why
    print(f"crossover: {' '.join(str(text).split())}", file=sys.stderr)
    sys.exit(REFUSED)
