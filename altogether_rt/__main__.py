"""Entry point of the script `altogether-rt`, and of `python -m altogether_rt`."""

from __future__ import annotations

import os
import signal

__all__ = ["run"]


def run() -> None:
    """Load the command line and run it. Ctrl-C ends it quietly while it is loaded, too.

    That takes a few tenths of a second, in which nothing has begun. An exception would not do: what
    is being imported may turn it into another one.
    """
    ends_it = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # and is not ignored
    if ends_it:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from altogether_rt.cli.main import run as run_command

    if ends_it:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run_command()


if __name__ == "__main__":
    run()
