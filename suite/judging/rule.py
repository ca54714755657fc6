"""The hash of a claim's rule: it covers everything that decides, wherever that stands, and nothing else.

From `cells`, `judge` and SIZES of the claim's file every name at the top of a file is followed, into suite/judging,
suite/claims and the files beside a user's own. Where a rule asks for a mixer's VARIANTS, those of the mixers that it
names are part of it. Docstrings, comments, annotations and layout are not hashed; a change of what `tell` alone
reaches, as a title, leaves the hash.
"""

import ast
import copy
import functools
import hashlib
import pathlib
from collections import defaultdict
from collections.abc import Collection, Iterator

ROOTS = ("SIZES", "cells", "judge")
SUITE = pathlib.Path(__file__).resolve().parent.parent
FOLLOWED = (SUITE / "judging", SUITE / "claims", SUITE / "learning_rates.py")
MIXERS = SUITE / "mixers"
VARIANTS = "VARIANTS"  # the name in a mixer's file under which the starts or positions stand that speak for it

Definition = tuple[pathlib.Path, str]  # a name at the top of a file


def rule_hash(claim: pathlib.Path) -> str:
    """Hash of all definitions that a claim's rule reaches."""
    claim = claim.resolve()
    definitions = reached(claim)
    lines = [
        repr((path.stem if path != claim else "", name, [_normal(node) for node in _defined(path)[name]]))
        for path, name in definitions | variants(definitions)
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:12]


def reached(claim: pathlib.Path) -> set[Definition]:
    """The definitions that the rule of a claim's file is made of."""
    claim = claim.resolve()
    definitions: set[Definition] = set()
    left: list[Definition] = [(claim, name) for name in ROOTS]
    while left:
        path, name = left.pop()
        if (path, name) in definitions or name not in _defined(path):
            continue
        definitions.add((path, name))
        for node in _defined(path)[name]:
            left += filter(None, (_resolve(path, chain) for chain in _chains(_without_annotations(node))))
    return definitions


def variants(definitions: Collection[Definition]) -> set[Definition]:
    """VARIANTS of every mixer that definitions name in a string, where they ask for VARIANTS at all."""
    nodes = [node for path, name in definitions for node in _defined(path)[name]]
    strings = {inner.value for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Constant)}
    if VARIANTS not in strings:
        return set()
    mixers = {path for path in MIXERS.glob("*.py") if path.stem in strings}
    return {(path, VARIANTS) for path in mixers if VARIANTS in _defined(path)}


def _resolve(path: pathlib.Path, chain: list[str]) -> Definition | None:
    """Where a name, or a name of an imported module, is defined; nothing for a library's."""
    first, *rest = chain
    if first in _defined(path):
        return path, first
    if first not in _imported(path):
        return None
    dotted = [*_imported(path)[first].split("."), *rest]
    for end in range(len(dotted) - 1, 0, -1):
        for base in (SUITE.parent, path.parent):
            file = base.joinpath(*dotted[:end])
            for source in (file.with_name(f"{file.name}.py"), file / "__init__.py"):
                if source.is_file():
                    return (source, dotted[end]) if _is_followed(source, path) else None
    return None


def _is_followed(source: pathlib.Path, path: pathlib.Path) -> bool:
    """Whether a file takes part in judging: one of the suite's that does, or one beside a user's own."""
    if SUITE in source.parents:
        return any(place == source or place in source.parents for place in FOLLOWED)
    return source.parent == path.parent


def _chains(node: ast.AST) -> Iterator[list[str]]:
    """The names that are read in a definition, each with its attributes: `trials.gather`."""
    for inner in ast.walk(node):
        names: list[str] = []
        while isinstance(inner, ast.Attribute):
            names.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            yield [inner.id, *names]


@functools.cache
def _tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def _defined(path: pathlib.Path) -> dict[str, list[ast.stmt]]:
    """The statements that define or change each name at the top of a file."""
    statements: dict[str, list[ast.stmt]] = defaultdict(list)
    for node in _tree(path).body:
        for name in _names_of(node):
            statements[name].append(node)
    return dict(statements)


def _names_of(node: ast.stmt) -> set[str]:
    """The names that a statement may define or change: `SIZES["quick"] = ...` and `SIZES.update(...)` change SIZES."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import() | ast.ImportFrom():
            return set()
        case ast.Assign(targets=targets):
            changed: list[ast.expr] | list[ast.stmt] = targets
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target):
            changed = [target]
        case _:
            changed = [node]
    inner = [inner for part in changed for inner in ast.walk(part)]
    names = {name.id for name in inner if isinstance(name, ast.Name)}
    return names | {block.name for block in inner if isinstance(block, ast.FunctionDef | ast.ClassDef)}


@functools.cache
def _imported(path: pathlib.Path) -> dict[str, str]:
    """The dotted name that each imported name stands for."""
    names = {}
    for node in ast.walk(_tree(path)):
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            if isinstance(node, ast.ImportFrom):
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}" if node.module else alias.name
            else:
                root = alias.name.partition(".")[0]
                names[alias.asname or root] = alias.name if alias.asname else root
    return names


def _without_annotations(node: ast.stmt) -> ast.stmt:
    """A type decides nothing."""
    copied = copy.deepcopy(node)
    for inner in ast.walk(copied):
        if isinstance(inner, ast.arg):
            inner.annotation = None
        elif isinstance(inner, ast.FunctionDef):
            inner.returns = None
        elif isinstance(inner, ast.AnnAssign):
            inner.annotation = ast.Constant(None)
    return copied


def _normal(node: ast.stmt) -> object:
    """A definition without layout, comments, annotations and docstrings; the same under every Python."""

    def plain(value: object) -> object:
        if isinstance(value, list):
            return [plain(item) for item in value if not _is_docstring(item)]
        if not isinstance(value, ast.AST):
            return repr(value)
        fields = ((name, inner) for name, inner in ast.iter_fields(value) if inner not in (None, []))
        return type(value).__name__, [(name, plain(inner)) for name, inner in fields if name != "kind"]

    return plain(_without_annotations(node))


def _is_docstring(item: object) -> bool:
    return isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)
