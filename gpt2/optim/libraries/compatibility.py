"""Which library optimizers can train, how each is called, and why the others cannot.

`make check-optimizers` compares this table with what it measures: see docs/optimizers.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Compatible:
    """What the tests found about an optimizer, and the arguments it needs.

    decay: "decoupled" subtracts rate x decay x weight; "L2" adds decay x weight to the gradient;
        "none": no weight decay; "own": another form, described in `note` ("it decays ..."). With
        the last two, --weight-decay must be 0.
    arguments: passed unless the user gives others.
    reserved: arguments that would have no effect here.
    by_role: extra keys for the groups of a role.
    random: its step draws random numbers.
    tensor_rate: it needs its learning rate in a tensor.
    """

    decay: str = "decoupled"
    note: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    reserved: tuple[str, ...] = ()
    by_role: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    random: bool = False
    tensor_rate: bool = False


def _each(names: str, what: Any) -> dict[str, Any]:
    """Return a table with `what` under each of the words in `names`."""
    return dict.fromkeys(names.split(), what)


_DECOUPLED = Compatible()
_L2 = Compatible(decay="L2")
_NONE = Compatible(decay="none")
_BY_ESTIMATE = Compatible(decay="own", note="by its own estimate of the rate")
#: Muon on the matrices, AdamW on the rest, both at --learning-rate (Liu et al. 2025, section 2.2).
_MUON = Compatible(
    arguments={"use_adjusted_lr": True},
    reserved=("adamw_lr", "adamw_wd"),
    by_role={
        "matrix": {"use_muon": True},
        "embedding": {"use_muon": False},
        "vector": {"use_muon": False},
    },
)

COMPATIBLE: dict[str, dict[str, Compatible]] = {
    "po": {
        **_each(
            "adabelief adabound adadelta adagc adai adalite adamax adamc adamg adamod adamwsn adan "
            "adanorm adapnm adasmooth adatam ademamix adopt aggmo aida ano avagrad bcos came "
            "dadaptadagrad diffgrad dualadam exadam flashadamw grams grokfastadamw lamb laprop "
            "lion novograd padam pid pnm qhadam qhm racs radam ranger rose scion scionlight sgdsai "
            "sgdw shampoo signsgd simplifiedademamix soap stableadamw stablespam swats tam tiger "
            "vsgd yogi",
            _DECOUPLED,
        ),
        **_each("accsgd nadam rmsprop", _L2),
        **_each("amos fromage msvag sm3", _NONE),
        **_each("dadaptadam dadaptadan dadaptlion dadaptsgd prodigy", _BY_ESTIMATE),
        **_each("adamuon muon muonclip normuon", _MUON),
        **_each("alice dash spam", Compatible(random=True)),
        "adafactor": Compatible(arguments={"relative_step": False, "scale_parameter": False}),
        "adamp": Compatible(decay="own", note="less where it finds weights scale-invariant"),
        "adams": Compatible(decay="own", note="inside its denominator"),
        "fadam": Compatible(decay="own", note="through its preconditioner"),
        "focus": Compatible(decay="own", note="through a mean of the weights"),
        "madgrad": Compatible(decay="own", note="its starting point"),
        "mars": Compatible(reserved=("lr_1d", "weight_decay_1d")),
        "sgdp": Compatible(decay="own", note="less where it finds weights scale-invariant"),
    },
    "bnb": {
        **_each(
            "adam adam32bit adam8bit adamw adamw32bit adamw8bit ademamix ademamix8bit lamb "
            "lamb32bit lamb8bit lion lion32bit lion8bit",
            _DECOUPLED,
        ),
        **_each("adagrad adagrad32bit adagrad8bit", _L2),
        **_each(
            "lars lars32bit lars8bit pytorchlars sgd sgd32bit sgd8bit",
            Compatible(decay="L2", arguments={"momentum": 0.9}),
        ),
    },
    "ao": {
        **_each("adamw8bit adamw4bit adamwfp8", Compatible(tensor_rate=True)),
        **_each("adam8bit adam4bit adamfp8", Compatible(decay="L2", tensor_rate=True)),
    },
}

_CLOSURE = "it needs to compute the loss itself (a closure)"
_SECOND = "it needs second derivatives (create_graph)"
_MODEL = "it needs the model and steps within the backward pass"
_TWO_MODES = "its evaluation weights differ from its training weights (train and eval modes)"
_PROJECTOR = "its low-rank projections are objects that no checkpoint can hold"
_BUILT_IN = "it is torch's, which is built in: --optimizer {}"
_WRAPPER = "it is a wrapper around another optimizer"
_PAGED = "its paged memory needs CUDA, where it was not tested"

REFUSED: dict[str, dict[str, str]] = {
    "po": {
        **{name: _BUILT_IN.format(name) for name in ("adam", "adamw", "sgd")},
        **_each("adalomo adammini lomo", _MODEL),
        **_each("alig lbfgs", _CLOSURE),
        **_each("adahessian sophiah", _SECOND),
        **_each(
            "emofact emolynx emonavi",
            "it scales its steps by the loss from a closure; without one that part is off",
        ),
        **_each("schedulefreeadamw schedulefreeradam schedulefreesgd splus", _TWO_MODES),
        **_each("apollo conda fira galore", _PROJECTOR),
        "a2grad": "it ignores the learning rate",
        "adago": "it changes weights at a learning rate of 0",
        "adashift": "it keeps a queue, which no checkpoint can hold",
        "apollodqn": "it has a warm-up of its own, during which it ignores the schedule",
        "asgd": "it fails at a learning rate of 0, and a skipped step leaves traces",
        "bsam": "it needs the number of samples, and noise in the weights during the forward pass",
        "demo": "it sends its own messages between ranks and needs another package (einops)",
        "distributedmuon": "it sends its own messages between ranks; po:muon does not",
        "ftrl": "it computes weights from its sums alone, which discards the initial weights",
        "gravity": "it fails at a learning rate of 0",
        "kate": "its steps grow until they overflow",
        "lars": "it hardly trains at any rate from 0.001 to 100",
        "kron": "without another package (opt_einsum) its products take minutes",
        "lorarite": "it needs the two factors of LoRA",
        "magma": _WRAPPER,
        "nero": "it changes weights at a learning rate of 0",
        "ranger21": "it needs the number of steps and has a schedule of its own",
        "sara": "it trains only the weights that were smallest at the start, for fine-tuning",
        "scalableshampoo": "it keeps objects that no checkpoint can hold",
        "spectralsphere": "it accepts matrices only",
        "srmm": "it changes weights at a learning rate of 0",
    },
    "bnb": {
        **_each(
            "pagedadam pagedadam32bit pagedadam8bit pagedadamw pagedadamw32bit pagedadamw8bit "
            "pagedademamix pagedademamix32bit pagedademamix8bit pagedlion pagedlion32bit "
            "pagedlion8bit",
            _PAGED,
        ),
        **_each("rmsprop rmsprop32bit rmsprop8bit", "it does not stay finite in fp16"),
        "ademamix32bit": "it fails in its first step",
    },
    "ao": {"_adamw": "it is for quantized weights", "cpuoffloadoptimizer": _WRAPPER},
}
