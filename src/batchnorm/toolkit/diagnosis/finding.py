"""What a rule says of a layer: a finding, its severity, and the remedy."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a layer.

    Parameters
    ----------
    layer : str
        Qualified name.
    cause : str
        What is wrong, in one of the words that docs/toolkit.md lists.
    severity : {"error", "warning"}
        An error makes outputs wrong; a warning says what probably does, or will.
    why : str
        A sentence: what was found, and why it matters.
    remedy : str
        The call that fixes it.
    """

    layer: str
    cause: str
    severity: Severity
    why: str
    remedy: str


class Fault(NamedTuple):
    """What a rule has to say of a layer: a `Finding` but for the layer and the cause, which is the rule's own."""

    severity: Severity
    why: str
    remedy: str
