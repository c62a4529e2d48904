"""Texts -> the arguments of an optimizer's constructor, typed by its signature."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from gpt2.config.errors import UserError
from gpt2.config.names import nearest

#: What has a flag of its own, or is no text.
ELSEWHERE = {
    "lr": "it is --learning-rate",
    "weight_decay": "it is --weight-decay",
    "params": "the model's parameters are given already",
}


def typed_arguments(
    optimizer: str, kind: Callable[..., Any], given: dict[str, str], reserved: Iterable[str] = ()
) -> dict[str, Any]:
    """Return `given` with values of the types in the signature of `kind`.

    Raises UserError naming every argument that is unknown (`kind` itself might swallow it), is a
    flag of its own, is among `reserved`, or does not fit its type.
    """
    known = parameters(kind)
    ready, problems = {}, []
    for key, text in given.items():
        if key in ELSEWHERE:
            problems.append(f"--opt-arg {key}: {ELSEWHERE[key]}")
        elif key not in known or key in reserved:
            free = [name for name in known if name not in (*ELSEWHERE, *reserved)]
            there = ", ".join(free) or "none"
            hint = nearest(key, free)
            problems.append(
                f"--opt-arg {key}: {optimizer} takes no {key}{hint} (there are: {there})"
            )
        else:
            try:
                ready[key] = _typed(text, list(_forms(known[key])))
            except ValueError as error:
                problems.append(f"--opt-arg {key}={text}: {optimizer} wants {error}")
    if problems:
        raise UserError(*problems)
    return ready


def parameters(kind: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return what can be given to `kind` by name, in order."""
    try:
        signature = inspect.signature(kind, eval_str=True)
    except NameError:  # an annotation that only a type checker can see
        signature = inspect.signature(kind)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in signature.parameters.items() if p.kind in by_name}


def _forms(parameter: inspect.Parameter) -> Iterable[Any]:
    """Yield the types that a parameter takes, unions taken apart; by its default without any."""
    hint = parameter.annotation
    if hint is inspect.Parameter.empty or isinstance(hint, str):
        default = parameter.default
        if default in (None, inspect.Parameter.empty):
            return
        hint = type(default)
    yield from _without_unions(hint)


def _without_unions(hint: Any) -> Iterable[Any]:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        for part in get_args(hint):
            yield from _without_unions(part)
    else:
        yield hint


def _typed(text: str, forms: list[Any]) -> Any:
    """Return `text` in the first of `forms` that it fits. Raises ValueError saying what would."""
    wanted = []
    for form in sorted(forms, key=_strictness):
        read, words = _reader(form)
        if read is None:
            continue
        try:
            return read(text)
        except ValueError:
            wanted.append(words)
    if not wanted:
        raise ValueError("what cannot be written on a command line: leave it out")
    raise ValueError(" or ".join(dict.fromkeys(wanted)))


def _strictness(form: Any) -> int:
    """Order of trying: 1 is an int before it is a float, and anything is a str."""
    order = [type(None), bool, int, float]
    return order.index(form) if form in order else len(order) + (form is str)


def _reader(form: Any) -> tuple[Callable[[str], Any] | None, str]:
    """Return what reads a text as `form` (ValueError where it is none), and how to call it."""
    if form is type(None):
        return _word({"none": None}), "none"
    if form is bool:
        return _word({"true": True, "false": False}), "true or false"
    if form is int:
        return int, "a whole number"
    if form is float:
        return float, "a number"
    if form is str:
        return str, "a text"
    if get_origin(form) is Literal:
        words = {str(value): value for value in get_args(form)}
        return _word(words), "one of " + ", ".join(words)
    if (form if isinstance(form, type) else get_origin(form)) is tuple:
        return _numbers(get_args(form)), _tuple_words(get_args(form))
    return None, ""


def _word(known: dict[str, Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if text.lower() not in known:
            raise ValueError(text)
        return known[text.lower()]

    return read


def _numbers(parts: tuple[Any, ...]) -> Callable[[str], tuple[Any, ...]]:
    """Read numbers with colons between, as many as there are `parts`; any number without parts."""

    def read(text: str) -> tuple[Any, ...]:
        words = text.split(":")
        kinds = parts if parts and parts[-1] is not Ellipsis else (*parts[:1],) * len(words)
        if kinds and len(kinds) != len(words):
            raise ValueError(text)
        kinds = kinds or (float,) * len(words)
        return tuple(_typed(word, [kind]) for word, kind in zip(words, kinds, strict=True))

    return read


def _tuple_words(parts: tuple[Any, ...]) -> str:
    count = len(parts) if parts and parts[-1] is not Ellipsis else 0
    example = ":".join(["0.9", "0.95", "0.99", "0.999"][: count or 2])
    return f"{count or 'several'} numbers with colons between, such as {example}"
