"""The command line. Thin: each command parses, then calls one function of the package; ``--help`` never imports
torch."""

from __future__ import annotations

import ctypes
import os
import sys
import traceback

from cyclopts import App, CycloptsError, MissingArgumentError, UnusedCliTokensError
from pydantic import ValidationError

from unpaired import __version__, signals
from unpaired.cli import commands, imports
from unpaired.config import explain
from unpaired.errors import Interrupted, UnpairedError

app = App(
    name="unpaired",
    help="Learn to translate images between domains from folders that do not correspond.\n\n"
    "Start: unpaired check DATA, then unpaired train DATA --out RUN, then unpaired translate "
    "RUN PICTURES --to DOMAIN --out DIR.",
    help_format="plaintext",  # the rich one loads a Markdown renderer, which costs more than the rest of --help
    version=__version__,
    version_flags=["--version"],
    help_epilogue="Exit codes: 0 ok, 1 failed, 2 refused before work, 3 finished with failed items, 4 "
    "stopped by itself (state saved), 130 and 143 stopped by a signal (state saved).",
)
app.command(imports.app)
for command in (  # in the order in which a shell's completion offers them
    *(commands.train, commands.pretrain, commands.plan, commands.translate, commands.synthesize, commands.evaluate),
    *(
        commands.compare,
        commands.report,
        commands.export,
        commands.check,
        commands.adapt,
        commands.info,
        commands.presets,
    ),
    commands.demo,
):
    app.command(command)
app.register_install_completion_command()


def _typed_wrongly(error: CycloptsError) -> str:
    """The parser's message, in plain words where it says in its own that something is missing, too much or out of
    range."""
    command = " ".join(("unpaired", *(error.command_chain or ())))
    more = f"`{command} --help` shows what it takes"
    missing = error.argument if type(error) is MissingArgumentError and error.keyword is None else None
    if missing is not None and not missing.tokens and not error.unused_tokens:
        return f"{command}: {missing.name} is missing. {more}"
    if isinstance(error, UnusedCliTokensError):
        return f"{command}: too much was typed: {' '.join(map(str, error.unused_tokens or ()))}. {more}"
    if isinstance(error.__cause__, ValidationError):
        return f"{explain(error.__cause__, option=True)}. {more}"
    return str(error)


def keep_memory() -> bool:
    """Let this process keep what it has freed: every step needs the same blocks again. Whether that could be arranged.

    glibc gives large blocks back to the system at once, which clears each page on its next use: for tensors of tens of
    MiB on a CPU a sixth of the time. Not where the environment has settings for it: those are somebody's choice; nor in
    a program that imports the package, which has its own to decide.
    """
    own = any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ)
    if own or not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    trim_threshold, mmap_max = -1, -4  # malloc.h
    if not (hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt")):
        return False
    return bool(library.mallopt(mmap_max, 0) and library.mallopt(trim_threshold, 2**31 - 1))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the code of errors.py. ``--debug`` (or UNPAIRED_DEBUG=1) shows tracebacks."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = os.environ.get("UNPAIRED_DEBUG") == "1" or "--debug" in tokens
    tokens = [t for t in tokens if t != "--debug"]
    keep_memory()
    try:
        with signals.handled():  # in every command and phase: the first signal ends it cleanly, the second at once
            app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        print(f"error: {_typed_wrongly(error)}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:  # asked for, so no error
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except UnpairedError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `unpaired check DATA | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        advice = "this is a bug in unpaired: run again with --debug and report the traceback"
        print(f"error: {type(error).__name__}: {error}; {advice}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)
