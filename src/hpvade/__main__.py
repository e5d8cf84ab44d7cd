"""``python -m hpvade``: the command line where its script is not on the path."""

from ._cli import app

if __name__ == "__main__":
    app(prog_name="hpvade")
