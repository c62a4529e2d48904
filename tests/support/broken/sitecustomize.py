"""Break the module that $BROKEN_MODULE names, in every Python that has this folder on its path.

Python imports this file at its start. What is public in the module raises when it is called, and
classes raise when they are made. So a test that still passes does not test that module.
"""

from __future__ import annotations

import enum
import importlib.abc
import importlib.machinery
import inspect
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

NAME = os.environ.get("BROKEN_MODULE", "")


def _raise(*_: Any, **__: Any) -> Any:
    # Only builtins: this code runs among the names of the broken module.
    raise SystemError("this module is broken on purpose")


def break_module(module: ModuleType) -> None:
    """Replace the public functions of a module, and the constructors of its public classes."""
    for name, value in list(vars(module).items()):
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            if not issubclass(value, enum.Enum) and not getattr(value, "_is_protocol", False):
                value.__init__ = _raise  # type: ignore[misc]
        elif inspect.isfunction(value) and not value.__closure__:
            value.__code__ = _raise.__code__  # also where a reference to it was kept
        elif callable(value):
            setattr(module, name, _raise)


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        break_module(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != NAME:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


if NAME:
    sys.meta_path.insert(0, _Finder())
