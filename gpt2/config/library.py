"""Names of library optimizers and the user's own: po:NAME, module:Class, key=value."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Library:
    """A package with optimizers, and its tested versions: from `least` to below `below`."""

    module: str
    least: tuple[int, int]
    below: tuple[int, int]

    @property
    def requirement(self) -> str:
        """Return the requirement for pip."""
        low, high = (".".join(map(str, version)) for version in (self.least, self.below))
        return f"{self.module}>={low},<{high}"


#: The libraries, by the prefix of their optimizers' names.
LIBRARIES = {
    "po": Library("pytorch_optimizer", (4, 1), (5, 0)),
    "bnb": Library("bitsandbytes", (0, 50), (0, 51)),
    "ao": Library("torchao", (0, 18), (0, 19)),
}
_OWN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def split_name(name: str) -> tuple[str, str]:
    """Return prefix or module, and name, of "po:soap" or "module:Class".

    Raises ValueError when it is neither.
    """
    first, _, second = name.partition(":")
    if first == "torch":  # torch's optimizers are in torch.optim only
        raise ValueError(
            f"--optimizer {name!r}: the usual optimizers are built in: --optimizer "
            f"{second.lower() or 'adam'}; others of torch are --optimizer torch.optim:CLASS"
        )
    if not (first in LIBRARIES and second) and not _OWN.fullmatch(name):
        known = ", ".join(f"{prefix}:NAME" for prefix in LIBRARIES)
        raise ValueError(f"--optimizer {name!r} names no optimizer: use {known} or module:Class")
    return first, second


def is_own_code(name: str) -> bool:
    """Return whether `name` is module:Class, the user's code, which must not run from a file."""
    return name.partition(":")[0] not in LIBRARIES


def split_arguments(text: str) -> dict[str, str]:
    """Return the arguments in "key=value,key2=value2".

    Raises ValueError.
    """
    found: dict[str, str] = {}
    for part in text.split(",") if text else []:
        key, equals, value = part.partition("=")
        if not (equals and key.isidentifier()):
            raise ValueError(
                f"--opt-arg {part!r} is not key=value; --opt-args takes several: commas between "
                "them and colons between the numbers of one: betas=0.9:0.95,eps=1e-8"
            )
        if key in found:
            raise ValueError(f"--opt-args {text!r} gives {key} twice")
        found[key] = value
    return found
