"""The command's first lines: what ``gptfluence`` and ``python -m gptfluence`` call."""

import os
import signal


def main() -> None:
    """Import the command line and run it; Ctrl-C before it listens ends without a traceback of imports."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else a shell has it ignored
        signal.signal(signal.SIGINT, _end)
    from gptfluence.cli import main as run

    run()


def _end(*_: object) -> None:
    os._exit(130)


if __name__ == "__main__":
    main()
