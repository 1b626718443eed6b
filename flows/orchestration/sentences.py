"""Errors in a sentence: those of libraries within one of ours, and Prefect's logs without the tracebacks of those that say what is to be mended."""

from __future__ import annotations

import logging

# What logs errors of runs: their own loggers, and that of the process in which a worker runs one.
_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


def kind_and_words(error: BaseException) -> str:
    """An error of somebody's library on one line, for a sentence that says what it means here."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class _Sentences(logging.Filter):
    """Takes the traceback from a record whose error is of a known kind; its message, which names the error, stays."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: tuple[type[Exception], ...] = ()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], self.kinds):
            record.exc_info = record.exc_text = None
        return True


_SENTENCES = _Sentences()


def told_in_sentences(*kinds: type[Exception]) -> None:
    """From now on Prefect logs errors of these kinds by their sentence; a traceback of any other is of use and stays."""
    _SENTENCES.kinds += tuple(kind for kind in kinds if kind not in _SENTENCES.kinds)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_SENTENCES)  # a second time changes nothing
