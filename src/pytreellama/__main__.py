"""``python -m pytreellama``: the command line."""

from pytreellama.cli import main

if __name__ == "__main__":
    main()
