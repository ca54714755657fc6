"""A user's own files: their names, their hashes with those of the files beside them, their import and their errors."""

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Collection, Iterator
from types import ModuleType

from suite import literals

SUITE = pathlib.Path(__file__).parent.resolve()
# The hashes of the user's own files as they were when they were imported: an edit after that changes nothing.
_imported: dict[pathlib.Path, str] = {}


def spelt(path: pathlib.Path) -> str:
    """The one name of a user's file: from the working directory where it lies under that, or else from the root."""
    path, here = path.expanduser().resolve(), pathlib.Path.cwd()
    return f"./{path.relative_to(here)}" if here in path.parents else str(path)


def hashes(files: Collection[pathlib.Path]) -> dict[str, str]:
    """The hash of each file, as it was imported where it was, by its name."""
    return {spelt(file): _imported.get(file) or _hash(file) for file in sorted(files)}


def module_of(name: str, path: pathlib.Path) -> ModuleType:
    """Imports a module of the user's by its dotted name, which lies at `path`."""
    files = with_siblings(path)
    _imported.update({file: _hash(file) for file in files if file not in _imported})
    with as_lines(name, files):
        return importlib.import_module(name)


def load(path: pathlib.Path) -> ModuleType:
    """Imports a user's file, once for the life of the process: a class must stay itself between two loads."""
    key = f"crossover_part_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if key not in sys.modules:
        files = with_siblings(path)
        _imported.update({file: _hash(file) for file in files})
        spec = importlib.util.spec_from_file_location(key, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[key] = module = importlib.util.module_from_spec(spec)
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))  # at the end: what it imports from beside it hides nothing installed
        try:
            with as_lines(spelt(path), files):
                spec.loader.exec_module(module)
            _check_siblings(path)
        except BaseException:
            del sys.modules[key]
            raise
    return sys.modules[key]


def with_siblings(path: pathlib.Path) -> list[pathlib.Path]:
    """A user's own file and those that it needs of its folder, one through another; nothing for the suite's own."""
    files: list[pathlib.Path] = []
    left = [path]
    while left:
        path = left.pop()
        if SUITE not in path.parents and path not in files:
            files.append(path)
            left += _siblings(path)
    return files


@contextlib.contextmanager
def as_lines(name: str, files: Collection[pathlib.Path] = ()) -> Iterator[None]:
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
        first_line = str(error).strip().partition("\n")[0]
        raise ValueError(f"{place}: {type(error).__name__}: {first_line}{advice}") from error


def _hash(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _siblings(path: pathlib.Path) -> list[pathlib.Path]:
    return list(_read_siblings(path, path.stat().st_mtime_ns))


@functools.cache
def _read_siblings(path: pathlib.Path, _changed: int) -> tuple[pathlib.Path, ...]:
    """The files of the same folder that a file imports."""
    names: set[str] = set()
    for node in ast.walk(literals.tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level < 2:
            inner = (node.module or "").partition(".")[0]
            names |= {inner} if inner else {alias.name for alias in node.names}
    files = [path.parent / name for name in sorted(names - sys.stdlib_module_names)]
    modules = [file.with_name(f"{file.name}.py") for file in files] + [file / "__init__.py" for file in files]
    return tuple(file.resolve() for file in modules if file.is_file())


def _check_siblings(path: pathlib.Path) -> None:
    """ValueError where another module of the same name was imported in the place of a file beside a user's own."""
    for file in _siblings(path):
        stem = file.parent.name if file.stem == "__init__" else file.stem
        imported = getattr(sys.modules.get(stem), "__file__", None)
        if imported is not None and pathlib.Path(imported).resolve() != file:
            raise ValueError(
                f"{spelt(path)} imports {stem} and gets {imported}, not {spelt(file)}; give that another name"
            )
