"""``python -m gluon_convpool``."""

from gluon_convpool.cli import run_as_program

if __name__ == '__main__':
    run_as_program()
