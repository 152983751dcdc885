"""The syntax trees of the sources, parsed once for all tests that read them."""

import ast
import functools
import pathlib

ROOT = pathlib.Path(__file__).parents[1]


@functools.cache
def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@functools.cache
def list_statements(path: pathlib.Path) -> list[ast.stmt]:
    """Return every statement of a source, also inside others. Expressions, most of the tree, are left out."""
    found = list(parse(path).body)
    for node in found:
        for block in ("body", "orelse", "finalbody"):
            found += getattr(node, block, [])
        for part in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
            found += part.body
    return found
