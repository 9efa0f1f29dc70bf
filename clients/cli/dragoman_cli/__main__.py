"""`python -m dragoman_cli`, for environments whose scripts are not on the path."""

from dragoman_cli.main import main

if __name__ == "__main__":
    main()
