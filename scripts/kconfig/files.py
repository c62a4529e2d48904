"""Read and write .config for the tools; what train.py would refuse is not written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kconfiglib as kc

from gpt2.config import scratch
from gpt2.config.bind import bind
from gpt2.config.errors import UserError
from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE
from gpt2.config.tree import Kconfig
from scripts.study.spec import check_spec, from_options

HEADER = "# GPT-2 Training Module configuration; 'make menuconfig' changes it\n"


def refuse_wrong(tree: Kconfig) -> None:
    """Raise UserError naming every value in `tree` that train.py or the matrix would refuse."""
    with scratch.folder() as folder:
        draft = folder / "config"
        kc.Kconfig.write_config(tree, str(draft), header="")
        try:
            options = read(draft)
            bind(options)
            check_spec(from_options(options))
        except UserError as error:
            where = re.compile(re.escape(str(draft)) + r":\d+: ")
            raise UserError(*(where.sub("", message) for message in error.messages)) from None


def problems_of(path: Path) -> list[str]:
    """Return the problems of the lines of a .config."""
    try:
        return read(path).check()
    except UserError as error:
        return list(error.messages)


def read(path: Path) -> Options:
    """Read a .config into the whole tree; problems are collected in the result."""
    options = Options(ROOT_TREE)
    options.read(path)
    return options


def write(options: Options, path: Path) -> None:
    """Write the full .config of `options`.

    Raises UserError, also for options that train.py would refuse.
    """
    refuse_wrong(options.kconfig)
    with writing(path):
        try:  # the library compares the old content with the new
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            path.replace(path.with_name(path.name + ".old"))
        except FileNotFoundError:
            pass
        options.kconfig.write_config(str(path), header=HEADER)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the file system into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def unmentioned(options: Options) -> list[str]:
    """Return the options that could be set and that no line sets, in menu order."""
    found = []
    for name in options.names():
        if name in options.choices:
            given = (options.given.get(member) for member in options.members(name).values())
            mentioned = any(one and one.value == "y" for one in given)
        else:
            mentioned = name in options.given
        if not mentioned and not options.unmet(name):
            found.append(name)
    return found
