"""The arguments of the commands that are not modes of main.py. Imports no jax."""

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as everywhere here."""

    def error(self, message: str) -> NoReturn:
        sys.exit(f"error: {message}")
