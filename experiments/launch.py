"""What all launchers share: errors of the library end a command with one line instead of a traceback."""

import sys
import warnings
from collections.abc import Callable

from absl import app, flags, logging

from metacsr_jax.errors import MetaCSRError

INTERRUPTED = 130  # stopped by a signal; distinguishes "resume me" from "done" in scripts


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs an absl main function; exits with 2 on an error a user can act on."""
    warnings.showwarning = _show

    def guarded(arguments: list[str]) -> int | None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # the checkpointer narrates every file at INFO
        if len(arguments) > 1:
            return _fail(f"unexpected argument {arguments[1]!r}: every option is a --flag")
        try:
            return main(arguments)
        except MetaCSRError as error:
            return _fail(str(error))
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            return 0

    app.run(guarded)


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _show(message, category, filename, lineno, file=None, line=None):
    del filename, lineno, file, line
    print(f"{category.__name__}: {message}", file=sys.stderr)
