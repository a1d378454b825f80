"""`python -m streamserve`: the same as the console script."""

from streamserve.cli import main

if __name__ == "__main__":
    main()
