"""Option strings -> typed values: every option has a field, and every wrong value is named."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import kconfiglib as kc
import pytest

from gpt2.config import bind as bind_module
from gpt2.config import typed
from gpt2.config.bind import bind, convert, option_hints, own_values, unwrap
from gpt2.config.errors import Exit, UserError
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE
from gpt2.config.typed import Auto, Config, ModelConfig, Size, Within
from tests.conftest import REPOSITORY, WriteConfig, random_options


def given(**values: str) -> Options:
    options = Options()
    for name, value in values.items():
        options.give(name, value, flag_of(name))
    return options


def refused(**values: str) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        bind(given(**values))
    assert caught.value.code == Exit.CONFIG
    return caught.value.messages


def test_every_option_has_a_field_and_every_field_an_option() -> None:
    options = Options()
    assert set(option_hints(options)) == set(options.names())


def test_the_root_has_more_options_only_for_the_matrix() -> None:
    more = set(Options(ROOT_TREE).names()) - set(Options().names())
    assert all(name.startswith("MATRIX_") for name in more)


def test_kconfig_and_the_dataclass_agree_on_the_type() -> None:
    options = Options()
    for name, hint in option_hints(options).items():
        kind, _ = unwrap(hint)
        if name in options.choices:
            assert kind is str, name
        else:
            wanted = {kc.BOOL: (bool,), kc.INT: (int,), kc.STRING: (int, float, str, Path)}
            assert kind in wanted[options.symbols[name].orig_type], name


def test_every_number_in_text_has_an_interval() -> None:
    # Without one, inf and nan would be taken; a size has its own form (config/test_sizes.py).
    options = Options()
    for name, hint in option_hints(options).items():
        kind, notes = unwrap(hint)
        is_text = name in options.symbols and options.symbols[name].orig_type == kc.STRING
        if is_text and kind in (int, float) and not any(isinstance(n, Size) for n in notes):
            (within,) = [note for note in notes if isinstance(note, Within)]
            assert not any(value in within for value in (math.nan, -math.inf)), name
            assert math.inf not in within, name


@pytest.mark.parametrize("seed", range(25))
def test_every_field_has_the_type_it_names(seed: int) -> None:
    config = bind(random_options(seed))
    for part in (config.data, config.model, config.optim, config.train, config.machine):
        hints = get_type_hints(type(part))
        for name, value in dataclasses.asdict(part).items():
            if name != "options":
                kinds = get_args(hints[name]) or (hints[name],)
                # By type, not isinstance: a bool is no int here. Path's own type is PosixPath.
                found = Path if isinstance(value, Path) else type(value)
                assert found in kinds, (name, value)
    found_own = own_values(config.optim.optimizer, config.optim.options)
    own_hints = option_hints(Options())
    for name, value in found_own.items():
        hint = own_hints[name.upper()]
        plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        assert type(value) in (get_args(plain) or (plain,)), (name, value)


def test_values_arrive() -> None:
    config = bind(
        given(
            OPTIMIZER="sgd", SGD_MOMENTUM="0.5", SGD_NESTEROV="y", LEARNING_RATE="0.25",
            BATCH_SIZE="7", BIAS="n", LR_SCHEDULE="wsd", WSD_DECAY="0.4", DEVICE="cpu",
            MODEL="gpt2-mini", LOSS="full", WARMUP_STEPS="0",
        )
    )  # fmt: skip
    assert (config.optim.optimizer, config.optim.learning_rate) == ("sgd", 0.25)
    assert (config.optim.options.momentum, config.optim.options.nesterov) == (0.5, True)
    assert (config.train.batch_size, config.model.bias) == (7, False)
    assert (config.optim.lr_schedule, config.optim.wsd_decay) == ("wsd", 0.4)
    assert (config.machine.device, config.model.model) == ("cpu", "gpt2-mini")
    assert (config.model.n_layer, config.model.n_embd) == (6, 384)
    assert config.optim.warmup_steps == 0


def test_what_plays_no_part_is_none() -> None:
    config = bind(given(LOSS="full"))
    assert config.model.loss_chunk_mib is None
    assert config.data.tokenizer is None
    assert config.optim.wsd_decay is None
    assert config.prune is None


def test_auto_is_none_and_only_where_it_is_meant() -> None:
    config = bind(given(MIN_LR="auto", WARMUP_STEPS="auto"))
    assert (config.optim.min_lr, config.optim.warmup_steps) == (None, None)
    assert refused(LEARNING_RATE="auto") == ("--learning-rate: 'auto' is not a number",)
    assert refused(WARMUP_STEPS="Auto") == ("--warmup-steps: 'Auto' is not a whole number or auto",)
    assert refused(MIN_LR="") == ("--min-lr: '' is not a number or auto",)


def test_a_share_in_percent_is_recognised() -> None:
    method = {"PRUNING_METHOD": "magnitude"}
    said = refused(**method, TARGET_SPARSITY="80")
    assert said == ("--target-sparsity: 80 is outside [0, 1) (0.8 is 80 %)",)
    assert refused(**method, TARGET_SPARSITY="1") == ("--target-sparsity: 1 is outside [0, 1)",)
    assert refused(ADAMW_BETA1="90") == ("--adamw-beta1: 90 is outside [0, 1)",)


def test_a_configuration_is_frozen() -> None:
    config = bind(Options())
    for holder in (config, config.train, config.optim.options):
        name = dataclasses.fields(holder)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(holder, name, None)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("DROPOUT", "1", "1 is outside [0, 1)"),
        ("DROPOUT", "-0.1", "-0.1 is outside [0, 1)"),
        ("DROPOUT", "nan", "nan is outside [0, 1)"),
        ("DROPOUT", "half", "'half' is not a number"),
        ("LEARNING_RATE", "inf", "inf is outside [0, inf)"),
        ("LEARNING_RATE", "-1e-3", "-1e-3 is outside [0, inf)"),
        ("LEARNING_RATE", "1e999", "1e999 is outside [0, inf)"),
        ("LEARNING_RATE", "3e-4 # small", "'3e-4 # small' is not a number"),
        ("WARMUP_STEPS", "1.5", "'1.5' is not a whole number or auto"),
        ("WARMUP_STEPS", "-1", "-1 is outside [0, inf)"),
        ("ADAMW_BETA1", "2", "2 is outside [0, 1)"),
        ("ADAMW_EPS", "0", "0 is outside (0, inf)"),
        ("DATA_DIR", "", "a path is needed"),
        ("MAX_TIME", "5x", "'5x' is not a time; write 90, 90s, 5m or 1h"),
    ],
)
def test_a_wrong_value_names_its_flag_and_reason(name: str, value: str, reason: str) -> None:
    assert refused(**{name: value}) == (f"{flag_of(name)}: {reason}",)


def test_a_path_that_may_be_absent_is_none_when_empty() -> None:
    options = Options()
    assert bind(options).model.init_from is None
    options.give("INIT_FROM", "weights/gpt2", "--init-from")
    assert bind(options).model.init_from == REPOSITORY / "weights/gpt2"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"MODEL": "custom", "N_HEAD": "5", "N_EMBD": "64"},
            "--n-embd 64 cannot be shared by --n-head 5",
        ),
        ({"NUM_EPOCHS": "0"}, "no limit ends this run: give --num-epochs"),
        ({"LEARNING_RATE": "0.1", "MIN_LR": "0.2"}, "--min-lr 0.2 is above --learning-rate 0.1"),
        ({"OPTIMIZER": "sgd", "SGD_MOMENTUM": "0", "SGD_NESTEROV": "y"}, "--sgd-nesterov needs"),
    ],
)
def test_options_that_contradict_each_other(values: dict[str, str], message: str) -> None:
    (found,) = refused(**values)
    assert found.startswith(message)


def test_every_problem_is_reported_at_once(write_config: WriteConfig) -> None:
    path = write_config(
        "CONFIG_TYPO=1",
        "CONFIG_SEED=-1",
        'CONFIG_WSD_DECAY="0.5"',
        'CONFIG_DROPOUT="2"',
        'CONFIG_ADAMW_BETA1="x"',
        "CONFIG_MODEL_CUSTOM=y",
        "CONFIG_N_HEAD=5",
        "CONFIG_N_EMBD=64",
        'CONFIG_NUM_EPOCHS="0"',
    )
    options = Options()
    options.read(path)
    with pytest.raises(UserError) as caught:
        bind(options)
    lines = [int(text.split(":")[1]) for text in caught.value.messages if text[0] == "/"]
    # The width and its heads are not compared while another field of the model is refused.
    assert sorted(lines) == [1, 2, 3, 4, 5]
    assert [text for text in caught.value.messages if text[0] != "/"] == [
        "no limit ends this run: give --num-epochs, --max-steps or --max-time"
    ]


def test_a_default_that_is_refused_names_its_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    # The default batch does not come from the user; the message must still say where to turn.
    hints = {
        **typed.TrainConfig.__annotations__,
        "num_epochs": "Annotated[float, Within('(5, 6)')]",
    }
    monkeypatch.setattr(typed.TrainConfig, "__annotations__", hints)
    monkeypatch.setattr(bind_module, "_evaluated", {})
    assert refused() == ("--num-epochs: 1 is outside (5, 6)",)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", [0, 0.999], [-1e-9, 1, math.nan]),
        ("(0, 1]", [1e-9, 1], [0, 1.001]),
        ("[-2, 3]", [-2, 3, 0], [-2.1, 3.1]),
        ("(0, inf)", [1e300], [0, math.inf]),
    ],
)
def test_an_interval_is_read_as_in_mathematics(
    interval: str, inside: list[float], outside: list[float]
) -> None:
    assert all(value in Within(interval) for value in inside)
    assert not any(value in Within(interval) for value in outside)


def test_paths_are_relative_to_the_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bind(Options()).data.data_dir == REPOSITORY / "data"
    assert convert("here", Path) == REPOSITORY / "here"
    assert convert("/there", Path) == Path("/there")


def test_notes_are_taken_off_an_annotation() -> None:
    hints: dict[str, Any] = get_type_hints(typed.OptimConfig, include_extras=True)
    assert unwrap(hints["warmup_steps"]) == (int, (Auto(), Within("[0, inf)")))
    assert unwrap(hints["lr_schedule"]) == (str, ())
    assert unwrap(get_type_hints(ModelConfig)["loss_chunk_mib"]) == (int, ())


def test_a_config_has_no_default_of_its_own() -> None:
    # Kconfig alone holds the defaults: a second one in a dataclass would hide a missing option.
    for part in get_type_hints(Config).values():
        kind, _ = unwrap(part)
        for field in dataclasses.fields(kind):
            assert field.default is dataclasses.MISSING, field.name
            assert field.default_factory is dataclasses.MISSING, field.name
