"""Programs: python -m launch.<name> --flags. One door: flags in, the exit codes of suite/sweep/exit_codes.py out."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags, logging

from suite import files
from suite.sweep import exit_codes, startup

flags.disclaim_key_flags()  # those that are defined here are the caller's


class _Directory(flags.ArgumentParser):
    syntactic_help = "a path or gs://"

    def parse(self, argument: str) -> str:
        return os.fspath(files.root(argument))


def define_directory(name: str, default: str | None, help: str) -> flags.FlagHolder:
    """Defines a flag of the calling program that names a directory: expanded here, whoever reads it reads the same."""
    return flags.DEFINE(_Directory(), name, default, help, serializer=flags.ArgumentSerializer())


def run(main: Callable[..., int | None], more: flags.FlagHolder | None = None, *, command: bool = False) -> NoReturn:
    """Parses the flags and runs a program; what the command line got wrong is answered in one line.

    Arguments without a flag are more values of the flag `more`, where that was given: --diff A B. With `command` they,
    and all that follows the first of them, are what `main` is called with.
    """

    def parse(argv: list[str]) -> list[str]:
        try:
            left = flags.FLAGS(argv)
        except flags.Error as error:
            exit_codes.refuse(error)
        if more is not None and more.present:
            flags.FLAGS[more.name].value = [*more.value, *left[1:]]
            left = left[:1]
        if left[1:] and not command:
            exit_codes.refuse(f"unexpected argument {left[1]!r}; flags are written --name=value")
        return left

    def guarded(argv: list[str]) -> int | None:
        signal.signal(signal.SIGINT, _stop)
        signal.signal(signal.SIGTERM, _stop)
        startup.on_hangup(_stop)
        try:
            return main(*argv[1:])
        except exit_codes.Stopped as stopped:
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


def leave(code: int) -> NoReturn:
    """Ends the process at once: what runs at a normal exit would wait for processes of the job that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _stop(number: int, _: object) -> None:
    raise exit_codes.Stopped(exit_codes.INTERRUPTED if number == signal.SIGINT else exit_codes.PREEMPTED)
