"""Public docstrings name every argument, the shapes of arrays, and the error a caller may meet.

Out of scope: private names (leading underscore), nested functions, dunder methods (so also the `__init__` and
`__post_init__` of dataclasses), properties, arguments whose name has a leading underscore, and the `add` and `run` of
the commands, which argparse alone calls. Tensors in a mapping by name, such as an adapter's, need no shape: each has
its own.
"""

import ast
import re
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "haa_peft"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SIZE = r"(?:\.\.\.|\w+(?: ?[*+/-] ?\w+)*(?: or more)?)"
SHAPE = re.compile(rf"\({SIZE},(?: {SIZE},?)*\)|\bscalars?\b")
NAMED_TENSORS = re.compile(r"\b(dict|Mapping)\[str, (torch\.)?Tensor\]")


def _public(node):
    decorators = {ast.unparse(item).split(".")[-1] for item in node.decorator_list}
    return not node.name.startswith("_") and not decorators & {"property", "cached_property", "setter", "overload"}


@cache
def _functions():
    """Every public function and method as (place, node, is a method)."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            is_class = isinstance(node, ast.ClassDef)
            for item in node.body if is_class and not node.name.startswith("_") else [node]:
                if not isinstance(item, FUNCTIONS) or not _public(item):
                    continue
                if path.parent.name == "commands" and item.name in ("add", "run"):
                    continue
                found.append((f"{path.relative_to(PACKAGE.parent)}:{item.lineno} {item.name}", item, is_class))
    return found


def _arguments(node, method):
    """The arguments without `self`, `cls` and those that are not used."""
    plain = [*node.args.posonlyargs, *node.args.args]
    static = any(ast.unparse(item) == "staticmethod" for item in node.decorator_list)
    extra = [item for item in (node.args.vararg, node.args.kwarg) if item]
    every = [*plain[1 if method and not static else 0 :], *node.args.kwonlyargs, *extra]
    return [item for item in every if not item.arg.startswith("_")]


def _own(node):
    """The nodes of the body of a function, without those of functions inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (*FUNCTIONS, ast.Lambda, ast.ClassDef)):
            yield child
            yield from _own(child)


def _unnamed(doc, names):
    """The arguments that the Parameters section of `doc` does not name; all where it has none."""
    section = re.search(r"^Parameters\n-{10}\n(.*?)(?=\n\n\w+\n-{3,}\n|\Z)", doc, re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^[*\w][*\w, ]*", section[1], re.MULTILINE) if section else []
    named = {name.strip(" *") for head in heads for name in head.split(",")}
    return [name for name in names if name not in named]


def _raises_input_error(node):
    calls = (item.exc for item in _own(node) if isinstance(item, ast.Raise) and item.exc)
    return any(ast.unparse(call).split("(")[0] == "InputError" for call in calls)


def _has_arrays(node, arguments):
    given = [node.returns, *(item.annotation for item in arguments)]
    annotations = [NAMED_TENSORS.sub("", ast.unparse(item)) for item in given if item]
    return any(re.search(r"\b(Tensor|ndarray|ArrayLike)\b", item) for item in annotations)


def test_long_signatures_have_a_parameters_section_that_names_every_argument():
    bad = []
    for place, node, method in _functions():
        names = [item.arg for item in _arguments(node, method)]
        missing = _unnamed(ast.get_docstring(node) or "", names) if len(names) >= 4 else []
        bad += [f"{place}: {', '.join(missing)}"] if missing else []
    assert not bad, "arguments that no Parameters section names:\n" + "\n".join(bad)


def test_functions_that_raise_input_error_say_so():
    bad = [
        place
        for place, node, _ in _functions()
        if _raises_input_error(node) and "InputError" not in (ast.get_docstring(node) or "")
    ]
    assert not bad, "docstrings that do not name the InputError raised:\n" + "\n".join(bad)


def test_functions_of_arrays_give_shapes():
    bad = [
        place
        for place, node, method in _functions()
        if _has_arrays(node, _arguments(node, method)) and not SHAPE.search(ast.get_docstring(node) or "")
    ]
    assert not bad, "docstrings of array functions without a shape:\n" + "\n".join(bad)
