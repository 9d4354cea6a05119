"""The ways in which a command can be used, and the options that mean nothing to each: given, they are refused.

A command declares its ways as constants and says with `take` which of them it goes. An option is never ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import click
from click.core import ParameterSource


@dataclass(frozen=True)
class Way:
    """One way of using a command: when it is taken, and what means nothing then (groups, or parameters by name)."""

    when: str
    refuses: tuple[type | str, ...]

    @property
    def names(self) -> frozenset[str]:
        """The parameters that are refused."""
        groups = [what for what in self.refuses if isinstance(what, type)]
        return frozenset(
            [*(field.name for group in groups for field in fields(group)),
             *(what for what in self.refuses if isinstance(what, str))]
        )


def take(*ways: Way) -> None:
    """Go these ways: raises a usage error that names the options of the command line that mean nothing to one."""
    context = click.get_current_context()
    for way in ways:
        refused = [
            _as_given(option, context.params.get(str(option.name)))
            for option in context.command.params
            if option.name in way.names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
        ]
        if refused:
            one = len(refused) == 1
            raise click.UsageError(
                f"{', '.join(refused)} {'has' if one else 'have'} no effect {way.when}; "
                f"leave {'it' if one else 'them'} out"
            )


def _as_given(option: click.Parameter, value: object) -> str:
    """`--strict`; of a pair of switches the one that was given."""
    words = option.secondary_opts if value is False and option.secondary_opts else option.opts
    return max(words, key=len)
