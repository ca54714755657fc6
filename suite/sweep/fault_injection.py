"""Faults that are caused on purpose: `--fault=kill@5:1` kills rank 1 at its fifth step. For tests alone."""

import dataclasses
import os
import re
import signal
import threading

NOTICED = 3.0  # seconds within which a notice has reached every process of a job
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM, "int": signal.SIGINT}
KINDS = (*SIGNALS, "raise", "stuck", "late", "poison", "hog")


@dataclasses.dataclass(frozen=True)
class Fault:
    """What goes wrong, at which step of a training, in which process."""

    kind: str
    step: int
    rank: int

    def strike(self, step: int) -> None:
        """Does its harm at its step: a signal to itself, an exception, no progress, or all the memory there is."""
        if step != self.step:
            return
        if self.kind in SIGNALS:
            os.kill(os.getpid(), SIGNALS[self.kind])
        match self.kind:
            case "term" | "int":
                threading.Event().wait(NOTICED)  # so that it is taken at the next piece of work, whatever that is
            case "raise":
                raise RuntimeError(f"the fault of step {step}")
            case "stuck":
                threading.Event().wait()
            case "hog":
                held = []
                while True:
                    held.append(b"1" * (1 << 25))

    def poisons(self, step: int) -> bool:
        """Whether the batch of a step is to hold NaN."""
        return self.kind == "poison" and step == self.step

    def delay(self) -> None:
        """Comes late to the barrier at the end of a cell."""
        if self.kind == "late":
            threading.Event().wait(60)


def parse(text: str) -> Fault:
    """Reads kind@step:rank."""
    match = re.fullmatch(r"([a-z]+)@([0-9]+):([0-9]+)", text)
    if match is None or match[1] not in KINDS:
        raise ValueError(f"cannot read --fault={text}; wanted kind@step:rank, the kind one of {', '.join(KINDS)}")
    return Fault(match[1], int(match[2]), int(match[3]))
