"""The command's first lines: what ``gptfluence`` and ``python -m gptfluence`` call."""

import atexit
import logging
import os
import signal
import sys


def main() -> None:
    """Import the command line and run it; Ctrl-C before it listens ends without a traceback of imports."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else a shell has it ignored
        signal.signal(signal.SIGINT, _end)
    from gptfluence.cli import main as run

    run()
    _leave()


def _leave() -> None:
    """End at once: to take apart what torch and transformers have set up takes a second, and gives nothing."""
    atexit._run_exitfuncs()
    logging.shutdown()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # nobody reads any more: let Python end as it does then
        return
    os._exit(0)


def _end(*_: object) -> None:
    os._exit(130)


if __name__ == "__main__":
    main()
