"""Public functions with three or more parameters explain them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import mmdiscard

PACKAGE = Path(mmdiscard.__file__).parent


def _public(body: list[ast.stmt], holder: ast.ClassDef | None = None) -> Iterator[tuple]:
    """Public functions and methods, each with its class."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            yield from _public(node.body, node)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
            yield node, holder


def _parameters(function: ast.FunctionDef) -> int:
    given = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return sum(argument.arg not in ('self', 'cls') for argument in given)


def _unexplained(source: str) -> list[str]:
    """Names of the functions without `Args`; methods of a base class are explained there."""
    return [
        function.name
        for function, holder in _public(ast.parse(source).body)
        if _parameters(function) >= 3
        and 'Args:' not in (text := ast.get_docstring(function) or '')
        and not (holder is not None and holder.bases and not text)
        and not text.startswith('See ')
    ]


def test_parameters_are_explained():
    missing = {str(path): _unexplained(path.read_text()) for path in PACKAGE.rglob('*.py')}
    assert not {path: names for path, names in missing.items() if names}


def test_a_missing_explanation_is_found():
    source = (
        'def f(a, b, c):\n    "Text."\ndef g(a, b): ...\nclass A:\n    def h(self, a, *, b, c): ...'
    )
    assert _unexplained(source) == ['f', 'h']
