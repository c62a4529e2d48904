"""Nothing that a file says is executed, leaves its folder, or is shown as more than text."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2.checkpoint import store
from gpt2.config.errors import Exit, UserError
from gpt2.config.records import to_json
from gpt2.data.sources import text_files
from gpt2.files import json as json_files
from gpt2.files.manifest import DamagedError
from gpt2.run_dir.folder import RunFolder, unfinished
from gpt2.run_dir.latest import point_latest
from gpt2.run_dir.resume import load_config
from gpt2.weights.foreign import open_foreign
from scripts import flags, matrix, report
from scripts.study.folder import MatrixFolder
from scripts.study.spec import check_spec, from_config
from scripts.study.spec_yaml import from_yaml
from tests.conftest import REPOSITORY
from tests.support import tiny
from tests.support.small_cells import cell_record, matrix_record
from tests.support.synthetic import write_matrix, write_run

SOURCES = sorted(
    path for name in ("gpt2", "scripts", "tests") for path in (REPOSITORY / name).rglob("*.py")
)

#: Modules that make objects of bytes, by running what the bytes say.
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
#: Calls that run a text as a program.
RUNNERS = {"eval", "exec", "compile", "os.system", "os.popen", "code.interact"}
#: Calls that read objects unless they are told not to.
READERS = {"torch.load", "np.load", "numpy.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
           "torch.hub.load"}  # fmt: skip
#: Arguments that allow it unless they are this.
SAFE = {"allow_pickle": "False", "shell": "False", "weights_only": "True"}
#: What is there for a reason, by file.
EXCEPTIONS = {
    # Reads what torch.save wrote, as tensors alone: weights_only=True, held by test_architecture.
    "gpt2/weights/foreign.py": {"torch.load"},
    # Executes the class Options of a plug-in's own source, which is part of this program.
    "gpt2/config/plugins.py": {"exec", "compile"},
    # These make pickles that must be refused, and look that torch itself would be fooled.
    "tests/checkpoint/test_store.py": {"pickle"},
    "tests/weights/test_pretrained.py": {"torch.load", "weights_only"},
    # Runs the texts that Python's own -c would run.
    "tests/support/warm.py": {"exec", "compile"},
    # Runs the Python of a page of docs/, to see that it works.
    "tests/weights/test_export_folder.py": {"exec", "compile"},
}


def offences(text: str) -> set[str]:
    """What a file imports or calls that could execute what a file says."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names} & UNPICKLERS
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module.split(".")[0]} & UNPICKLERS
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & (RUNNERS | READERS)
        elif isinstance(node, ast.Attribute):  # also where it is only handed on
            found |= {ast.unparse(node)} & (RUNNERS | READERS)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found |= {node.func.id} & RUNNERS
        elif isinstance(node, ast.keyword) and node.arg in SAFE:
            found |= {node.arg} if ast.unparse(node.value) != SAFE[node.arg] else set()
    return found


@pytest.mark.slow
def test_nothing_unpickles_and_nothing_executes_a_text() -> None:
    for path in SOURCES:
        name = path.relative_to(REPOSITORY).as_posix()
        found = offences(path.read_text(encoding="utf-8"))
        assert found <= EXCEPTIONS.get(name, set()), f"{name}: {found}"


def test_the_exceptions_are_still_needed() -> None:
    for name, allowed in EXCEPTIONS.items():
        assert offences((REPOSITORY / name).read_text(encoding="utf-8")) == allowed, name


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from dill import loads", "import torch as t\nx = torch.load", "eval('1')",
     "import os\nos.system('x')", "f(shell=True)", "f(allow_pickle=True)", "f(weights_only=no)",
     "import yaml\nyaml.unsafe_load('')", "from os import system"],
)  # fmt: skip
def test_what_would_execute_is_seen(line: str) -> None:
    assert offences(line)


@pytest.mark.parametrize("kind", ["config", "matrix", "spec", "axis"])
def test_code_of_ones_own_comes_from_no_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`module:Class` in a file is refused, and the module is not imported."""
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n\nclass Own: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "config"
    named = 'CONFIG_OPTIMIZER_LIBRARY=y\nCONFIG_OPTIMIZER_NAME="mine:Own"\nCONFIG_MAX_STEPS=1\n'
    named += 'CONFIG_LEARNING_RATE="0.01"\n'
    path.write_text(named)
    spec = tmp_path / "spec.yaml"
    spec.write_text("options: {optimizer: 'mine:Own', max-steps: 1}\nseeds: 1\n")
    if kind == "axis":
        spec.write_text("axes: {optimizer: [adamw, 'mine:Own']}\nseeds: 1\n")
    take = {
        "config": lambda: flags.flags(path),
        "matrix": lambda: check_spec(from_config(path)),
    }.get(kind, lambda: check_spec(from_yaml(spec)))
    with pytest.raises(UserError, match="code of your own") as caught:
        take()
    assert caught.value.code == Exit.CONFIG
    assert load_config(tmp_path).optim.optimizer == "library"  # looked at, not executed
    assert not (tmp_path / "owned").exists()
    assert "mine" not in sys.modules


@pytest.mark.slow
def test_resume_takes_options_and_not_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make resume` goes by the run's config, checked; its `command` is a note for people."""
    run = tmp_path / "runs" / "one"
    data = tiny.make_data(tmp_path / "data")
    assert tiny.train(data, run, "--max-steps", "2", "--checkpoint-interval", "1") == 0
    (run / "summary.json").unlink()
    (run / "command").write_text(f"touch {tmp_path / 'owned'}; python3 gpt2/train.py --seed 666\n")
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["flags.py", "--unfinished", str(tmp_path / "runs")])
    assert flags.main() == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[-2:] == ["--run-dir", str(run)]
    assert "666" not in words
    from gpt2 import train

    assert train.main(words) == 0
    assert (run / "summary.json").exists()
    assert not (tmp_path / "owned").exists()


NASTY = (
    "$(touch owned)", "`touch owned`", "; touch owned", "| touch owned", "& touch owned",
    "> owned", "a'b\"c", "'; touch owned; '", '"; touch owned; "', "\\", "\\'", "$HOME", "${IFS}",
    "*", "~", "!!", "#", "a  b", " ", "--resume", "-n", "%s", "$'x'", "{a,b}",
    "a\\nb", "$$(touch owned)", "$(shell touch owned)", "\u00e4\U0001f642",
)  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.text(st.sampled_from("ab$`'\"\\;&|<>(){}[]*?~!# \t=%\n-"), max_size=12),
)


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def of_config(folder: Path, text: str, raw: bool) -> list[str] | None:
    """Write a .config with `text`, as it is or escaped; return its flags, None when refused."""
    path = folder / ".config"
    value = text if raw else escaped(text)
    path.write_text(
        f'CONFIG_DATA_DIR="{value}"\nCONFIG_INIT_FROM="{value}"\n'
        f'CONFIG_OPTIMIZER_LIBRARY=y\nCONFIG_OPTIMIZER_NAME="po:lion"\nCONFIG_OPT_ARGS="{value}"\n',
        encoding="utf-8", newline="",
    )  # fmt: skip
    try:
        return flags.flags(path)
    except UserError:
        pass  # as OPT_ARGS it is none; a path may be called so
    path.write_text(f'CONFIG_DATA_DIR="{value}"\nCONFIG_INIT_FROM="{value}"\n', encoding="utf-8")
    try:
        return flags.flags(path)
    except UserError as error:
        return None if error.code == Exit.CONFIG and error.messages else []


def check_shell(folder: Path, text: str, raw: bool) -> bool:
    """Send a text the way it goes from .config to a program; whether it was taken at all."""
    words = of_config(folder, text, raw)
    if words is None:
        return False
    # As the Makefile does: the line is read into a variable, and that is evaluated.
    line = shlex.join(words)
    script = 'flags="$(cat)"; eval "set -- $flags"; for word; do printf "%s\\0" "$word"; done'
    done = subprocess.run(
        ["sh", "-c", script], input=line.encode(), capture_output=True, cwd=folder, check=True
    )
    assert done.stdout.decode() == "".join(f"{word}\0" for word in words)
    assert done.stderr == b""
    assert sorted(path.name for path in folder.iterdir()) == [".config"], "a file appeared"
    if not raw:
        assert str(REPOSITORY / text) in words
    return True


@pytest.mark.slow
@settings(max_examples=12, derandomize=True, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(text=TEXTS, raw=st.booleans())
def test_texts_of_a_config_arrive_or_are_refused(text: str, raw: bool, tmp_path: Path) -> None:
    check_shell(tmp_path, text, raw)


def test_no_nasty_text_is_executed(tmp_path: Path) -> None:
    taken = [text for text in NASTY[:3] if check_shell(tmp_path, text, raw=False)]
    assert taken == list(NASTY[:3])  # all are names that a folder may have


#: Stands for a Python: says it is one, prints the flags it was given and what was typed behind --,
#: keeps what others get.
STAND_IN = """#!/bin/sh
case "$1" in
  scripts/environment.py) printf '%s\\n' "$0" ;;
  scripts/flags.py)
    printf '%s' "$(cat "$STAND_IN_FLAGS")"
    while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
    for word; do [ "$word" = -- ] || printf ' %s' "$word"; done ;;
  *) for word; do printf '%s\\0' "$word"; done > "$STAND_IN_SAID" ;;
esac
"""


class Maker:
    """`make` in the repository, with a stand-in for Python, and a folder for what it says."""

    def __init__(self, folder: Path) -> None:
        self.said, self.flags, self.python = (folder / name for name in ("said", "flags", "python"))
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)
        self.flags.write_text("\n")
        self.here = folder / "here"
        self.here.mkdir()
        shutil.copy(REPOSITORY / "Makefile", self.here)

    def __call__(self, *arguments: str) -> list[str]:
        """Return what the last program was given."""
        self.said.unlink(missing_ok=True)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        environment = {"STAND_IN_FLAGS": str(self.flags), "STAND_IN_SAID": str(self.said)}
        done = subprocess.run(
            ["make", f"PYTHON={self.python}", *arguments],
            cwd=self.here, env={**clean, **environment}, capture_output=True, check=False,
        )  # fmt: skip
        assert [path.name for path in self.here.iterdir()] == ["Makefile"], "a file appeared"
        self.code = done.returncode
        return self.said.read_bytes().decode().split("\0")[:-1] if self.said.exists() else []


@pytest.fixture
def made(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


@pytest.mark.slow
def test_texts_of_a_config_go_through_make(made: Maker) -> None:
    for text in NASTY:
        words = flags.words("DATA_DIR", text, yes_or_no=False)
        words += flags.words("OPT_ARGS", text, yes_or_no=False)
        made.flags.write_text(shlex.join(words) + "\n", encoding="utf-8")
        assert made("train") == ["gpt2/train.py", *words], text
        assert made.code == 0


@pytest.mark.slow
def test_variables_of_make_go_to_programs_unchanged(made: Maker) -> None:
    for text in NASTY:
        if text != text.strip():  # make takes blanks away
            continue
        typed = text.replace("$", "$$")  # what make itself is to leave alone
        assert made("explain", f"OPTION={typed}") == ["scripts/kconf.py", "explain", "--", text]
        assert made("randconfig", f"SEED={typed}")[-1] == text
        assert made("matrix-rerun", f"CELLS={typed}")[-2:] == ["--rerun", text]
        matrix_words = ["scripts/matrix.py", "--spec", "a", "--out", text]
        assert made("test-matrix", "SPEC=a", f"OUT={typed}") == matrix_words
        named = ["Makefile"] if text == "*" else text.split()  # the one file there
        assert made("report", f"RUNS={typed}") == ["scripts/report.py", "--runs", *named]
        quoted = made("sample", f"ARGS=--prompt {shlex.quote(typed)}")
        assert quoted[-1] == text
        assert made("train", f"TIME={typed}") == [], text
    assert made("train", "TIME=60")[-2:] == ["--max-time", "60"]


OUTSIDE = ("../x", "../../x", "/etc/passwd", "a/b", "..", ".", "", "a/../../x", "x\0", "-/x")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder of checkpoints with one of step 1, and a file beside it that nobody may touch."""
    import torch

    (tmp_path / "x").write_text("mine")
    made = store.Checkpoint(1, {"w": torch.zeros(2)}, {"w.m": torch.zeros(2)}, {"best": None})
    store.save(tmp_path / "checkpoints", made)
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_names_files_of_its_folder_alone(
    name: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.folder_of(saved, 1)
    path = folder / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {name: [4, "0" * 64], **manifest["files"]}
    path.write_text(json.dumps(manifest))
    opened: list[Path] = []
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda p, *a, **k: opened.append(p) or original(p, *a, **k))
    with pytest.raises(DamagedError, match="is not a file in its folder"):
        store.load(folder)
    assert all(p.parent == folder for p in opened)


def test_links_planted_among_checkpoints_lead_nowhere(saved: Path, tmp_path: Path) -> None:
    import torch

    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    for name in (".tmp-step-00000002-1", "step-00000000", "step-00000009"):
        (saved / name).symlink_to(precious)
    store.prepare(saved)
    made = store.Checkpoint(2, {"w": torch.ones(2)}, {}, {})
    store.save(saved, made)
    found = store.load_last(saved, lambda _: None)
    assert found is not None
    assert found.step == 2
    assert (precious / "file").read_text() == "mine"
    (saved / "step-00000003").symlink_to(precious)
    with contextlib.suppress(OSError):  # refused, or the link alone gives way
        store.save(saved, store.Checkpoint(3, {"w": torch.ones(2)}, {}, {}))
    assert [path.name for path in precious.iterdir()] == ["file"]


def test_a_checkpoint_of_another_step_is_none(saved: Path) -> None:
    store.folder_of(saved, 1).rename(store.folder_of(saved, 7))
    with pytest.raises(DamagedError, match="is of step 1"):
        store.load(store.folder_of(saved, 7))


def test_the_link_to_the_latest_run_is_replaced_and_never_followed(tmp_path: Path) -> None:
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    for folder in (runs / "one", elsewhere):
        folder.mkdir(parents=True)
        (folder / "config").write_text("")
    (runs / "latest").symlink_to(elsewhere)
    assert unfinished(runs) == [runs / "one"]  # make resume goes into no link
    point_latest(runs / "one", pytest.fail)
    assert (runs / "latest").resolve() == runs / "one"
    assert [path.name for path in elsewhere.iterdir()] == ["config"]


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a b", "..", "", "x/", ".hidden", "a\\nb"])
def test_the_name_of_a_matrix_is_that_of_a_folder(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(f'CONFIG_MATRIX_NAME="{escaped(name)}"\n')
    with pytest.raises(UserError, match="is not a name"):
        check_spec(from_config(path))


@pytest.mark.parametrize("value", ["../../x", "/etc/passwd", "..", "a/../../b", "x" * 400])
def test_the_values_of_an_axis_make_names_of_cells(value: str, tmp_path: Path) -> None:
    """A value that could lead out of cells/ is a letter of a name there, or is refused."""
    path = tmp_path / "config"
    path.write_text(
        'CONFIG_DATASET_TEXT=y\nCONFIG_MAX_STEPS=1\nCONFIG_MATRIX_OPTIMIZERS="adamw"\n'
        'CONFIG_MATRIX_PRUNING_METHODS="none"\nCONFIG_MATRIX_SEEDS="1"\n'
        f'CONFIG_MATRIX_AXES="data-dir={value}"\n'
    )
    from scripts.study.cells import expand

    (cell,) = expand(check_spec(from_config(path))).cells
    folder = MatrixFolder(tmp_path / "out")
    assert folder.run_dir(cell.name).resolve().parent == folder.cells.resolve()
    assert len(f"{cell.name}.txt") < 255


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..", "", "a/b", ".lock"])
def test_cells_of_a_matrix_json_stay_in_it(name: str, tmp_path: Path) -> None:
    """--rerun moves folders, so a name that leads out is refused before anything is moved."""
    out = write_matrix(tmp_path / "deep" / "matrix", cells=1, seeds=1)
    (tmp_path / "x").mkdir()
    (out / "matrix.json").write_text(json.dumps(to_json(matrix_record(cell_record(name=name)))))
    with pytest.raises(UserError, match="is not a cell"):
        matrix.main(["--config", str(REPOSITORY / "defconfigs/gpt2-shakespeare-matrix-smoke"),
                     "--out", str(out), "--rerun", "*"])  # fmt: skip
    assert (tmp_path / "x").exists()
    assert not (out / "set-aside").exists()


def test_a_line_of_a_journal_names_known_cells_or_nothing(tmp_path: Path) -> None:
    folder = MatrixFolder(tmp_path)
    lines: list[Any] = [
        {"event": "started", "cell": "../../x", "time": "t"},
        {"event": "started", "cell": ["a"], "time": "t"},
        {"event": "finished", "cell": "a", "time": "t", "seconds": "no"},
        {"event": "started", "cell": "a", "time": "t"},
    ]
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    from scripts.study.state import states

    assert len(folder.journal()) == 2
    found = states(folder, ["a"], alive=False)
    assert {name: state.status for name, state in found.items()} == {"a": "unfinished"}


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b"])
def test_an_index_of_weights_names_files_beside_it(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "x.safetensors").write_text("")
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    index = {"weight_map": {"wte.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="not a file in this folder"):
        open_foreign(folder)


def test_a_frame_that_asks_for_a_large_window_is_refused(tmp_path: Path) -> None:
    """A .zst header of eleven bytes may ask for gigabytes before anything is unpacked."""
    path = tmp_path / "in.txt.zst"
    descriptor, window = 0x00, (31 - 10) << 3  # no size; a window of 2 GiB
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes([descriptor, window]) + b"\x01\x00\x00")
    with pytest.raises(UserError) as caught:
        list(text_files.pieces(path))
    assert caught.value.code == Exit.DATA
    assert str(path) in caught.value.messages[0]


def test_packed_weights_are_refused(tmp_path: Path) -> None:
    """torch.save packs nothing; a packed part may be of any size when it is unpacked."""
    import zipfile

    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    with pytest.raises(UserError, match="is compressed"):
        open_foreign(path)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a": ' * 100_000, "1" * 5000, "9" * 400, '{"a": 1, "a": 2}', "", "nul",
     '{"a": 1} x'],
)  # fmt: skip
def test_json_that_nobody_writes_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"it |Expecting|Extra"):
        json_files.parse(text)


def header_of(entries: dict[str, Any], data: bytes = bytes(8)) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


HEADERS = {
    "a length of exabytes": (1 << 62).to_bytes(8, "little") + b"{}",
    "a shape of exabytes": header_of({"w": {"dtype": "F32", "shape": [1 << 40, 1 << 20],
                                            "data_offsets": [0, 8]}}),
    "offsets outside": header_of({"w": {"dtype": "F32", "shape": [2],
                                        "data_offsets": [1 << 60, (1 << 60) + 8]}}),
    "a negative shape": header_of({"w": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}),
    "an unknown type": header_of({"w": {"dtype": "PYTHON", "shape": [1], "data_offsets": [0, 8]}}),
    "brackets without end": (200_000).to_bytes(8, "little") + b"[" * 200_000,
    "a shape whose product overflows": header_of({"w": {
        "dtype": "U8", "shape": [1 << 32, 1 << 32, 2], "data_offsets": [0, 8]}}),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADERS)
def test_a_crafted_header_is_damage_and_takes_no_memory(kind: str, saved: Path) -> None:
    """A file that its manifest vouches for, and whose header asks for more than there is."""
    from tests.support import fuzzing

    folder = store.folder_of(saved, 1)
    (folder / "model.safetensors").write_bytes(HEADERS[kind])
    fuzzing.vouch(folder, "model.safetensors")
    before = resident()
    with pytest.raises(DamagedError, match=r"model\.safetensors is damaged"):
        store.load(folder)
    assert resident() - before < 50 << 20
    with pytest.raises(UserError) as caught:
        store.load_last(saved, lambda _: None)
    assert caught.value.code == Exit.CHECKPOINT


def resident() -> int:
    """Bytes that this process holds of its own (RssAnon)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon")]
    return int(line.split()[1]) << 10


@pytest.mark.slow
def test_a_spec_whose_keys_are_lists_of_lists_is_refused_at_once(tmp_path: Path) -> None:
    """Names of names of names would be gigabytes if one were shown."""
    path = tmp_path / "spec.yaml"
    lines = ["axes:", "  a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"  {name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    path.write_text("\n".join([*lines, "? *i", ": x"]) + "\n")
    with pytest.raises(UserError, match="a plain name is needed"):
        check_spec(from_yaml(path))
    path.write_text("[" * 1_500)
    with pytest.raises(UserError, match="lists in lists"):
        from_yaml(path)
    path.write_text("a: " + "x" * (2 << 20))
    with pytest.raises(UserError, match="larger than any matrix"):
        from_yaml(path)


MARKUP = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)",
    "</title></svg><script>x</script>", "</style><b>", "]]><b>", "&lt;b&gt;", "{{ 7 * 7 }}",
    "<!--", "\x00\x01\x1b[31m", "\ud800", "\udcff", "\u202e", "$x^2$", "</pre><b>", "a\tb<b>",
)  # fmt: skip


class Shape(HTMLParser):
    """The elements of a page with the names of their attributes, and the links in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[tuple[str, tuple[str, ...]]] = set()
        self.counts: dict[str, int] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add((tag, tuple(name for name, _ in attrs)))
        self.counts[tag] = self.counts.get(tag, 0) + 1
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            # Tables are saved from links of base64, in which no text of a run is text.
            ours = re.fullmatch(
                r"#.*|report\.md|results\.(csv|jsonl)|data:text/[a-z-]+;charset=utf-8;base64,[\w+/=]*",
                value or "",
            )
            assert name not in ("href", "src") or ours, (tag, value)


def reported(folder: Path, text: str) -> Shape:
    """Make the report of a matrix that says `text` wherever it can; return its page's shape."""
    name = "".join(letter for letter in text if letter not in "/\0\n\ud800\udcff") or "x"
    changes = dict.fromkeys(
        ("host", "device_name", "status", "code", "commit", "start", "end", "precision",
         "determinism", "device"), text
    )  # fmt: skip
    changes["data"] = {"dataset": text, "data_hash": text, "source": {"address": text}}  # type: ignore[assignment]
    changes["versions"] = {text: text}  # type: ignore[assignment]
    for number in (1, 2):
        run = write_run(folder / "cells" / f"{name}{number}", 1.5, number, **changes)
        (run / "command").write_bytes(text.encode("utf-8", "surrogatepass"))
        with (run / "config").open("ab") as config:
            config.write(f'CONFIG_ODD="{escaped(text)}"\n'.encode("utf-8", "surrogatepass"))
    pruned = write_run(folder / "cells" / f"{name}3", 1.6, 1, method="magnitude", **changes)
    summary = json.loads((pruned / "summary.json").read_text())
    summary["sparsity_layers"] = {text: 0.5}
    (pruned / "summary.json").write_text(json.dumps(summary))
    write_run(folder / "cells" / f"{name}4", None, 3, **changes)
    spec = {"name": text, "base": {text: text}, "axes": {text: [text]}, "cells": [{"name": text}]}
    (folder / "matrix.json").write_text(json.dumps(spec))
    if "\udcff" in text:  # the name of a folder may be of bytes that are no UTF-8
        (folder / "cells" / f"{name}1").rename(folder / "cells" / f"{name}1\udcff")
    event = {
        "event": "failed",
        "cell": text,
        "kind": text,
        "reason": text,
        "tail": f"{text}\n{text}",
    }
    (folder / "journal.jsonl").write_text(json.dumps(event) + "\n")
    with warnings.catch_warnings(), open(os.devnull, "w", errors="replace") as nowhere:
        warnings.simplefilter("ignore", UserWarning)  # of fonts that lack a character
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            assert report.main(["--out", str(folder)]) == 0
    return Shape((folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_no_text_becomes_an_element_or_an_attribute(tmp_path: Path) -> None:
    plain = reported(tmp_path / "plain", "plain")
    for number, text in enumerate(("".join(MARKUP[:8]), "".join(MARKUP[8:]), MARKUP[1])):
        odd = reported(tmp_path / str(number), text)
        assert odd.found == plain.found, text
        assert odd.counts == plain.counts, text


def test_a_log_takes_any_name(tmp_path: Path) -> None:
    """A folder may be named by bytes that are no UTF-8; its log and command say so all the same."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run\xff"))
    folder = RunFolder(path)
    folder.log.write(f"run directory {path}\n")
    folder.write_text("command", f"--run-dir {path}\n")
    folder.close()
    assert os.fsencode(path) in (path / "command").read_bytes()
    assert "\\udcff" in (path / "log.txt").read_text(encoding="utf-8")
