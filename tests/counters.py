"""Counters of energy in files, as Linux shows those of RAPL, and one that moves."""

import contextlib
import pathlib
import threading
from collections.abc import Iterator

RANGE = 262_143_328_850  # microjoules after which a counter begins again


def zone(powercap: pathlib.Path, folder: str, name: str, energy_uj: int) -> pathlib.Path:
    """A zone as Linux shows it; returns the file of its counter."""
    (powercap / folder).mkdir(parents=True)
    (powercap / folder / "name").write_text(f"{name}\n")
    (powercap / folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (powercap / folder / "energy_uj").write_text(f"{energy_uj}\n")
    return powercap / folder / "energy_uj"


@contextlib.contextmanager
def moving(powercap: pathlib.Path) -> Iterator[None]:
    """A package that takes up to 50 watts."""
    counter, over = zone(powercap, "intel-rapl:0", "package-0", 0), threading.Event()

    def move() -> None:
        spent = 0
        while not over.wait(0.02):
            spent += 1_000_000
            (powercap / "next").write_text(str(spent))
            (powercap / "next").replace(counter)

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
