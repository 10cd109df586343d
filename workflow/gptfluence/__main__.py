"""The command's first lines: what ``gptfluence`` and ``python -m gptfluence`` call."""

import os
import signal


def main() -> None:
    """Import the command line and run it; Ctrl-C during the imports ends without their traceback."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else a shell has it ignored
    if heeded:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from gptfluence.cli import main as run

    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
