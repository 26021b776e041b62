"""``python -m cnngraph`` is the command ``cnngraph``."""

from cnngraph.cli import main

if __name__ == "__main__":
    main()
