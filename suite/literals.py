"""Values that stand in a Python file, read from its syntax tree: nothing of the file is run or imported.

Constants at the top, and the defaults of a class or function. A value is a number, a text, a truth, a tuple or a
dictionary of those, or an expression of numbers.
"""

import ast
import functools
import operator
import pathlib
import tokenize
from collections.abc import Callable, Mapping
from typing import Any

Value = bool | int | float | str

# Operations that an expression may have.
UNARY: dict[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_}
BINARY: dict[type, Callable[[Any, Any], Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv},
    **{ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow},
}
LARGEST_POWER = 1000
# Constructor arguments that the suite fills in: never knobs of a spec.
GIVEN = ("length", "seed")


@functools.cache
def at_top(path: pathlib.Path, _changed: int) -> dict[str, Any]:
    """The names at the top of a file with their values; None for a value that takes running the file."""
    constants: dict[str, Any] = {}
    for node in tree(path).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            value = _evaluate(node.value, constants) if node.value else None
            constants.update({target.id: value for target in targets if isinstance(target, ast.Name)})
    return constants


@functools.cache
def defaults(path: pathlib.Path, _changed: int, entry: str) -> dict[str, Value]:
    """Knobs and defaults of the class or function `entry` in a file, by its syntax tree."""
    constants = at_top(path, _changed)
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef) and node.name == entry:
            return _of_function(node, constants)
        if isinstance(node, ast.ClassDef) and node.name == entry:
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
                    return _of_function(inner, constants)
            return _of_dataclass(node, constants)
    raise LookupError(f"{path} defines no {entry}")


def first_line(path: pathlib.Path) -> str:
    """The first line of a file's docstring; empty where it has none."""
    return (ast.get_docstring(tree(path)) or "").partition("\n")[0]


def formula(text: str, names: Mapping[str, Value]) -> float:
    """The value of an expression of numbers and names, as in `compilation + steps * max(step, 0.004)`."""
    try:
        value = _evaluate(ast.parse(text, mode="eval").body, names)
    except SyntaxError:
        value = None
    if not isinstance(value, int | float):
        raise ValueError(
            f"cannot compute {text!r}; wanted numbers, + - * /, max and min, and of names {', '.join(names)}"
        )
    return value


def tree(path: pathlib.Path) -> ast.Module:
    """The syntax tree of a file in whatever encoding its first lines name."""
    try:
        with tokenize.open(path) as file:
            return ast.parse(file.read())
    except SyntaxError as error:  # a cookie that names no encoding, too
        raise ValueError(f"{path}, line {error.lineno or 1}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in the encoding that it names, {error.encoding}: {error.reason}") from error


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


def _evaluate(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    """The value of a constant expression without running any code; None for whatever else stands there."""
    match node:
        case ast.Tuple(items):
            values = tuple(_evaluate(item, constants) for item in items)
            return None if None in values else values
        case ast.Dict(keys, items):
            names, values = ([node and _evaluate(node, constants) for node in nodes] for nodes in (keys, items))
            return None if None in (*names, *values) else dict(zip(names, values, strict=True))
        case ast.Call(ast.Name("max" | "min" as name), items) if items:
            values = [_evaluate(item, constants) for item in items]
            apply = {"max": max, "min": min}[name]
            return apply(values) if all(isinstance(value, int | float) for value in values) else None
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
