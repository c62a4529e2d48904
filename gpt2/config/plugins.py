"""Plug-ins: NAME.py and NAME.Kconfig, found by their names in a folder, without a registry."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import Any

from gpt2.config.errors import UserError
from gpt2.config.text import pip_install
from gpt2.config.typed import PLUGIN_PACKAGES

#: Modules that import nothing heavy, beside those of gpt2.config.
_LIGHT = {"__future__", "dataclasses", "typing", "gpt2.optim.libraries.names"}


def names(package: str) -> list[str]:
    """Return the names of the plug-ins of `package` for users: file names with '-' for '_'."""
    return sorted(_names_of(package, ".py"))


def lack(choice: str, name: str, members: Collection[str]) -> str:
    """Return what plug-in `name` of `choice`, which has `members`, lacks.

    Returns "" for a complete one, and for a name without files.
    """
    package = PLUGIN_PACKAGES.get(choice)
    if package is None:
        return ""
    if missing := _missing_file(package, name):
        return missing
    if name in members or name not in names(package):
        return ""
    stem = name.replace("-", "_")
    return f"{_place(package, stem)}.Kconfig does not add {choice}_{stem.upper()} to {choice}"


def _missing_file(package: str, name: str) -> str:
    """Return which of the two files of a plug-in is missing; "" if both or neither exist."""
    module, entry = (name in _names_of(package, ending) for ending in (".py", ".Kconfig"))
    if module == entry:
        return ""
    stem = name.replace("-", "_")
    missing, found = (".py", ".Kconfig") if entry else (".Kconfig", ".py")
    place = _place(package, stem)
    return f"{place}{missing} is missing beside {stem}{found}: a plug-in is both files"


def _place(package: str, stem: str) -> str:
    return f"{package.replace('.', '/')}/{stem}"


def load(package: str, name: str) -> ModuleType:
    """Import plug-in `name` of `package`.

    Only this plug-in is imported, so a missing optional library does not affect others. Raises
    UserError when the plug-in, or a package it needs, is missing.
    """
    if name not in names(package):
        known = f"no plug-in {name!r} in {package}; there are: {', '.join(names(package))}"
        raise UserError(_missing_file(package, name) or known)
    module = f"{package}.{name.replace('-', '_')}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "a package").split(".")[0]
        if missing == "gpt2":
            raise
        way = pip_install(missing)
        message = f"{name!r} needs the Python package {missing!r}: install it with {way}"
        raise UserError(message) from error


@functools.cache
def options_class(package: str, name: str) -> type[Any] | None:
    """Return the `Options` dataclass of a plug-in without importing the plug-in itself.

    Plug-ins import torch, which takes seconds; their options must be checked before that. So the
    class is executed alone, with the light imports: those of the standard library and gpt2.config.
    `Options` may use nothing else. None when the plug-in has no options.
    """
    path = _folder(package) / f"{name.replace('-', '_')}.py"
    if not path.is_file():
        return None
    tree = _parsed(path)
    body = [node for node in tree.body if _is_light_import(node) or _is_options(node)]
    if not any(_is_options(node) for node in body):
        return None
    # dataclasses and get_type_hints look names up in the module of the class.
    light = ModuleType(f"{package}.{path.stem}.Options")
    sys.modules[light.__name__] = light
    exec(compile(ast.Module(body, type_ignores=[]), str(path), "exec"), vars(light))
    found: type[Any] = light.Options
    return found


def defines(package: str, name: str, function: str) -> bool:
    """Return whether a plug-in has `function` at its top level, without importing it."""
    tree = _parsed(_folder(package) / f"{name.replace('-', '_')}.py")
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body)


def constants(package: str, name: str) -> dict[str, Any]:
    """Return the literal constants at a plug-in's top level, by name, without importing it."""
    found = {}
    for node in _parsed(_folder(package) / f"{name.replace('-', '_')}.py").body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue  # computed: only an import would tell
    return found


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _names_of(package: str, ending: str) -> set[str]:
    """Return the stems of the files of `package` with this ending, '-' for '_'."""
    stems = [path.stem for path in _folder(package).glob("*" + ending)]
    return {stem.replace("_", "-") for stem in stems if not stem.startswith("_")}


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None, package
    assert spec.submodule_search_locations, package
    return Path(spec.submodule_search_locations[0])


def _is_options(node: ast.stmt) -> bool:
    return isinstance(node, ast.ClassDef) and node.name == "Options"


def _is_light_import(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom) and node.module:
        return node.module in _LIGHT or node.module.startswith("gpt2.config")
    return False
