"""The layers, the house rules and the README's tree, held against the files themselves."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt2.config import plugins
from gpt2.config.bind import symbols
from gpt2.config.options import Options
from gpt2.config.typed import (
    PLUGIN_PACKAGES,
    DataConfig,
    MachineConfig,
    ModelConfig,
    OptimConfig,
    PruneConfig,
    TrainConfig,
)
from tests.conftest import REPOSITORY, RunScript

GPT2 = REPOSITORY / "gpt2"
SOURCES = sorted([*GPT2.rglob("*.py"), *(REPOSITORY / "scripts").rglob("*.py")])
#: The rooms of gpt2/, the lowest floor first. A room imports from those below it; rooms of one
#: floor do not know each other. The entries, all that stands beside the rooms, may use them all.
FLOORS = (
    ("config",),
    ("model", "machine", "files"),
    ("checkpoint", "optim", "prune", "data"),
    ("run_dir",),
    ("training", "weights"),
    ("planning",),
    ("session",),
)
STARTABLE = {"train", "prepare_data", "sample", "evaluate", "export"}
#: What the scripts, but for the benches, may use of gpt2/.
SEEN_BY_SCRIPTS = (
    "gpt2.config",
    "gpt2.files",
    "gpt2.machine.signals",
    "gpt2.machine.host_memory",
    "gpt2.machine.processor",
    "gpt2.run_dir",
    "gpt2.planning",
)
SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    "optim": OptimConfig,
    "prune": PruneConfig,
    "train": TrainConfig,
    "machine": MachineConfig,
}
#: Longest file, in lines. A file with two jobs is too long before it is this long.
LONGEST = 330


def name_of(path: Path, root: Path = REPOSITORY) -> str:
    """The dotted name of a module, a package's own without __init__."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@functools.cache
def parsed(text: str) -> ast.Module:
    """The syntax tree of a source text, which several tests look at."""
    return ast.parse(text)


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, by its full name."""
    for node in ast.walk(parsed(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                target = REPOSITORY.joinpath(*full.split("."))
                is_module = target.is_dir() or target.with_suffix(".py").is_file()
                yield full if is_module else node.module


def allowed(module: str) -> tuple[str, ...]:
    """The modules of ours that a file may import: its own room, and every room on a lower floor."""
    top, *rest = module.split(".")
    if top == "scripts":
        # The benches measure single parts, so they see them all.
        everything = rest and rest[0] in ("bench", "benchmark")
        return ("scripts", "gpt2") if everything else ("scripts", *SEEN_BY_SCRIPTS)
    if len(rest) < 2:  # an entry, or a package's own __init__
        return ("gpt2",)
    floor = next(n for n, rooms in enumerate(FLOORS) if rest[0] in rooms)
    below = [room for rooms in FLOORS[:floor] for room in rooms]
    return tuple(f"gpt2.{room}" for room in (rest[0], *below))


def offences(path: Path, root: Path = REPOSITORY) -> list[str]:
    """What a file imports of ours against the layers."""
    module = name_of(path, root)
    return [
        f"{module} imports {found}"
        for found in imported(path)
        if within(found, "gpt2", "scripts")
        # A plug-in is imported by its name, when it is asked for, and by nobody otherwise.
        and (not within(found, *allowed(module)) or within(found, *PLUGIN_PACKAGES.values()))
    ]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    assert offences(path) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("gpt2/data/batches.py", "from gpt2.optim.groups import parameter_groups"),
        ("gpt2/model/gpt.py", "    import gpt2.optim.groups"),
        ("gpt2/config/bind.py", "from gpt2.run_dir import folder as run"),
        ("gpt2/training/loop.py", "from gpt2.session.session import run"),
        ("gpt2/training/loop.py", "from gpt2.optim.optimizers import adamw"),
        ("gpt2/session/session.py", "from gpt2.optim.optimizers.adamw import build"),
        ("gpt2/session/session.py", "from scripts import flags"),
        ("scripts/flags.py", "from gpt2.training.loop import train"),
        ("scripts/kconf.py", "from gpt2.session.session import run"),
    ],
)
def test_an_import_against_the_layers_is_seen(path: str, line: str, tmp_path: Path) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(f'"""A file."""\n\n\ndef late() -> None:\n    {line.strip()}\n')
    assert len(offences(file, tmp_path)) == 1


def test_everything_in_gpt2_is_an_entry_or_stands_in_a_room() -> None:
    here = {path.stem for path in GPT2.glob("*.py")} - {"__init__"}
    assert here == STARTABLE
    rooms = {path.parent.name for path in GPT2.glob("*/__init__.py")}
    assert rooms <= {room for floor in FLOORS for room in floor}
    assert {path.relative_to(GPT2).parts[0] for path in GPT2.glob("*/**/*.py")} == rooms


def test_the_light_layer_uses_the_standard_library_alone() -> None:
    for path in (GPT2 / "config").glob("*.py"):
        for found in imported(path):
            top = found.split(".")[0]
            assert top in sys.stdlib_module_names or top in ("gpt2", "kconfiglib"), (path, found)
    for found in imported(REPOSITORY / "scripts" / "environment.py"):
        assert found.split(".")[0] in sys.stdlib_module_names, found


def test_one_file_knows_which_model_it_is() -> None:
    users = {
        path.relative_to(REPOSITORY).as_posix()
        for path in SOURCES
        if "gpt2.model.gpt" in imported(path)
    }
    assert users == {"gpt2/model/build.py"}


def test_kconfiglib_is_touched_in_few_files() -> None:
    users = {
        path.relative_to(REPOSITORY).as_posix()
        for path in SOURCES
        if any(within(found, "kconfiglib", "menuconfig", "guiconfig") for found in imported(path))
    }
    tools = {f"scripts/kconfig/{name}.py" for name in ("files", "menus", "entries")}
    assert (
        users <= {f"gpt2/config/{name}.py" for name in ("tree", "schema", "options", "cli")} | tools
    )


def test_plugins_stand_on_their_own_folder() -> None:
    outside = {"torch", "numpy", "gpt2"}
    for package in PLUGIN_PACKAGES.values():
        folder = REPOSITORY.joinpath(*package.split("."))
        for path in folder.glob("*.py"):
            tops = {found.split(".")[0] for found in imported(path)}
            # A tracker's library is optional: its plug-in, of the same name, is all that needs it.
            assert tops - sys.stdlib_module_names <= outside | {path.stem}, path


def test_the_light_layer_loads_no_torch(without_torch: RunScript) -> None:
    modules = [name_of(path) for path in (GPT2 / "config").glob("*.py")]
    code = "; ".join(f"import {module}" for module in modules)
    done = without_torch("-c", code + "; import sys; print('numpy' in sys.modules)")
    assert (done.returncode, done.stdout) == (0, "False\n")


def test_packages_are_empty_where_something_light_lies_below() -> None:
    # Importing gpt2.config, or looking for a plug-in's file, runs these.
    for path in (GPT2, *(GPT2 / room for floor in FLOORS for room in floor)):
        if path.is_dir():
            assert (path / "__init__.py").read_text() == "", path


def test_nobody_compares_with_the_name_of_a_plugin() -> None:
    words = {name for package in PLUGIN_PACKAGES.values() for name in plugins.names(package)}
    # The null object, what every optimizer calls its state, and a key of many a dictionary.
    words -= {"none", "state", "text"}
    for path in SOURCES:
        if within(name_of(path), *PLUGIN_PACKAGES.values()):
            continue
        for node in ast.walk(parsed(path.read_text())):
            if not isinstance(node, ast.Compare):
                continue
            # x == "adamw" and x in ("adam", "adamw"), but not "text" in x
            parts = [*node.comparators]
            if isinstance(node.ops[0], ast.Eq | ast.NotEq):
                parts.append(node.left)
            found = {
                leaf.value
                for part in parts
                if isinstance(part, ast.Constant | ast.Tuple | ast.List | ast.Set)
                for leaf in ast.walk(part)
                if isinstance(leaf, ast.Constant)
            }
            assert not found & words, f"{name_of(path)}:{node.lineno}"


def test_nobody_takes_the_name_of_a_corpus_apart() -> None:
    """What a corpus is, it declares: see gpt2.data.declaration."""
    asked = re.compile(
        r"\bdataset(\.(ends|starts)with| *(==|!=|in|not in) *[(\[{\"'])|\bin dataset\b"
    )
    assert asked.search('"-char" in dataset')
    assert asked.search('config.data.dataset.endswith("-char")')
    for path in SOURCES:
        assert not asked.search(path.read_text(encoding="utf-8")), name_of(path)


class Reads(ast.NodeVisitor):
    """The fields of the configuration that a file reads, as (section, field).

    A section is `config.optim`, a parameter annotated with its class, or a name one of the two was
    given to; in gpt2/model, `x.config` is the ModelConfig that the model keeps.
    """

    def __init__(self, path: Path) -> None:
        self.in_model = path.parent.name == "model"
        self.names: dict[str, str] = {}
        self.found: set[tuple[str, str]] = set()

    def section(self, node: ast.AST) -> str | None:
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute) and node.attr in SECTIONS:
            base = node.value
            if isinstance(base, ast.Name):  # config.optim, where config is the whole
                whole = base.id == "config" and base.id not in self.names
            elif isinstance(base, ast.Call):  # bind(options).optim
                whole = isinstance(base.func, ast.Name) and base.func.id == "bind"
            else:  # self.config.optim
                whole = isinstance(base, ast.Attribute) and base.attr == "config"
            return node.attr if whole else None
        if isinstance(node, ast.Attribute) and node.attr == "config" and self.in_model:
            return "model"
        return None

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer = dict(self.names)
        kinds = {kind.__name__: section for section, kind in SECTIONS.items()}
        for argument in (*node.args.args, *node.args.kwonlyargs):
            if isinstance(argument.annotation, ast.Name) and argument.annotation.id in kinds:
                self.names[argument.arg] = kinds[argument.annotation.id]
        self.generic_visit(node)
        self.names = outer

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        (target, *_) = node.targets
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts, strict=True))
        for left, right in pairs:
            if isinstance(left, ast.Name) and (section := self.section(right)):
                self.names[left.id] = section

    def visit_Attribute(self, node: ast.Attribute) -> None:
        section = self.section(node.value)
        if isinstance(node.ctx, ast.Load) and section:
            self.found.add((section, node.attr))
        self.generic_visit(node)


def own_reads(path: Path) -> set[str]:
    """The fields of its `Options` that a plug-in reads, outside of the class itself."""
    tree = parsed(path.read_text())
    body = [n for n in tree.body if not (isinstance(n, ast.ClassDef) and n.name == "Options")]
    return {
        node.attr
        for node in ast.walk(ast.Module(body, []))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name | ast.Attribute)
        and (node.value.id if isinstance(node.value, ast.Name) else node.value.attr).endswith(
            "options"
        )
    }


def unread(gpt2: Path) -> set[str]:
    """The options of the tree in `gpt2` that no file there reads, outside of gpt2/config."""
    found: set[tuple[str, str]] = set()
    for path in gpt2.rglob("*.py"):
        if (gpt2 / "config") not in path.parents:
            reads = Reads(path)
            reads.visit(parsed(path.read_text()))
            found |= reads.found
    seen = {
        field.name.upper()
        for section, kind in SECTIONS.items()
        for field in dataclasses.fields(kind)
        if (section, field.name) in found
    }
    options = Options(gpt2 / "Kconfig")
    for choice, package in PLUGIN_PACKAGES.items():
        folder = gpt2.parent.joinpath(*package.split("."))
        for member in options.members(choice):
            kind: Any = plugins.options_class(package, member)
            stem = member.replace("-", "_")
            if kind is not None and (folder / f"{stem}.py").is_file():
                named = symbols(kind, f"{stem}_".upper())
                read = named.keys() & own_reads(folder / f"{stem}.py")
                seen |= {named[field] for field in read}
    return set(options.names()) - seen


def test_every_visible_option_is_read() -> None:
    assert unread(GPT2) == set()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of gpt2/ that may be spoilt."""
    ignored = shutil.ignore_patterns("__pycache__", "vocabulary")
    return Path(shutil.copytree(GPT2, tmp_path / "gpt2", ignore=ignored))


def test_an_option_that_nobody_reads_is_seen(copy: Path) -> None:
    before = unread(copy)
    kconfig = copy / "training" / "Kconfig"
    entry = 'config NOBODY\n\tint "Nobody reads this"\n\tdefault 1\n\trange 0 9\n'
    kconfig.write_text(kconfig.read_text().replace("config SEED\n", f"{entry}\nconfig SEED\n"))
    assert unread(copy) - before == {"NOBODY"}


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("SEED", "seed"),
        ("BIAS", "bias"),
        ("MODEL", "model"),
        ("LR_SCHEDULE", "lr_schedule"),
        ("NUM_THREADS", "num_threads"),
        ("LOSS_CHUNK_MIB", "loss_chunk_mib"),
        ("ADAMW_BETA2", "beta2"),
        ("OPT_ARGS", "arguments"),
    ],
)
def test_a_reading_that_goes_away_is_seen(name: str, field: str, copy: Path) -> None:
    for path in copy.rglob("*.py"):
        if (copy / "config") not in path.parents:
            path.write_text(re.sub(rf"\.{field}\b(?!\.)", ".gone", path.read_text()))
    assert name in unread(copy)


#: Files that may look at the environment, and what they look at there.
ENVIRONMENT = {
    "gpt2/config/environment.py": {"GPT2_STARTED_BY"},  # and what it removes there
    "gpt2/config/faults.py": {"GPT2_FAULT"},
    "gpt2/config/colour.py": {"NO_COLOR", "TERM"},
    "gpt2/config/entry.py": {"RANK", "WORLD_SIZE"},
    "gpt2/config/tree.py": {"srctree", "CONFIG_", "KCONFIG_"},
    "gpt2/machine/device.py": {"CUBLAS_WORKSPACE_CONFIG"},
    "gpt2/machine/ranks.py": {"WORLD_SIZE", "LOCAL_WORLD_SIZE"},  # torchrun's
    "gpt2/data/tokenizer.py": {"TIKTOKEN_CACHE_DIR"},
    "gpt2/run_dir/trackers/wandb.py": {"WANDB_MODE", "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL"},
}


def test_the_environment_is_read_in_few_places() -> None:
    users = set()
    for path in GPT2.rglob("*.py"):
        for node in ast.walk(parsed(path.read_text())):
            names = {"environ", "environb", "getenv", "putenv"}
            by_module = isinstance(node, ast.Attribute) and node.attr in names
            by_import = isinstance(node, ast.ImportFrom) and names & {a.name for a in node.names}
            if by_module or by_import:
                users.add(path.relative_to(REPOSITORY).as_posix())
    assert users <= set(ENVIRONMENT)
    for path in users:
        text = (REPOSITORY / path).read_text()
        named = set(re.findall(r'environ(?:\.\w+\(|\[)"(\w+)"', text))
        assert named <= ENVIRONMENT[path], path


#: What puts the repository on the path of an entry that is started as a script, in place of the
#: entry's folder, where `data` and friends would hide other packages. It stands before the first
#: import of ours, so it cannot be imported itself. Then comes the Python that has the packages.
PREAMBLE = """\
if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import """


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_the_path_is_changed_by_entries_alone_and_by_all_alike(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    starts = "run_entry(" in text and path.name != "entry.py"
    assert text.count(PREAMBLE) == starts
    rest = text.replace(PREAMBLE, "")
    assert not re.search(r"^\s*sys\.path\b.* = |^\s*sys\.path\.(insert|append)", rest, re.M)


#: The one file that reads what torch.save wrote, weights of other programs, as tensors alone.
UNPICKLER = "gpt2/weights/foreign.py"
#: The files that let nothing out: of what a foreign library may raise, as its threads end no run;
#: and of what an entry may, since that is a bug, told in one line.
TRACKING, ENTRIES = "gpt2/run_dir/tracking.py", "gpt2/config/entry.py"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_pickle_and_nothing_swallowed(path: Path) -> None:
    banned = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib")
    assert not any(within(found, *banned) for found in imported(path))
    reader = REPOSITORY / UNPICKLER
    for node in ast.walk(parsed(path.read_text())):
        where = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            banned_here = {("torch", "save")} | (set() if path == reader else {("torch", "load")})
            assert (node.value.id, node.attr) not in banned_here, where
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            assert not {"load", "save"} & {alias.name for alias in node.names}, where
        if isinstance(node, ast.keyword):
            assert node.arg != "allow_pickle", where
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}: bare except"
            caught = {leaf.id for leaf in ast.walk(node.type) if isinstance(leaf, ast.Name)}
            last_resort = path in (REPOSITORY / TRACKING, REPOSITORY / ENTRIES)
            if caught & {"Exception", "BaseException"} and not last_resort:
                # Cleaning up is allowed when the error goes on.
                last = node.body[-1]
                assert isinstance(last, ast.Raise), f"{where}: swallows everything"
                assert last.exc is None, where
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert not (node.func.id == "getattr" and len(node.args) > 2), where
            assert node.func.id not in {"eval", "input"}, where


@pytest.mark.parametrize("path", [TRACKING, ENTRIES])
def test_what_swallows_does_it_in_one_place(path: str) -> None:
    tree = parsed((REPOSITORY / path).read_text())
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    wide = [h for h in handlers if h.type is not None and "Exception" in ast.unparse(h.type)]
    assert len(wide) == 1


def test_foreign_files_are_loaded_as_tensors_alone_in_one_place() -> None:
    tree = parsed((REPOSITORY / UNPICKLER).read_text())
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    uses = [node for node in uses if ast.unparse(node) == "torch.load"]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func in uses]
    (call,) = calls
    assert len(uses) == 1  # called where it stands, and kept under no other name
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert given["weights_only"] == "True"
    assert given["mmap"] == "True"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_says_its_job_and_has_one(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text:
        docstring = ast.get_docstring(parsed(text))
        assert docstring, "no docstring"
        first = docstring.splitlines()[0]
        assert first.endswith((".", ":")), first
    assert text.count("\n") < LONGEST
    assert not {"utils", "common", "helpers", "misc", "new", "v2"} & set(path.stem.split("_"))


@pytest.mark.slow
def test_texts_are_ascii_and_finished() -> None:
    kinds = ("*.py", "*Kconfig", "*.md", "Makefile", "*.txt", "*.toml", "*.ini")
    hidden = {"data", "runs", ".venv", "tests"}  # what a test feeds in may be odd
    files = [
        path
        for kind in kinds
        for path in REPOSITORY.rglob(kind)
        if path.relative_to(REPOSITORY).parts[0] not in hidden
    ]
    files += [path for path in (REPOSITORY / "defconfigs").iterdir() if path.is_file()]
    assert len(files) > 50
    unfinished = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")) + r")\b")
    for path in files:
        text = path.read_text(encoding="utf-8")
        odd = [line for line in text.splitlines() if not line.isascii()]
        assert not odd, f"{path}: {odd[0]}"
        assert not unfinished.search(text), path
        assert not text or text.endswith("\n"), path


def documented(readme: str) -> set[str]:
    """The folders and entries that the README's tree names."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    (tree,) = [block for block in blocks if re.search(r"^gpt2/", block, re.MULTILINE)]
    return set(re.findall(r"\b[a-z_0-9]+(?:/|\.py)", tree))


def test_the_readme_shows_the_tree_as_it_is() -> None:
    found = documented((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    there = {f"{path.name}/" for path in REPOSITORY.glob("*/")}
    there |= {f"{path.parent.name}/" for path in SOURCES} | {"batteries/", "faults/", "support/"}
    there |= {f"{name}.py" for name in STARTABLE}
    assert found - there == set(), "in the README, but not there"
    rooms = {f"{path.parent.name}/" for path in GPT2.glob("*/*.py")}
    rooms |= {f"{path.parent.name}/" for path in (REPOSITORY / "scripts").glob("*/*.py")}
    wanted = rooms | {f"{name}.py" for name in STARTABLE} | {"defconfigs/", "docs/", "tests/"}
    assert wanted - found == set(), "there, but not in the README"
