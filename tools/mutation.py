"""Small wrong changes to a Python source, one at a time: what a test suite should notice.

Left alone: annotations, decorators, docstrings, imports, and whatever is only read by people (the
words of an error, of an assert, an f-string).
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

COMPARE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
BINARY = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
# calls whose strings are messages
TALK = {"_require", "InputError", "ConfigError", "CheckpointError"}


@dataclass(frozen=True)
class Mutant:
    """The source from `start` to `end` (offsets in characters) replaced by `text`."""

    start: int
    end: int
    text: str
    line: int

    def apply(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.end :]


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a source, in the order of its lines; each parses and differs from it."""
    starts = _line_starts(source)
    lines = source.splitlines(keepends=True)

    def offset(line: int, column: int) -> int:
        # ast counts columns in bytes
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    found = []
    for node, text in _changes(ast.parse(source)):
        start = offset(node.lineno, node.col_offset)
        end = offset(node.end_lineno or 0, node.end_col_offset or 0)
        found.append(Mutant(start, end, text, node.lineno))
    unique = {m.apply(source): m for m in found}
    unique.pop(source, None)
    return sorted((m for s, m in unique.items() if _parses(s)), key=lambda m: (m.start, m.text))


def _line_starts(source: str) -> list[int]:
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def _changes(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    for node in _mutable(tree):
        yield from ((test, f"(not ({ast.unparse(test)}))") for test in _conditions(node))
        if isinstance(node, ast.expr):
            yield from ((node, f"({text})") for text in _expressions(node))
        elif isinstance(node, ast.stmt):
            yield from ((node, text) for text in _statements(node))


def _conditions(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return []
        case ast.If() | ast.While() | ast.IfExp():
            return [node.test]
        case ast.comprehension():
            return node.ifs
    return []


def _mutable(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in _children(node):
        yield from _mutable(child)


def _children(node: ast.AST) -> list[ast.AST]:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Raise() | ast.Assert() | ast.JoinedStr():
            return []
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return []
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return []
        case ast.Subscript(value=ast.Name(id=name)) if name[:1].isupper():  # a type
            return []
        case ast.Expr(value=ast.Constant()):
            return []
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            defaults = [d for d in [*node.args.defaults, *node.args.kw_defaults] if d is not None]
            return [*defaults, *node.body]
        case ast.ClassDef():
            return [*node.body]
        case ast.AnnAssign():
            return [node.value] if node.value else []
        case ast.Call(func=ast.Name(id=name)) if name in TALK:
            return [arg for arg in node.args if not isinstance(arg, ast.Constant)]
    return list(ast.iter_child_nodes(node))


def _expressions(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Compare():
            for i, op in enumerate(node.ops):
                ops = [*node.ops[:i], COMPARE[type(op)](), *node.ops[i + 1 :]]
                yield ast.unparse(ast.Compare(node.left, ops, node.comparators))
        case ast.BinOp(op=op) if type(op) in BINARY and not _is_type(node):
            yield ast.unparse(ast.BinOp(node.left, BINARY[type(op)](), node.right))
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield ast.unparse(ast.BoolOp(other, node.values))
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield ast.unparse(node.operand)
        case ast.Call(func=ast.Name(id=name)) if name in {"max", "min", *TALK}:
            return
        case ast.Call(args=[first, second, *rest]) if not _has_star(node):
            yield ast.unparse(ast.Call(node.func, [second, first, *rest], node.keywords))
        case ast.Constant():
            yield from map(repr, _other_values(node.value))


def _other_values(value: object) -> Iterator[object]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
        yield value - 1
    elif isinstance(value, float):
        yield value * 2 + 1
    elif isinstance(value, str) and value:
        yield value + "_"


def _statements(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
            yield "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "pass"
        case ast.Return(value=ast.expr() as value):
            if not (isinstance(value, ast.Constant) and value.value is None):
                yield "return None"
        case ast.Continue():
            yield "break"
        case ast.Break():
            yield "continue"


def _is_type(node: ast.BinOp) -> bool:
    """`A | B` and `A | None` are types, not sums of bits."""
    sides = (node.left, node.right)
    return isinstance(node.op, ast.BitOr) and any(
        (isinstance(side, ast.Constant) and side.value is None)
        or (isinstance(side, ast.Name) and side.id[:1].isupper())
        for side in sides
    )


def _has_star(node: ast.Call) -> bool:
    return any(isinstance(arg, ast.Starred) for arg in node.args)
