"""Errors that a user of the library can act on.

Every message names the place (file, line, column or setting), the value found and what was expected.
"""


class MetaCSRError(Exception):
    """Base of all errors raised on purpose by this library."""


class DataError(MetaCSRError, ValueError):
    """A log, a feature file or a history does not have the expected form."""


class ConfigError(MetaCSRError, ValueError):
    """A setting is unknown, ill-typed or contradicts another."""


class ProtocolError(MetaCSRError, ValueError):
    """No sound protocol can be built from the log (too few users, events or items)."""


class LeakError(MetaCSRError):
    """The audit found a held-out event, user or item where the model could see it."""


class WorkdirError(MetaCSRError):
    """A work directory is missing a part, or belongs to another configuration."""


class NonFiniteError(MetaCSRError, ArithmeticError):
    """Training produced a loss that is not finite."""
