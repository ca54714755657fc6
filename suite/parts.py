"""Parts: the folder is the registry and the file name is the flag value.

A spec is `name:knob=value,knob=value`. The name is a file of a folder ("lstm"), a user's own file
("./mine.py") or an importable module ("mylab.mixers.fast"). Knobs are read from the source text, so a spec
is checked, completed with its defaults and shortened again without importing JAX. A knob is a keyword (of a dataclass:
a field) whose default is a number, a text or a truth, or an expression of numbers; others are left to Python. A line
`BOUNDS = {"blocks": (1, 1000)}` at the top of a file says between which values a knob may lie.
"""

import contextlib
import contextvars
import difflib
import functools
import importlib
import importlib.util
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from suite import literals, user_files
from suite.literals import Value

# What a folder's files define, and so where their knobs stand.
ENTRY = {
    "suite.mixers": "Mixer",
    "suite.tasks": "Task",
    "suite.measures": "measure",
    "suite.claims": "judge",
    "suite.quantities": "cell",
    "launch.engines": "render",
}
LARGEST = 2**31 - 1  # of a knob whose file has no line for it in BOUNDS: beyond that int32 ends, and all that is finite
# What else must stand in such a file.
BESIDE = {
    "suite.mixers": (),
    "suite.tasks": (),
    "suite.measures": ("NEEDS", "PLACED", "RESUMES", "SECONDS", "CONDITIONS", "QUANTITIES"),
    "suite.claims": ("QUESTION", "TEXTBOOK", "CLAIMED", "RULE", "SIZES", "cells", "tell"),
    "suite.quantities": (
        *("values", "ABOUT", "UNIT", "AXIS", "TIMED", "TRAINED", "EXACT", "ROUND", "COMPARED", "DEFAULTS"),
    ),
    "launch.engines": (),
}

_READS_RECORDS = contextvars.ContextVar("reads_records", default=False)


@contextlib.contextmanager
def reading_records() -> Iterator[None]:
    """Within it, parts are files of the folders: other files and modules that a stored spec names stay closed.

    To find a module already runs its parent packages. Such a spec is taken as it stands: stored, it is canonical.
    """
    token = _READS_RECORDS.set(True)
    try:
        yield
    finally:
        _READS_RECORDS.reset(token)


def is_own(folder: str, spec: str) -> bool:
    """Whether a spec names a user's own file or module and not a file of the folder."""
    return split(spec)[0] not in _files(folder)


def load(folder: str, spec: str) -> tuple[ModuleType, dict[str, Value]]:
    """Imports the part that `spec` names; returns its module and all its knobs, defaults resolved."""
    name, _ = split(spec)
    module = _module(folder, name)
    for wanted in (ENTRY[folder], *BESIDE[folder]):
        if wanted not in vars(module):
            raise LookupError(f"{name} defines no {wanted}; {folder.replace('.', '/')}/__init__.py says what it is")
    return module, knobs(folder, spec)


def names(folder: str) -> list[str]:
    """The parts that a folder holds, sorted."""
    return list(_files(folder))


def knobs(folder: str, spec: str) -> dict[str, Value]:
    """All knobs of the part, at the spec's values and otherwise their defaults, in the order of the source."""
    path = source(folder, split(spec)[0])
    changed = path.stat().st_mtime_ns
    return literals.defaults(path, changed, ENTRY[folder]) | _differing(folder, spec, path, changed)


def canonical(folder: str, spec: str) -> str:
    """The spec with every knob spelt out; patterns (`a+b`) part by part."""
    if "+" in spec:
        return "+".join(canonical(folder, part) for part in pattern(spec))
    if _READS_RECORDS.get() and is_own(folder, spec):
        return spec
    return _join(_spelt(folder, split(spec)[0]), knobs(folder, spec))


def short(folder: str, spec: str) -> str:
    """The spec with only the knobs that differ from their defaults: what people type and read."""
    if "+" in spec:
        return "+".join(short(folder, part) for part in pattern(spec))
    name, _ = split(spec)
    if _READS_RECORDS.get() and is_own(folder, spec):
        return spec
    if name.endswith(".py") and not _file(name).is_file():
        return spec  # a stored spec outlives its file
    path = source(folder, name)
    return _join(_spelt(folder, name), _differing(folder, spec, path, path.stat().st_mtime_ns))


def with_knobs(folder: str, spec: str, changes: Mapping[str, Value]) -> str:
    """The spec with other values for some of its knobs."""
    name, _ = split(spec)
    return canonical(folder, _join(name, {**knobs(folder, spec), **changes}))


def constant(folder: str, spec: str, constant: str) -> Any:
    """A number, text or truth, or a tuple or dict of them, at the top of a part's file, which is read, not imported."""
    path = source(folder, split(spec)[0])
    value = literals.at_top(path, path.stat().st_mtime_ns).get(constant)
    if value is None:
        raise LookupError(
            f"{path} defines no {constant} that can be read without running the file; "
            f"{folder.replace('.', '/')}/__init__.py says what it is"
        )
    return value


def about(folder: str, spec: str) -> str:
    """The first line of a part's docstring, read without importing it."""
    return literals.first_line(source(folder, split(spec)[0]))


def pattern(spec: str) -> list[str]:
    """The parts of a hybrid: `rglru+rglru+attention:window=256`."""
    parts = spec.split("+")
    if not all(parts):
        raise ValueError(f"empty part in {spec!r}; wanted name+name:knob=value")
    return parts


def split(spec: str) -> tuple[str, dict[str, str]]:
    """Takes `name:knob=value,knob=value` apart; values stay text."""
    name, _, rest = spec.partition(":")
    given = {}
    for item in rest.split(",") if rest else []:
        knob, equals, value = item.partition("=")
        if not (knob and equals and value):
            raise ValueError(f"cannot read {item!r} in {spec!r}; wanted name:knob=value,knob=value")
        if knob in given:
            raise ValueError(f"knob {knob!r} stands twice in {spec!r}")
        given[knob] = value
    if not name:
        raise ValueError(f"no name in {spec!r}; wanted name:knob=value,knob=value")
    return name, given


def split_list(text: str) -> list[str]:
    """Takes a comma-separated list of specs apart; `knob=value` after a comma belongs to the spec before it."""
    specs: list[str] = []
    for item in filter(None, text.split(",")):
        if specs and ":" in specs[-1] and re.match(r"\w+=", item):
            specs[-1] += f",{item}"
        else:
            specs.append(item)
    return specs


def source(folder: str, name: str) -> pathlib.Path:
    """The file that defines a part; LookupError lists the known ones."""
    files = _files(folder)
    if name in files:
        return files[name]
    if _READS_RECORDS.get():
        raise LookupError(f"{name!r} is no file of {folder}; what else records name is not opened")
    if _is_path(name):
        path = _file(name)
        if not path.is_file():
            raise LookupError(f"no file {name.removesuffix('.py')}.py; wanted a Python file with a {ENTRY[folder]}")
        return path
    if "." in name:
        with user_files.as_lines(name):
            try:
                module = importlib.util.find_spec(name)
            except ModuleNotFoundError:
                module = None
        if module is not None and module.origin is not None:
            return pathlib.Path(module.origin)
        raise LookupError(f"no module {name!r} can be imported; is it on PYTHONPATH?")
    part = folder.rpartition(".")[2].removesuffix("s")
    raise LookupError(f"no {part} {name!r}; {_suggest(name, list(files))}")


def own_files(folder: str, spec: str) -> dict[str, str]:
    """The hash of every file that the parts of a spec are made of and that is none of the suite's, by its name.

    Such a file's own imports from the folder that it lies in are followed, those inside functions too.
    """
    return user_files.hashes(set(_files_of(folder, spec)))


def _module(folder: str, name: str) -> ModuleType:
    path = source(folder, name).resolve()
    if path.parent == _folder(folder):
        return importlib.import_module(f"{folder}.{path.stem}")
    return user_files.load(path) if _is_path(name) else user_files.module_of(name, path)


@contextlib.contextmanager
def own_lines(folder: str, spec: str) -> Iterator[None]:
    """What goes wrong in a user's own files, and is no plain error of the suite, is a ValueError with file and line."""
    files = _files_of(folder, spec)
    with user_files.as_lines(short(folder, spec), files) if files else contextlib.nullcontext():
        yield


def _files_of(folder: str, spec: str) -> list[pathlib.Path]:
    """The user's own files that the parts of a spec are made of."""
    paths = [source(folder, split(part)[0]).resolve() for part in pattern(spec)]
    return [file for path in paths for file in user_files.with_siblings(path)]


def _is_path(name: str) -> bool:
    return name.endswith(".py") or "/" in name


def _file(name: str) -> pathlib.Path:
    """The path that a user means: `./mine` is ./mine.py."""
    path = pathlib.Path(os.path.expanduser(name))
    return path if path.suffix == ".py" else path.with_name(f"{path.name}.py")


def _spelt(folder: str, name: str) -> str:
    """The one spelling of a part's name: by whatever path it was reached, a file is one arm."""
    if name in _files(folder):
        return name
    path = source(folder, name).resolve()
    if path.parent == _folder(folder):
        return path.stem
    if not _is_path(name):
        return name
    if set(user_files.spelt(path)) & set("+,:"):
        raise ValueError(f"{user_files.spelt(path)} cannot be named in a spec: wanted a path without + , and :")
    return user_files.spelt(path)


@functools.cache
def _folder(folder: str) -> pathlib.Path:
    return user_files.SUITE.parent.joinpath(*folder.split("."))


def _files(folder: str) -> dict[str, pathlib.Path]:
    """The files of a folder by the names of their parts, sorted."""
    path = _folder(folder)
    return _list_files(path, path.stat().st_mtime_ns)


@functools.cache
def _list_files(folder: pathlib.Path, _changed: int) -> dict[str, pathlib.Path]:
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}


@functools.cache
def _differing(folder: str, spec: str, path: pathlib.Path, changed: int) -> dict[str, Value]:
    """The knobs that a spec sets to another value than their default, in the order of the source."""
    name, given = split(spec)
    defaults, bounds = literals.defaults(path, changed, ENTRY[folder]), _bounds(path, changed)
    for knob in given:
        if knob not in defaults:
            raise LookupError(f"{name!r} has no knob {knob!r}; {_suggest(knob, defaults)}")
    values = {knob: _typed(name, knob, text, defaults[knob]) for knob, text in given.items()}
    differing = {knob: values[knob] for knob in defaults if knob in values and values[knob] != defaults[knob]}
    for knob, value in differing.items():
        _check_bounds(name, knob, value, bounds)
    return differing


def _bounds(path: pathlib.Path, changed: int) -> Mapping[str, tuple[float, float]]:
    """The least and the greatest value of each knob that a file's BOUNDS names."""
    bounds = {"BOUNDS": {}, **literals.at_top(path, changed)}["BOUNDS"]
    match bounds:
        case dict() if all(_is_pair(pair) for pair in bounds.values()):
            return bounds
    raise ValueError(f"{path}: wanted BOUNDS as in {{'blocks': (1, 1000)}}")


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(end, int | float) for end in pair)


def _check_bounds(name: str, knob: str, value: Value, bounds: Mapping[str, tuple[float, float]]) -> None:
    if isinstance(value, str | bool):
        return
    low, high = bounds.get(knob, (-LARGEST, LARGEST))
    if not low <= value <= high:
        raise ValueError(f"{name}:{knob} wants {low:g} to {high:g}; got {value}")


def _typed(name: str, knob: str, text: str, default: Value) -> Value:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{name}:{knob} wants true or false, not {text!r}")
        return text.lower() == "true"
    try:
        return type(default)(text)
    except ValueError:
        raise ValueError(f"{name}:{knob} wants {type(default).__name__}, not {text!r}") from None


def _join(name: str, values: dict[str, Value]) -> str:
    text = ",".join(
        f"{knob}={str(value).lower() if isinstance(value, bool) else value}"
        for knob, value in values.items()
        if value != ""
    )
    return f"{name}:{text}" if text else name


def _suggest(word: str, known: list[str] | dict[str, Value]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    listed = ", ".join(known) if known else "none"
    return f"did you mean {near[0]!r}? known: {listed}" if near else f"known: {listed}"
