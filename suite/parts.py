"""Parts: the folder is the registry and the file name is the flag value.

A spec is `name:knob=value,knob=value`. The name is a file of a folder ("lstm"), a user's own file
("./mine.py") or an importable module ("mylab.mixers.fast"). Knobs are read from the source text, so a spec
is checked, completed with its defaults and shortened again without importing JAX. A knob is a keyword (of a dataclass:
a field) whose default is a number, a text or a truth, or an expression of numbers; others are left to Python. A line
`BOUNDS = {"blocks": (1, 1000)}` at the top of a file says between which values a knob may lie.
"""

import ast
import contextlib
import contextvars
import difflib
import functools
import hashlib
import importlib
import importlib.util
import operator
import os
import pathlib
import re
import sys
import tokenize
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from types import ModuleType
from typing import Any

Value = bool | int | float | str

# What a folder's files define, and so where their knobs stand.
ENTRY = {
    "suite.mixers": "Mixer",
    "suite.tasks": "Task",
    "suite.measures": "measure",
    "suite.claims": "judge",
}
SUITE = pathlib.Path(__file__).parent.resolve()
# What a default may be made with.
UNARY: dict[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_}
BINARY: dict[type, Callable[[Any, Any], Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv},
    **{ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow},
}
LARGEST_POWER = 1000
LARGEST = 2**31 - 1  # of a knob whose file has no line for it in BOUNDS: beyond that int32 ends, and all that is finite
# What else must stand in such a file.
BESIDE = {
    "suite.mixers": (),
    "suite.tasks": (),
    "suite.measures": ("NEEDS", "PLACED", "RESUMES", "SECONDS", "CONDITIONS", "QUANTITIES"),
    "suite.claims": ("QUESTION", "TEXTBOOK", "SAID", "RULE", "SIZES", "cells", "tell"),
}
# Constructor arguments that the suite fills in: never knobs of a spec.
GIVEN = ("length", "seed")
# The hashes of the user's own files as they were when they were imported: an edit after that changes nothing.
_imported: dict[pathlib.Path, str] = {}


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
    name, given = split(spec)
    known = _defaults(folder, name)
    for knob in given:
        if knob not in known:
            raise LookupError(f"{name!r} has no knob {knob!r}; {_suggest(knob, known)}")
    values = {knob: _typed(name, knob, text, known[knob]) for knob, text in given.items()}
    path = source(folder, name)
    bounds = _bounds(path, path.stat().st_mtime_ns)
    for knob, value in values.items():
        if value != known[knob]:
            _check_bounds(name, knob, value, bounds)
    return known | values


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
    known = _defaults(folder, name)
    changed = {knob: value for knob, value in knobs(folder, spec).items() if value != known[knob]}
    return _join(_spelt(folder, name), changed)


def with_knobs(folder: str, spec: str, changes: Mapping[str, Value]) -> str:
    """The spec with other values for some of its knobs."""
    name, _ = split(spec)
    return canonical(folder, _join(name, {**knobs(folder, spec), **changes}))


def constant(folder: str, spec: str, constant: str) -> Any:
    """A number, text or truth, or a tuple or dict of them, at the top of a part's file, which is read, not imported."""
    path = source(folder, split(spec)[0])
    value = _read_constants(path, path.stat().st_mtime_ns).get(constant)
    if value is None:
        raise LookupError(
            f"{path} defines no {constant} that can be read without running the file; "
            f"{folder.replace('.', '/')}/__init__.py says what it is"
        )
    return value


def about(folder: str, spec: str) -> str:
    """The first line of a part's docstring, read without importing it."""
    docstring = ast.get_docstring(_tree(source(folder, split(spec)[0])))
    return docstring.partition("\n")[0] if docstring else ""


def formula(text: str, names: Mapping[str, Value]) -> float:
    """The value of an expression of numbers and names, as in `compilation + steps * max(step, 0.004)`."""
    try:
        value = _evaluate(ast.parse(text, mode="eval").body, names)
    except SyntaxError:
        value = None
    if not isinstance(value, int | float):
        raise ValueError(f"cannot compute {text!r}; wanted numbers, + - * / and max, and of names {', '.join(names)}")
    return value


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
        with _as_lines(name):
            try:
                found = importlib.util.find_spec(name)
            except ModuleNotFoundError:
                found = None
        if found is not None and found.origin is not None:
            return pathlib.Path(found.origin)
        raise LookupError(f"no module {name!r} can be imported; is it on PYTHONPATH?")
    kind = folder.rpartition(".")[2].removesuffix("s")
    raise LookupError(f"no {kind} {name!r}; {_suggest(name, list(files))}")


def own_files(folder: str, spec: str) -> dict[str, str]:
    """The hash of every file that the parts of a spec are made of and that is none of the suite's, by its name.

    Such a file's own imports from the folder that it lies in are followed, those inside functions too.
    """
    files = {file: None for part in pattern(spec) for file in _with_siblings(source(folder, split(part)[0]).resolve())}
    return {spelt(file): _imported.get(file) or _hash(file) for file in sorted(files)}


def spelt(path: pathlib.Path) -> str:
    """The one name of a user's file: from the working directory where it lies under that, or else from the root."""
    path, here = path.expanduser().resolve(), pathlib.Path.cwd()
    return f"./{path.relative_to(here)}" if here in path.parents else str(path)


def _hash(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _with_siblings(path: pathlib.Path) -> list[pathlib.Path]:
    """A user's own file and those that it needs of its folder, one through another; nothing for the suite's own."""
    found: list[pathlib.Path] = []
    left = [path]
    while left:
        path = left.pop()
        if SUITE not in path.parents and path not in found:
            found.append(path)
            left += _siblings(path)
    return found


def _siblings(path: pathlib.Path) -> list[pathlib.Path]:
    return list(_read_siblings(path, path.stat().st_mtime_ns))


@functools.cache
def _read_siblings(path: pathlib.Path, _changed: int) -> tuple[pathlib.Path, ...]:
    """The files of the same folder that a file imports."""
    names: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level < 2:
            inner = (node.module or "").partition(".")[0]
            names |= {inner} if inner else {alias.name for alias in node.names}
    files = [path.parent / name for name in sorted(names - sys.stdlib_module_names)]
    found = [file.with_name(f"{file.name}.py") for file in files] + [file / "__init__.py" for file in files]
    return tuple(file.resolve() for file in found if file.is_file())


def _tree(path: pathlib.Path) -> ast.Module:
    """The syntax tree of a file in whatever encoding its first lines name."""
    try:
        with tokenize.open(path) as file:
            return ast.parse(file.read())
    except SyntaxError as error:  # a cookie that names no encoding, too
        raise ValueError(f"{path}, line {error.lineno or 1}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in the encoding that it names, {error.encoding}: {error.reason}") from error


def _module(folder: str, name: str) -> ModuleType:
    path = source(folder, name).resolve()
    if path.parent == _folder(folder):
        return importlib.import_module(f"{folder}.{path.stem}")
    files = _with_siblings(path)
    if not _is_path(name):
        _imported.update({file: _hash(file) for file in files if file not in _imported})
        with _as_lines(name, files):
            return importlib.import_module(name)
    # One module per file for the life of the process: a class must stay itself between two loads.
    key = f"crossover_part_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if key not in sys.modules:
        _imported.update({file: _hash(file) for file in files})
        found = importlib.util.spec_from_file_location(key, path)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[key] = module
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))  # at the end: what it imports from beside it hides nothing installed
        try:
            with _as_lines(spelt(path), files):
                found.loader.exec_module(module)
            _check_siblings(path)
        except BaseException:
            del sys.modules[key]
            raise
    return sys.modules[key]


@contextlib.contextmanager
def own_lines(folder: str, spec: str) -> Iterator[None]:
    """What goes wrong in a user's own files, and is no plain error of the suite, is a ValueError with file and line."""
    paths = [source(folder, split(part)[0]).resolve() for part in pattern(spec)]
    files = [file for path in paths for file in _with_siblings(path)]
    if not files:
        yield
        return
    with _as_lines(short(folder, spec), files):
        yield


@contextlib.contextmanager
def _as_lines(name: str, files: Collection[pathlib.Path] = ()) -> Iterator[None]:
    """What goes wrong while a user's own module is imported is a ValueError of one line, with its place in `files`."""
    try:
        yield
    except SyntaxError as error:
        raise ValueError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [frame for frame in frames if pathlib.Path(frame.filename).resolve() in files]
        place = f"{spelt(pathlib.Path(theirs[-1].filename))}, line {theirs[-1].lineno}" if theirs else name
        if not theirs and isinstance(error, ValueError | TypeError | OSError):
            raise  # the suite's own words
        relative = isinstance(error, ImportError) and "relative import" in str(error)
        advice = "; import it by its name alone, or give the module by its dotted name" if relative else ""
        said = str(error).strip().partition("\n")[0]
        raise ValueError(f"{place}: {type(error).__name__}: {said}{advice}") from error


def _check_siblings(path: pathlib.Path) -> None:
    """ValueError where another module of the same name was imported in the place of a file beside a user's own."""
    for file in _siblings(path):
        stem = file.parent.name if file.stem == "__init__" else file.stem
        there = getattr(sys.modules.get(stem), "__file__", None)
        if there is not None and pathlib.Path(there).resolve() != file:
            raise ValueError(
                f"{spelt(path)} imports {stem} and gets {there}, not {spelt(file)}; give that another name"
            )


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
    if set(spelt(path)) & set("+,:"):
        raise ValueError(f"{spelt(path)} cannot be named in a spec: wanted a path without + , and :")
    return spelt(path)


@functools.cache
def _folder(folder: str) -> pathlib.Path:
    return SUITE.parent.joinpath(*folder.split("."))


def _files(folder: str) -> dict[str, pathlib.Path]:
    """The files of a folder by the names of their parts, sorted."""
    path = _folder(folder)
    return _list_files(path, path.stat().st_mtime_ns)


@functools.cache
def _list_files(folder: pathlib.Path, _changed: int) -> dict[str, pathlib.Path]:
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}


def _defaults(folder: str, name: str) -> dict[str, Value]:
    path = source(folder, name)
    return _read_defaults(path, path.stat().st_mtime_ns, ENTRY[folder])


@functools.cache
def _read_defaults(path: pathlib.Path, _changed: int, entry: str) -> dict[str, Value]:
    """Knobs and defaults of the class or function `entry` in a file, by its syntax tree."""
    constants = _read_constants(path, _changed)
    for node in _tree(path).body:
        if isinstance(node, ast.FunctionDef) and node.name == entry:
            return _of_function(node, constants)
        if isinstance(node, ast.ClassDef) and node.name == entry:
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
                    return _of_function(inner, constants)
            return _of_dataclass(node, constants)
    raise LookupError(f"{path} defines no {entry}")


def _of_function(node: ast.FunctionDef, constants: Mapping[str, Any]) -> dict[str, Value]:
    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return _evaluated([(arg.arg, default) for arg, default in pairs if default is not None], constants)


def _of_dataclass(node: ast.ClassDef, constants: Mapping[str, Any]) -> dict[str, Value]:
    fields = [
        (item.target.id, item.value)
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and item.value is not None
        and not ast.unparse(item.annotation).startswith(("ClassVar", "typing.ClassVar"))
        and item.target.id not in GIVEN
    ]
    return _evaluated(fields, constants)


def _evaluated(defaults: list[tuple[str, ast.expr]], constants: Mapping[str, Any]) -> dict[str, Value]:
    """The knobs among arguments with defaults: of another default (None, a tuple, a call) it is left to Python."""
    values = {name: _evaluate(default, constants) for name, default in defaults}
    return {name: value for name, value in values.items() if isinstance(value, Value)}


@functools.cache
def _read_constants(path: pathlib.Path, _changed: int) -> dict[str, Any]:
    """The names at the top of a file with their values; None for a value that takes running the file."""
    constants: dict[str, Any] = {}
    for node in _tree(path).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            value = _evaluate(node.value, constants) if node.value else None
            constants.update({target.id: value for target in targets if isinstance(target, ast.Name)})
    return constants


def _evaluate(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    """The value of a constant expression without running any code; None for whatever else stands there."""
    match node:
        case ast.Tuple(items):
            values = tuple(_evaluate(item, constants) for item in items)
            return None if None in values else values
        case ast.Dict(keys, items):
            names, values = ([node and _evaluate(node, constants) for node in nodes] for nodes in (keys, items))
            return None if None in (*names, *values) else dict(zip(names, values, strict=True))
        case ast.Call(ast.Name("max"), items) if items:
            values = [_evaluate(item, constants) for item in items]
            return max(values) if all(isinstance(value, int | float) for value in values) else None
        case ast.Constant(bool() | int() | float() | str() as value):
            return value
        case ast.Name(name):
            return constants.get(name)
        case ast.UnaryOp(op, operand):
            inner, apply = _evaluate(operand, constants), UNARY.get(type(op))
            return apply(inner) if apply and isinstance(inner, int | float) else None
        case ast.BinOp(left, op, right):
            one, other, apply = _evaluate(left, constants), _evaluate(right, constants), BINARY.get(type(op))
            if not (apply and isinstance(one, int | float) and isinstance(other, int | float)):
                return None
            if isinstance(op, ast.Pow) and max(abs(one), abs(other)) > LARGEST_POWER:
                return None
            try:
                value = apply(one, other)
            except ArithmeticError:
                return None
            return value if isinstance(value, int | float) else None  # (-1) ** 0.5 is complex
    return None


def _bounds(path: pathlib.Path, changed: int) -> Mapping[str, tuple[float, float]]:
    """The least and the greatest value of each knob that a file's BOUNDS names."""
    bounds = {"BOUNDS": {}, **_read_constants(path, changed)}["BOUNDS"]
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
