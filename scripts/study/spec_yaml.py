"""A matrix in a YAML file: every value is a text as written, and errors name their lines.

name: rates
config: defconfigs/gpt2-shakespeare-matrix-cpu   # what all cells start from; may be left out
options: {max-steps: 500}
axes: {optimizer: [adamw, adamwspam], pruning-method: [none, state], target-sparsity: [0.5]}
tune: {learning-rate: log:1e-3..1e-2, weight-decay: [0.03, 0.1, 0.3]}   # may be left out
seeds: 1..5
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt2.config.errors import UserError
from gpt2.config.names import nearest
from gpt2.config.options import Options
from gpt2.config.schema import REPOSITORY, ROOT_TREE, TRAIN_TREE
from scripts.study.spec import SLURM_KEYS, RawSpec, from_config, from_options, option_name

#: Keys with a single text each, and their symbol in scripts/Kconfig.
_TEXTS = {
    "name": "NAME",
    "seeds": "SEEDS",
    "tuning-seeds": "TUNING_SEEDS",
    "jobs": "JOBS",
    "timeout": "TIMEOUT",
    "wait": "WAIT",
    "keep": "KEEP",
    "tune-trials": "TUNE_TRIALS",
    "tune-scramble": "TUNE_SCRAMBLE",
    "runner": "RUNNER",
    **{f"slurm-{key.lower().replace('_', '-')}": f"SLURM_{key}" for key in SLURM_KEYS},
    "controls": "CONTROLS",
}
_KEYS = (*_TEXTS, "config", "options", "axes", "tune")
_LARGEST = 1 << 20  # bytes
#: Other spellings of yes and no in YAML.
_YES_OR_NO = {"true": "y", "yes": "y", "on": "y", "false": "n", "no": "n", "off": "n"}


def from_yaml(path: Path) -> RawSpec:
    """Read a matrix.

    Raises UserError naming every problem with its line.
    """
    import yaml  # only needed for YAML files

    try:
        # BaseLoader does not turn texts into numbers, dates or objects: 3e-4 and no stay texts.
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path}: is larger than any matrix: {_LARGEST:,} bytes are read")
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except RecursionError:
        raise UserError(f"{path}: is not a matrix: lists in lists without end") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"{path}: cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        line = f":{mark.line + 1}" if mark else ""
        reason = " ".join(str(error).split("\n")[:1])
        if isinstance(error, yaml.MarkedYAMLError):
            reason = str(error.problem)
        raise UserError(f"{path}{line}: is not YAML: {reason}") from error
    return _Reader(path, yaml.MappingNode, yaml.SequenceNode).read(root)


class _Reader:
    """Reads the nodes of one file; `mapping` and `sequence` are the classes of such nodes."""

    def __init__(self, path: Path, mapping: type[Any], sequence: type[Any]) -> None:
        self.path, self.mapping, self.sequence = path, mapping, sequence
        self.problems: list[str] = []
        self.options = Options(TRAIN_TREE)

    def read(self, root: Any) -> RawSpec:
        """Return the file's matrix.

        Raises UserError.
        """
        found = self.pairs(root, "the file")
        for key, (key_node, _) in found.items():
            if key not in _KEYS:
                self.wrong(key_node, f"{key!r} is unknown{nearest(key, list(_KEYS))}")
        raw = self.start(found)
        for key, symbol in _TEXTS.items():
            if key in found:
                text = " ".join(self.values(found[key][1]))
                raw.texts[symbol] = _YES_OR_NO.get(text, text) if key == "controls" else text
                raw.where[symbol] = self.place(found[key][0])
        if "axes" in found:
            for name, (key_node, node) in self.pairs(found["axes"][1], "axes").items():
                option = option_name(name)
                raw.axes[option] = self.meant(option, self.values(node))
                raw.where[option] = self.place(key_node)
        if "tune" in found:
            pairs = self.pairs(found["tune"][1], "tune")
            ranges = {name: ",".join(self.values(node)) for name, (_, node) in pairs.items()}
            raw.texts["TUNE"] = "; ".join(f"{name}={text}" for name, text in ranges.items())
            raw.where["TUNE"] = self.place(found["tune"][0])
        if "options" in found:
            for name, (key_node, node) in self.pairs(found["options"][1], "options").items():
                option = option_name(name)
                (raw.base[option],) = self.meant(option, self.values(node)[:1] or [""])
                raw.where[option] = self.place(key_node)
                if option == "SEED":
                    self.wrong(key_node, "seed cannot be given to a matrix: give seeds")
        raw.problems += self.problems
        if self.problems and not found:
            raise UserError(*self.problems)
        return raw

    def start(self, found: dict[str, tuple[Any, Any]]) -> RawSpec:
        """Return the base of the file: a .config, or the defaults without any axis."""
        if "config" in found:
            (name,) = self.values(found["config"][1])[:1] or [""]
            raw = from_config(REPOSITORY / name)
        else:
            raw = from_options(Options(ROOT_TREE))
        if "axes" in found or "config" not in found:
            raw.axes.clear()  # the .config's lists are not visible in the file: they do not count
        raw.texts["NAME"] = self.path.stem
        return raw

    def meant(self, option: str, values: list[str]) -> list[str]:
        """Return the values of an option as in flags."""
        if option in self.options.names() and self.options.is_bool(option):
            return [_YES_OR_NO.get(value.lower(), value) for value in values]
        return values

    def pairs(self, node: Any, what: str) -> dict[str, tuple[Any, Any]]:
        """Return the pairs of a mapping: key -> node of the key, node of the value."""
        if not isinstance(node, self.mapping):
            place = self.place(node) if node is not None else str(self.path)
            self.problems.append(f"{place}: {what} must be pairs of name: value")
            return {}
        found: dict[str, tuple[Any, Any]] = {}
        for key, value in node.value:
            if not isinstance(key.value, str):  # showing it could take for ever: *a: [*a, *a]
                self.wrong(key, "a plain name is needed here")
                continue
            if key.value in found:
                self.wrong(key, f"{key.value!r} is given again")
            found[key.value] = (key, value)
        return found

    def values(self, node: Any) -> list[str]:
        """Return the texts of a list, or of a single value."""
        parts = node.value if isinstance(node, self.sequence) else [node]
        found = []
        for part in parts:
            if isinstance(part.value, str):
                found.append(part.value)
            else:
                self.wrong(part, "a plain value is needed here")
        return found

    def place(self, node: Any) -> str:
        return f"{self.path}:{node.start_mark.line + 1}"

    def wrong(self, node: Any, text: str) -> None:
        self.problems.append(f"{self.place(node)}: {text}")
