"""Numbers, units and places as people read them."""

import math
import shlex
from collections.abc import Sequence

from suite import parts
from suite.claims import Number
from suite.job import Job
from suite.parts import Value
from suite.sweep.record import Row

PREFIXES = {1e15: "P", 1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k", 1.0: "", 1e-3: "m", 1e-6: "µ", 1e-9: "n"}
NUMERALS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
OUTCOMES = {"oom": "out of memory", "did_not_compile": "did not compile"}


def number(value: float, digits: int = 3) -> str:
    """Three significant digits, thousands set apart by commas; whole numbers, which may be exact, in full."""
    if isinstance(value, int) or (math.isfinite(value) and value.is_integer() and value):
        return f"{value:,.0f}"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    if places > 6:
        return f"{value:.{digits - 1}e}"
    return f"{round(value, places):,.{max(places, 0)}f}"


def lengths(job: Job) -> str:
    """The tokens of a training example: 1,024 tokens an example; of a mixture its lengths with their weights."""
    return f"lengths {job.lengths} in tokens" if job.lengths else f"{job.length:,} tokens an example"


def millions(value: int) -> str:
    """A count in running text: 1.64 million."""
    return f"{number(value / 1e6)} million" if value >= 1e6 else f"{value:,}"


def si(value: float, unit: str) -> str:
    """A value with an SI prefix, one to three digits before the point: 21.3 ms, 1.05 MB."""
    if value == 0:
        return f"0 {unit}"
    size = next((size for size in PREFIXES if abs(value) >= size), 1e-9)
    return f"{number(value / size)} {PREFIXES[size]}{unit}"


def seconds(value: float) -> str:
    return si(value, "s") if value < 100 else f"{value:,.0f} s"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %" if abs(value) < 0.0995 else f"{100 * value:.0f} %"


def measured(quantity: Number) -> str:
    """Value, unit and interval: 1.6x (95 % 1.4 to 1.9)."""
    unit = quantity.unit if quantity.unit in ("", "x") else f" {quantity.unit}"
    text = f"{number(quantity.value)}{unit}"
    if quantity.low is None or quantity.high is None:
        return text if quantity.exact else f"{text} (no interval)"
    return f"{text} (95 % {number(quantity.low)} to {number(quantity.high)})"


def arm(name: str) -> str:
    """An arm in the middle of a sentence."""
    return str(parts.constant("suite.mixers", name, "NAME")) if name in parts.names("suite.mixers") else name


def outcome(name: str) -> str:
    return {name: name, **OUTCOMES}[name]


def place(devices: Row, environment: Row) -> str:
    """The devices of a place: 2 CPU cores (AMD EPYC), or 8 x NVIDIA H200."""
    if not devices:
        return "no device yet"
    name, n_devices = devices["device_kind"], devices["n_devices"]
    if devices["platform"] != "cpu":
        return f"{n_devices} x {name}"
    cores = f"the CPU ({name})"
    if "cores" in environment:
        cores = f"{environment['cores']} CPU core{'' if environment['cores'] == 1 else 's'} ({name})"
    return cores if n_devices == 1 else f"{cores} as {n_devices} devices"


def listed(words: Sequence[str]) -> str:
    """a, b and c"""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def count(value: int) -> str:
    """A whole number in running text; a word up to ten."""
    return NUMERALS[value] if value < len(NUMERALS) else f"{value:,}"


def counted(value: int, noun: str, nouns: str = "") -> str:
    """one seed, two seeds; a plural that is no such one is given"""
    return f"{count(value)} {noun if value == 1 else nouns or f'{noun}s'}"


def spelt(name: str) -> str:
    """A file's name in a sentence: path length."""
    return name.replace("_", " ")


def value(knob: Value) -> str:
    return f"{knob:g}" if isinstance(knob, float) else str(knob)


def in_bits(row: Row) -> bool:
    """Whether a token of the task is a byte: then nats a token are bits a byte times ln 2."""
    return parts.split(row["task"])[0] == "text"


def printable(text: str) -> str:
    """A line for a terminal, which a record's text shall not command."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def command(argv: Sequence[str]) -> str:
    return shlex.join(["python", "-m", *argv])
