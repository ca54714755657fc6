"""Parts: the folder is the registry and the file name is the flag value.

A spec is `name:knob=value,knob=value`. The name is a file of a folder ("lstm"), a user's own file
("./mine.py") or an importable module ("mylab.mixers.fast"). Knobs are read from the source text, so a spec
is checked, completed with its defaults and shortened again without importing JAX.
"""

import ast
import difflib
import functools
import hashlib
import importlib
import importlib.util
import pathlib
import sys
import tokenize
from collections.abc import Mapping
from types import ModuleType

Value = bool | int | float | str

# What a folder's files define, and so where their knobs stand.
ENTRY = {
    "suite.mixers": "Mixer",
    "suite.tasks": "Task",
    "suite.measures": "measure",
    "suite.claims": "judge",
}
SUITE = pathlib.Path(__file__).parent.resolve()
# Constructor arguments that the suite fills in: never knobs of a spec.
GIVEN = ("length", "seed")


def load(folder: str, spec: str) -> tuple[ModuleType, dict[str, Value]]:
    """Imports the part that `spec` names; returns its module and all its knobs, defaults resolved."""
    name, _ = split(spec)
    return _module(folder, name), knobs(folder, spec)


def names(folder: str) -> list[str]:
    """The parts that a folder holds, sorted."""
    return sorted(path.stem for path in _folder(folder).glob("*.py") if path.stem != "__init__")


def knobs(folder: str, spec: str) -> dict[str, Value]:
    """All knobs of the part, at the spec's values and otherwise their defaults, in the order of the source."""
    name, given = split(spec)
    known = _defaults(folder, name)
    for knob in given:
        if knob not in known:
            raise LookupError(f"{name!r} has no knob {knob!r}; {_suggest(knob, known)}")
    return {
        knob: _typed(name, knob, given[knob], default) if knob in given else default for knob, default in known.items()
    }


def canonical(folder: str, spec: str) -> str:
    """The spec with every knob spelt out; patterns (`a+b`) part by part."""
    if "+" in spec:
        return "+".join(canonical(folder, part) for part in pattern(spec))
    return _join(split(spec)[0], knobs(folder, spec))


def short(folder: str, spec: str) -> str:
    """The spec with only the knobs that differ from their defaults: what people type and read."""
    if "+" in spec:
        return "+".join(short(folder, part) for part in pattern(spec))
    name, _ = split(spec)
    if name.endswith(".py") and not pathlib.Path(name).expanduser().is_file():
        return spec  # a stored spec outlives its file
    known = _defaults(folder, name)
    return _join(name, {knob: value for knob, value in knobs(folder, spec).items() if value != known[knob]})


def with_knobs(folder: str, spec: str, changes: Mapping[str, Value]) -> str:
    """The spec with other values for some of its knobs."""
    name, _ = split(spec)
    return canonical(folder, _join(name, {**knobs(folder, spec), **changes}))


def constant(folder: str, spec: str, constant: str) -> Value:
    """A number or a flag that a part's file defines at its top, read without importing it."""
    path = source(folder, split(spec)[0])
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [constant]:
            return ast.literal_eval(node.value)
    raise LookupError(f"{path} defines no {constant}")


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
        if specs and "=" in item.split(":")[0]:
            specs[-1] += f",{item}"
        else:
            specs.append(item)
    return specs


def source(folder: str, name: str) -> pathlib.Path:
    """The file that defines a part; LookupError lists the known ones."""
    if name.endswith(".py"):
        path = pathlib.Path(name).expanduser()
        if not path.is_file():
            raise LookupError(f"no file {name}; wanted a Python file with a {ENTRY[folder]}")
        return path
    if name in names(folder):
        return _folder(folder) / f"{name}.py"
    if "." in name:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is not None and found.origin is not None:
            return pathlib.Path(found.origin)
        raise LookupError(f"no module {name!r} can be imported; is it on PYTHONPATH?")
    kind = folder.rpartition(".")[2].removesuffix("s")
    raise LookupError(f"no {kind} {name!r}; {_suggest(name, names(folder))}")


def own_files(folder: str, spec: str) -> dict[str, str]:
    """The hash of every file that the parts of a spec are made of and that is none of the suite's, by its name.

    Such a file's own imports from the folder that it lies in are followed, those inside functions too.
    """
    found: dict[str, str] = {}
    left = [source(folder, split(part)[0]).resolve() for part in pattern(spec)]
    while left:
        path = left.pop()
        if SUITE not in path.parents and spelt(path) not in found:
            found[spelt(path)] = _hash(path)
            left += _siblings(path)
    return dict(sorted(found.items()))


def spelt(path: pathlib.Path) -> str:
    """The one name of a user's file: from the working directory where it lies under that, or else from the root."""
    path, here = path.expanduser().resolve(), pathlib.Path.cwd()
    return f"./{path.relative_to(here)}" if here in path.parents else str(path)


@functools.cache
def _hash(path: pathlib.Path) -> str:
    """Of a file as this process read it first, which is when it was imported: an edit after that changes nothing."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _siblings(path: pathlib.Path) -> list[pathlib.Path]:
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
    return [file.resolve() for file in found if file.is_file()]


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
    path = source(folder, name)
    if path.parent == _folder(folder):
        return importlib.import_module(f"{folder}.{name}")
    if not name.endswith(".py"):
        return importlib.import_module(name)
    # One module per file for the life of the process: a class must stay itself between two loads.
    key = f"crossover_part_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if key not in sys.modules:
        found = importlib.util.spec_from_file_location(key, path)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[key] = module
        try:
            found.loader.exec_module(module)
        except BaseException:
            del sys.modules[key]
            raise
    return sys.modules[key]


def _folder(folder: str) -> pathlib.Path:
    return pathlib.Path(__file__).parent.parent.joinpath(*folder.split("."))


def _defaults(folder: str, name: str) -> dict[str, Value]:
    path = source(folder, name)
    return _read_defaults(path, path.stat().st_mtime_ns, ENTRY[folder])


@functools.cache
def _read_defaults(path: pathlib.Path, _changed: int, entry: str) -> dict[str, Value]:
    """Knobs and defaults of the class or function `entry` in a file, by its syntax tree."""
    for node in _tree(path).body:
        if isinstance(node, ast.FunctionDef) and node.name == entry:
            return _of_function(node)
        if isinstance(node, ast.ClassDef) and node.name == entry:
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
                    return _of_function(inner)
            return _of_dataclass(node)
    raise LookupError(f"{path} defines no {entry}")


def _of_function(node: ast.FunctionDef) -> dict[str, Value]:
    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return {arg.arg: ast.literal_eval(default) for arg, default in pairs if default is not None}


def _of_dataclass(node: ast.ClassDef) -> dict[str, Value]:
    return {
        item.target.id: ast.literal_eval(item.value)
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and isinstance(item.value, ast.Constant | ast.UnaryOp)
        and not ast.unparse(item.annotation).startswith("ClassVar")
        and item.target.id not in GIVEN
    }


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
