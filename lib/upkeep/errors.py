"""Exit codes, and the one exception that means "the operator can mend this"."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit status of every script. With several results the largest one wins."""

    DONE = 0
    PROBLEM = 1
    USAGE = 2
    REFUSED = 3
    BUSY = 4
    LATER = 5
    CANNOT_STOP = 6
    GIVEN_UP = 7
    INTERRUPTED = 130
    TERMINATED = 143


class OperatorError(Exception):
    """Something an operator can mend: one line that says what, where and how to mend it.

    Printed without a traceback; the script ends with `code`.
    """

    def __init__(self, message: str, code: Exit = Exit.PROBLEM) -> None:
        super().__init__(message)
        self.code = code
