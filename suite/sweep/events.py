"""What a child tells the launch.compare that started it, as JSON lines on a pipe."""

import contextlib
import json
import os
import select
import signal
from typing import Any

from suite.job import Cell


def tell(descriptor: int, event: str, cell: Cell | None = None, **details: Any) -> None:
    """Writes an event."""
    line = json.dumps({"event": event, "cell": cell and cell.to_dict(), **details}) + "\n"
    with contextlib.suppress(BrokenPipeError):  # nobody reads any more: follow_reader gives notice
        os.write(descriptor, line.encode())


def follow_reader(descriptor: int) -> None:
    """Takes the end of the launch.compare that reads the events for a notice of preemption."""
    poll = select.poll()
    poll.register(descriptor, 0)  # of a pipe's end for writing, an error alone: nobody reads any more
    poll.poll()
    os.kill(os.getpid(), signal.SIGTERM)
