"""The entry point of `dragoman` and of `python -m dragoman_cli`: says which extra is missing, if one is."""

import sys


def main() -> None:
    """Runs the command line and exits."""
    try:
        from dragoman_cli.main import main as run

        run()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing.startswith("dragoman"):
            raise  # a mistake of ours
        sys.exit(
            f"error: the module {missing} is missing: pip install 'dragoman[server,edge]', or 'dragoman[edge]' where "
            "nothing but `dragoman edge` shall run"
        )


if __name__ == "__main__":
    main()
