"""Kconfig tree -> options: what is given comes out, and what Kconfig would ignore is refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

import kconfiglib as kc
import pytest

from gpt2.config.errors import UserError
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE, TRAIN_TREE
from gpt2.config.tree import Kconfig
from tests.conftest import ODD_FOLDERS, WriteConfig, random_options

TREE = """
mainmenu "a small tree"
config HAS_MOMENT
	bool
	default y if RULE_FANCY
choice RULE
	prompt "Rule"
	default RULE_PLAIN
config RULE_PLAIN
	bool "plain"
config RULE_FANCY
	bool "fancy"
endchoice
choice METHOD
	prompt "Method"
	default METHOD_NONE
config METHOD_NONE
	bool "none"
config METHOD_STATE
	bool "state"
	depends on HAS_MOMENT
endchoice
config STEPS
	int "Steps" if RULE_FANCY && (METHOD_STATE || !SLOW)
	default 3
	range 1 5 if SLOW
	range 1 9
config SLOW
	bool "Slow"
"""


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    path = tmp_path / "Kconfig"
    path.write_text(TREE)
    return path


def given(*values: tuple[str, str], tree: Path = TRAIN_TREE) -> Options:
    options = Options(tree)
    for name, value in values:
        options.give(name, value, flag_of(name))
    return options


def read(path: Path) -> Options:
    options = Options()
    options.read(path)
    return options


def values(options: Options) -> dict[str, str | None]:
    return {name: options.value(name) for name in options.names()}


def complaints(path: Path) -> list[str]:
    """The problems of a .config, each without the path in front of it."""
    problems = read(path).check()
    assert all(problem.startswith(f"{path}:") for problem in problems)
    return [problem.removeprefix(f"{path}:") for problem in problems]


def test_names_and_flags_map_both_ways() -> None:
    names = Options().names()
    flags = [flag_of(name) for name in names]
    assert flag_of("GRAD_CLIP") == "--grad-clip"
    assert [flag[2:].replace("-", "_").upper() for flag in flags] == names
    # BooleanOptionalAction adds --no-X: no option may already be called so.
    assert not set(flags) & {flag.replace("--", "--no-", 1) for flag in flags}
    assert len(set(flags)) == len(flags)


def test_names_are_what_a_flag_can_set(small_tree: Path) -> None:
    assert Options(small_tree).names() == ["RULE", "METHOD", "STEPS", "SLOW"]


@pytest.mark.parametrize("tree", [TRAIN_TREE, ROOT_TREE], ids=["train", "root"])
def test_the_tree_says_what_its_options_are(tree: Path) -> None:
    kconfig = Kconfig(tree)
    assert kconfig.warnings == []
    silent = []
    for node in kconfig.node_iter():
        in_choice = isinstance(node.item, kc.Symbol) and node.item.choice
        if isinstance(node.item, kc.Symbol | kc.Choice) and node.prompt and not in_choice:
            text = (node.help or "").strip()
            if not text.endswith((".", ")")):
                silent.append(node.item.name)
    assert silent == []


def test_every_symbol_can_be_an_option() -> None:
    options = Options(ROOT_TREE)
    for choice in options.kconfig.unique_choices:
        assert choice.name, "a choice needs a name to be a flag"
        for word, symbol in options.members(choice.name).items():
            assert symbol == f"{choice.name}_{re.sub('[-:]', '_', word.upper())}"
    # Neither tristate (modules) nor hex has a meaning here.
    kinds = {symbol.orig_type for symbol in options.symbols.values()}
    assert kinds <= {kc.BOOL, kc.INT, kc.STRING}


def test_a_mistake_in_the_tree_is_found(tmp_path: Path) -> None:
    bad = tmp_path / "Kconfig"
    bad.write_text('config A\n\tint "a"\n\tdefault "3 # three"\n')
    with pytest.raises(AssertionError, match="non-int default"):
        Kconfig(bad)


BAD_LINES = {
    "unknown": (
        ["CONFIG_BATCHSIZE=3"],
        ["1: CONFIG_BATCHSIZE is unknown; did you mean BATCH_SIZE"],
    ),
    "unknown, unset": (
        ["# CONFIG_BIASES is not set"],
        ["1: CONFIG_BIASES is unknown; did you mean BIAS"],
    ),
    "choice as symbol": (
        ["CONFIG_MODEL=gpt2"],
        ["1: CONFIG_MODEL is unknown; did you mean MODEL_GPT2"],
    ),
    "above": (["CONFIG_NUM_WORKERS=17"], ["1: CONFIG_NUM_WORKERS: 17 is out of range 0..16"]),
    "below": (["CONFIG_SEED=-1"], ["1: CONFIG_SEED: -1 is out of range 0..2147483647"]),
    "conditional range": (
        ["CONFIG_BLOCK_SIZE=1025"],
        ["1: CONFIG_BLOCK_SIZE: 1025 is out of range 1..1024"],
    ),
    "float for int": (["CONFIG_SEED=1.5"], ["1: CONFIG_SEED: '1.5' is not a whole number"]),
    "hex for int": (["CONFIG_SEED=0x10"], ["1: CONFIG_SEED: '0x10' is not a whole number"]),
    "empty int": (["CONFIG_SEED="], ["1: CONFIG_SEED: '' is not a whole number"]),
    "quoted int": (['CONFIG_SEED="3"'], ["1: CONFIG_SEED: '\"3\"' is not a whole number"]),
    "word for bool": (["CONFIG_BIAS=yes"], ["1: CONFIG_BIAS: 'yes' is not y or n"]),
    "module": (["CONFIG_BIAS=m"], ["1: CONFIG_BIAS: 'm' is not y or n"]),
    "comment after int": (
        ["CONFIG_SEED=3 # mine"],
        ["1: CONFIG_SEED=3 # mine has a comment after the value"],
    ),
    "comment after bool": (
        ["CONFIG_BIAS=y# mine"],
        ["1: CONFIG_BIAS=y# mine has a comment after the value"],
    ),
    "comment after string": (
        ['CONFIG_DROPOUT="0.1" # mine'],
        ['1: CONFIG_DROPOUT="0.1" # mine has a comment after the value'],
    ),
    "comment after unset": (
        ["# CONFIG_BIAS is not set # mine"],
        ["1: '# CONFIG_BIAS is not set # mine' has a comment after"],
    ),
    "no quotes": (["CONFIG_DROPOUT=0.1"], ["1: CONFIG_DROPOUT=0.1 has missing quotes"]),
    "open quote": (['CONFIG_DROPOUT="0.1'], ['1: CONFIG_DROPOUT="0.1 has missing quotes']),
    "unset string": (["# CONFIG_DROPOUT is not set"], ["1: CONFIG_DROPOUT needs a value"]),
    "unset int": (["# CONFIG_SEED is not set"], ["1: CONFIG_SEED needs a value"]),
    "twice": (
        ["CONFIG_SEED=3", "", "CONFIG_SEED=3"],
        ["3: CONFIG_SEED is set again (first on line 1)"],
    ),
    "set and unset": (
        ["CONFIG_BIAS=y", "# CONFIG_BIAS is not set"],
        ["2: CONFIG_BIAS is set again (first on line 1)"],
    ),
    "two of a choice": (
        ["CONFIG_OPTIMIZER_SGD=y", "CONFIG_OPTIMIZER_ADAM=y"],
        ["2: CONFIG_OPTIMIZER_ADAM=y contradicts CONFIG_OPTIMIZER_SGD=y: choose one"],
    ),
    "none of a choice": (
        ["# CONFIG_OPTIMIZER_ADAMW is not set"],
        ["1: CONFIG_OPTIMIZER_ADAMW cannot be n: choose another of its group"],
    ),
    "unmet": (
        ['CONFIG_WSD_DECAY="0.5"'],
        ["1: CONFIG_WSD_DECAY has no effect here: it needs LR_SCHEDULE_WSD"],
    ),
    "unmet though defaulted": (
        ["CONFIG_N_LAYER=3"],
        ["1: CONFIG_N_LAYER has no effect here: it needs MODEL_CUSTOM"],
    ),
    "unmet choice": (
        ["CONFIG_TOKENIZER_CHAR=y"],
        [
            "1: CONFIG_TOKENIZER_CHAR has no effect here: it needs CHOOSES_TOKENIZER"
            " (as with DATASET_TEXT)"
        ],
    ),
    "unmet bool": (
        ["CONFIG_SGD_NESTEROV=y"],
        ["1: CONFIG_SGD_NESTEROV has no effect here: it needs OPTIMIZER_SGD"],
    ),
    "torn": (
        ['CONFIG_DATA_DIR="a\u2028b"'],
        ["1: CONFIG_DATA_DIR: 'a\\u2028b' is not one line of text"],
    ),
    "no assignment": (["BATCH_SIZE=3"], ["1: 'BATCH_SIZE=3' is not a CONFIG_NAME=value line"]),
    "spaces": (["CONFIG_SEED = 3"], ["1: 'CONFIG_SEED = 3' is not a CONFIG_NAME=value line"]),
    "indented": (["  CONFIG_SEED=3"], ["1: '  CONFIG_SEED=3' is not a CONFIG_NAME=value line"]),
    "shell": (
        ["export CONFIG_SEED=3"],
        ["1: 'export CONFIG_SEED=3' is not a CONFIG_NAME=value line"],
    ),
    "several": (
        ["# a comment", "CONFIG_SEED=x", "", "CONFIG_NUM_WORKERS=99", "nonsense"],
        [
            "2: CONFIG_SEED: 'x' is not a whole number",
            "5: 'nonsense' is not a CONFIG_NAME=value line",
            "4: CONFIG_NUM_WORKERS: 99 is out of range 0..16",
        ],
    ),
}


@pytest.mark.parametrize(("lines", "wanted"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_bad_lines_are_refused_by_line(
    write_config: WriteConfig, lines: list[str], wanted: list[str]
) -> None:
    found = complaints(write_config(*lines))
    assert len(found) == len(wanted), found
    for message, start in zip(found, wanted, strict=True):
        assert message.startswith(start)


def test_every_bad_line_is_refused_in_company(write_config: WriteConfig) -> None:
    lines = [lines[0] for lines, _ in BAD_LINES.values() if len(lines) == 1]
    numbers = {int(found.split(":")[0]) for found in complaints(write_config(*lines))}
    assert numbers == set(range(1, len(lines) + 1))


@pytest.mark.parametrize(
    "line",
    [
        "CONFIG_BATCH_SIZE=64",
        'CONFIG_DATA_DIR="a # b"',
        r'CONFIG_DATA_DIR="a \"b\" \\ c"',
        "# CONFIG_BIAS is not set",
        "# anything CONFIG_BIAS=maybe",
        "",
        "CONFIG_SEED=3   ",
        "CONFIG_SEED=3\r",
        "CONFIG_OPTIMIZER_SGD=y\n# CONFIG_OPTIMIZER_ADAMW is not set",
        "# CONFIG_OPTIMIZER_ADAMW is not set\nCONFIG_OPTIMIZER_SGD=y",
        # Lines for hidden symbols that a full file has, and that lose nothing.
        "CONFIG_N_LAYER=12",
        "# CONFIG_SGD_NESTEROV is not set",
    ],
)
def test_right_lines_are_taken(write_config: WriteConfig, line: str) -> None:
    assert read(write_config(line)).check() == []


def test_values_are_unquoted(write_config: WriteConfig) -> None:
    path = write_config(r'CONFIG_DATA_DIR="a \"b\" \\ # c"', "CONFIG_SEED=7", "CONFIG_BIAS=n")
    options = read(path)
    assert options.value("DATA_DIR") == 'a "b" \\ # c'
    assert options.value("SEED") == "7"
    assert options.value("BIAS") == "n"
    assert options.origin("SEED") == f"{path}:2: CONFIG_SEED"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b'CONFIG_DATA_DIR="\xff"\n', "not UTF-8"), ("folder", "directory")],
)
def test_unreadable_files(tmp_path: Path, content: bytes | str | None, reason: str) -> None:
    path = tmp_path / ".config"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.mkdir()
    with pytest.raises(UserError, match=reason) as caught:
        read(path)
    assert str(path) in caught.value.messages[0]


def test_a_flag_that_plays_no_part_is_refused() -> None:
    for name, value in (("WSD_DECAY", "0.5"), ("WSD_DECAY", "0.2"), ("WSD_DECAY", "")):
        assert given((name, value)).check() == [
            "--wsd-decay has no effect here: it needs --lr-schedule wsd"
        ]
    # Also with the value that the symbol has by itself.
    assert given(("N_LAYER", "12")).check() == [
        "--n-layer has no effect here: it needs --model custom"
    ]
    assert given(("SGD_NESTEROV", "n")).check() == [
        "--sgd-nesterov has no effect here: it needs --optimizer sgd"
    ]
    assert given(("TOKENIZER", "gpt2")).check() == [
        "--tokenizer has no effect here: it needs --dataset text"
    ]
    assert given(("N_LAYER", "12"), ("MODEL", "custom")).check() == []


def test_every_unmet_condition_is_named(small_tree: Path) -> None:
    options = given(("STEPS", "4"), ("SLOW", "y"), tree=small_tree)
    assert options.check() == [
        "--steps has no effect here: it needs --rule fancy and --method state or --no-slow"
    ]
    assert options.conditions("STEPS") == {"RULE_FANCY": False, "METHOD_STATE || !SLOW": False}
    options.give("RULE", "fancy", "--rule")
    options.give("METHOD", "state", "--method")
    assert options.check() == []
    assert options.value("STEPS") == "4"


def test_a_member_whose_own_dependency_fails(small_tree: Path) -> None:
    assert given(("METHOD", "state"), tree=small_tree).check() == [
        "--method: 'state' cannot be chosen here: it needs HAS_MOMENT"
    ]
    assert given(("RULE", "fancy"), ("METHOD", "state"), tree=small_tree).check() == []


def test_a_hidden_symbol_without_prompt_cannot_be_set(small_tree: Path, tmp_path: Path) -> None:
    path = tmp_path / ".config"
    path.write_text("CONFIG_HAS_MOMENT=y\n")
    options = Options(small_tree)
    options.read(path)
    assert options.check() == [
        f"{path}:1: CONFIG_HAS_MOMENT=y follows from other options, and is n by them: drop the line"
    ]
    path.write_text("# CONFIG_HAS_MOMENT is not set\n")  # as a full .config says it
    options = Options(small_tree)
    options.read(path)
    assert options.check() == []


def test_a_range_follows_its_condition(small_tree: Path) -> None:
    fancy = ("RULE", "fancy")
    assert given(fancy, ("STEPS", "7"), tree=small_tree).check() == []
    both = given(fancy, ("METHOD", "state"), ("SLOW", "y"), ("STEPS", "7"), tree=small_tree)
    assert both.check() == ["--steps: 7 is out of range 1..5"]
    assert given(fancy, ("STEPS", "12"), tree=small_tree).check() == [
        "--steps: 12 is out of range 1..9"
    ]


def test_what_plays_no_part_has_no_value() -> None:
    options = Options()
    for name in ("SGD_NESTEROV", "SGD_MOMENTUM", "TOKENIZER", "WSD_DECAY"):
        assert options.value(name) is None
    # Without a prompt it still plays its part.
    assert (options.unmet("N_LAYER"), options.value("N_LAYER")) == (["MODEL_CUSTOM"], "12")
    assert given(("OPTIMIZER", "sgd")).value("SGD_NESTEROV") == "n"


def test_an_unknown_choice_names_the_nearest_and_all() -> None:
    options = given(("OPTIMIZER", "adamv"))
    [problem] = options.problems
    assert problem.startswith("--optimizer 'adamv' is unknown; did you mean adam or ")
    assert problem.endswith(
        f"(choose from {', '.join(options.members('OPTIMIZER'))}, or LIBRARY:NAME)"
    )
    assert (
        given(("DATASET", "shakespeare_char"))
        .problems[0]
        .startswith("--dataset 'shakespeare_char' is unknown; did you mean shakespeare-char")
    )


def test_given_and_equal_to_the_default_is_given() -> None:
    options = given(("BATCH_SIZE", "32"), ("OPTIMIZER", "adamw"))
    assert set(options.given) == {"BATCH_SIZE", "OPTIMIZER_ADAMW"}
    assert options.minimal() == {}
    assert options.origin("BATCH_SIZE") == "--batch-size"


def test_the_last_value_of_a_choice_counts() -> None:
    options = given(("OPTIMIZER", "sgd"), ("OPTIMIZER", "adam"))
    assert options.check() == []
    assert options.value("OPTIMIZER") == "adam"


@pytest.mark.parametrize(
    "text", ["a\nb", "a\rb", "a\0b", "a\x0bb", "a\x85b", "a\u2028b", "a\udcffb"]
)
def test_text_that_is_no_line_is_refused(text: str) -> None:
    (problem,) = given(("DATA_DIR", text)).problems
    said, _, way_out = problem.partition("one line of text")
    assert said == f"--data-dir: {text!r} is not "
    assert ("bytes that are not UTF-8" in way_out) == ("\udcff" in text)


HOSTILE = {
    "srctree": "/nowhere",
    "CONFIG_": "OTHER_",
    "KCONFIG_CONFIG": "/nowhere/config",
    "KCONFIG_CONFIG_HEADER": "# not ours\n",
    "KCONFIG_WARN_UNDEF": "y",
    "KCONFIG_WARN_UNDEF_ASSIGN": "y",
    "KCONFIG_STRICT": "y",
    "KCONFIG_FUNCTIONS": "no_such_module",
    "KCONFIG_ALLCONFIG": "/nowhere/all",
    "CONFIG_SEED": "5",
    "SEED": "5",
    "BATCH_SIZE": "5",
}


def test_the_environment_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, write_config: WriteConfig
) -> None:
    path = write_config("CONFIG_BATCH_SIZE=5", "CONFIG_OPTIMIZER_SGD=y")
    before = read(path)
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    after = read(path)
    assert after.check() == []
    assert values(after) == values(before)
    assert after.full_text() == before.full_text()
    assert after.minimal() == before.minimal() == {"BATCH_SIZE": "5", "OPTIMIZER": "sgd"}
    assert {name: os.environ[name] for name in HOSTILE} == HOSTILE


@pytest.mark.parametrize(
    "seed", [*range(10), *(pytest.param(n, marks=pytest.mark.slow) for n in range(10, 50))]
)
def test_a_configuration_survives_its_files(seed: int, tmp_path: Path) -> None:
    options = random_options(seed)
    full = tmp_path / "full"
    full.write_text(options.full_text(), encoding="utf-8")
    assert options.full_text().endswith("\n")
    again = read(full)
    assert again.check() == []
    assert values(again) == values(options)
    assert again.full_text() == options.full_text()
    minimal = options.minimal()
    assert again.minimal() == minimal
    assert given(*minimal.items()).check() == []
    assert values(given(*minimal.items())) == values(options)
    # kconfiglib warns when it clamps a default, and a range must be in force for every number.
    assert options.kconfig.warnings == []
    for name in options.names():
        if name in options.symbols and options.symbols[name].orig_type == kc.INT:
            assert options.bounds(name) or options.unmet(name), name


@pytest.mark.slow
def test_minimal_holds_nothing_needless() -> None:
    for seed in range(10):
        minimal = random_options(seed).minimal()
        whole = values(given(*minimal.items()))
        for name in minimal:
            rest = [item for item in minimal.items() if item[0] != name]
            assert values(given(*rest)) != whole, name


#: Of what is a name, only the default is known to be good.
NAMES = ("NAME", "OPTIMIZER_NAME", "OPT_ARGS")


@pytest.mark.long
def test_random_options_reach_everything() -> None:
    # The round trips above prove something only if the draws vary every option.
    drawn: dict[str, set[str | None]] = {}
    for seed in range(250):
        for name, value in values(random_options(seed)).items():
            drawn.setdefault(name, set()).add(value)
    defaults = Options()
    for option, found in drawn.items():
        if option in NAMES:
            continue
        wanted = set(defaults.members(option)) if option in defaults.choices else set()
        if defaults.unmet(option):  # what one optimizer alone opens is drawn three or four times
            assert found - {None}, option
            continue
        assert wanted <= found, option
        assert len(found - {None}) > 1 or len(wanted) == 1, option


@pytest.mark.parametrize("folder", ODD_FOLDERS)
def test_odd_strings_survive(folder: str, tmp_path: Path) -> None:
    options = given(("DATA_DIR", folder))
    assert options.check() == []
    path = tmp_path / "full"
    path.write_text(options.full_text(), encoding="utf-8")
    assert read(path).value("DATA_DIR") == folder


def switched(path: Path, symbol: str) -> Kconfig:
    """The tree after a menu loaded `path` and the user chose `symbol`."""
    tree = Kconfig(ROOT_TREE)
    tree.load_config(str(path))
    tree.syms[symbol].set_value("y")
    return tree


def test_untouched_options_follow_a_switch(tmp_path: Path) -> None:
    path = tmp_path / ".config"
    path.write_text(given(("BATCH_SIZE", "8"), ("MIN_LR", "1e-5")).full_text())
    assert 'CONFIG_LEARNING_RATE="6e-4"' in path.read_text()
    tree = switched(path, "OPTIMIZER_SGD")
    direct = given(("OPTIMIZER", "sgd"))
    for name in ("LEARNING_RATE", "WEIGHT_DECAY", "SGD_MOMENTUM"):
        assert tree.syms[name].str_value == direct.value(name)
    assert tree.syms["LEARNING_RATE"].str_value != "6e-4"
    assert (tree.syms["BATCH_SIZE"].str_value, tree.syms["MIN_LR"].str_value) == ("8", "1e-5")


def test_touched_options_stay_at_a_switch(tmp_path: Path) -> None:
    path = tmp_path / ".config"
    path.write_text(given(("LEARNING_RATE", "0.02")).full_text())
    assert switched(path, "OPTIMIZER_SGD").syms["LEARNING_RATE"].str_value == "0.02"
