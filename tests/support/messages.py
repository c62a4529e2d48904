"""What the program says, found in its sources: errors with their exit codes, and remedies."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HOLE = "\0"  # where a value goes


@dataclass(frozen=True)
class Said:
    """A text that may be an error. `where`: file::function; `code`: the name of its exit code."""

    where: str
    code: str
    text: str


@dataclass(frozen=True)
class Remedy:
    """A text that names something to use. `room`: its folder; `names`: the flags and commands."""

    room: str
    names: str
    text: str


def template(node: ast.expr) -> str | None:
    """Return the text of an expression, with HOLE where a value goes; None where it has none."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) or HOLE for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = template(node.left), template(node.right)
        return None if left is None and right is None else (left or HOLE) + (right or HOLE)
    return None


def _sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("gpt2", "scripts"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            yield path.relative_to(REPOSITORY).as_posix(), ast.parse(path.read_text("utf-8"))


def _texts(node: ast.expr, names: dict[str, list[ast.expr]]) -> Iterator[str]:
    """Yield what an argument may be: also of a name, by what is assigned to it."""
    if isinstance(node, ast.Starred):
        yield from _texts(node.value, names)
    elif isinstance(node, ast.GeneratorExp | ast.ListComp):
        yield from _texts(node.elt, names)
    elif isinstance(node, ast.IfExp | ast.BoolOp):
        parts = [node.body, node.orelse] if isinstance(node, ast.IfExp) else node.values
        for part in parts:
            yield from _texts(part, names)
    elif isinstance(node, ast.Name):
        others = {name: values for name, values in names.items() if name != node.id}
        for value in names.get(node.id, []):
            yield from _texts(value, others)
    elif (found := template(node)) is not None:
        yield found


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _code(call: ast.Call) -> str:
    given = [one.value for one in call.keywords if one.arg == "code"]
    return given[0].attr if given and isinstance(given[0], ast.Attribute) else "CONFIG"


def _makers(tree: ast.Module) -> dict[str, str]:
    """Return the functions that make an error of their argument, each with its exit code."""
    found = {"UserError": "CONFIG"}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and getattr(node.returns, "id", "") == "UserError":
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and _called(call) == "UserError":
                    found[node.name] = _code(call)
    return found


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all below `node`, but what is inside functions and classes in it."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield from _inside(child)


def _errors_in(
    node: ast.AST, where: str, names: dict[str, list[ast.expr]], makers: dict[str, str]
) -> Iterator[Said]:
    own, below = {name: list(values) for name, values in names.items()}, []
    for child in _inside(node):
        if isinstance(child, ast.Assign | ast.AugAssign | ast.NamedExpr | ast.AnnAssign):
            for target in child.targets if isinstance(child, ast.Assign) else [child.target]:
                if isinstance(target, ast.Name) and child.value is not None:
                    own.setdefault(target.id, []).append(child.value)
        elif isinstance(child, ast.FunctionDef | ast.ClassDef):
            below.append(child)
    for child in _inside(node):
        if isinstance(child, ast.Call) and (name := _called(child)) in makers:
            code = _code(child) if child.keywords else makers[name]
            for text in (text for argument in child.args for text in _texts(argument, own)):
                yield Said(where, code, text)
    for inner in below:
        if inner.name not in makers:
            yield from _errors_in(inner, f"{where}{inner.name}.", own, makers)


@functools.cache
def errors() -> list[Said]:
    """Return every text of every UserError in gpt2/ and scripts/."""
    return [
        found
        for path, tree in _sources()
        for found in _errors_in(tree, f"{path}::", {}, _makers(tree))
    ]


#: What a remedy may name: a flag, a target of make, a command, a variable, a page, a script.
_NAMED = re.compile(
    r"(?<![\w-])--[a-z][\w-]*|(?<=')make(?= NPROC|')|(?<![\w/-])make [a-z]+-[\w-]+"
    r"|(?<![\w/-])make (?:prepare|distclean|merge|resume|report|menuconfig|olddefconfig|diffconfig"
    r"|randconfig|sample|evaluate)\b|\bgit [a-z]+|\bpip\b|\bln\b|\bjq\b|\btorchrun\b"
    r"|(?<![\w/])[A-Z][A-Z_]+(?==)|\bTMPDIR\b|docs/[\w.-]+\w|\bprepare_data\.py"
)
_ORDER = re.compile(
    r"\b(?:give|use|choose|name|leave|lower|raise|try|takes?|add|drop|run|set|prepare|installs?"
    r"|start|hand|fetch|remove|put|move|write|convert|break|free|copy|goes on|makes it|make it"
    r"|shows|reports|prepares|is the same run|trains|begins|needs|continues|prints|tests|says"
    r"|drops)\b"
)
#: What a message is about is no remedy: "--flag value: ..."
_SUBJECT = re.compile(r"^(?:warning: )?--[\w-]+(?: (?:\0|[\w.:]+))?(?::| )")
#: Help, pages and measurements, which tell of flags and refuse nothing; why variables are removed.
_NO_MESSAGES = (
    "gpt2/config/actions.py",
    "gpt2/config/environment.py",
    "scripts/options_page.py",
    "scripts/plan_table.py",
    "scripts/benchmark/",
    "scripts/bench.py",
)


def _strings(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue  # a docstring
        text = template(child) if isinstance(child, ast.expr) else None
        if text is not None:
            yield text
        else:
            yield from _strings(child)


def names_in(text: str) -> str:
    """Return the flags, commands and files that a text tells its reader to use, sorted."""
    body = _SUBJECT.sub("", text)
    return " ".join(sorted(set(_NAMED.findall(body)))) if _ORDER.search(body) else ""


@functools.cache
def remedies() -> list[Remedy]:
    """Return every text of gpt2/ and scripts/ that names a remedy."""
    found = []
    for path, tree in _sources():
        if path.startswith(_NO_MESSAGES):
            continue
        for text in _strings(tree):
            if len(text.split()) > 3 and (names := names_in(text)):
                found.append(Remedy(path.rpartition("/")[0], names, text))
    return found
