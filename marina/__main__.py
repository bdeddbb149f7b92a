"""`python -m marina` is `marina`."""

import signal


def main() -> None:
    """Entry point of `marina`: Ctrl-C while it is being imported, or after it is done, ends it in silence."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from marina import cli

    cli.main()


if __name__ == "__main__":
    main()
