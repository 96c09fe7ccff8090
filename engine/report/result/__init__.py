"""What a run came to, on one page: `write_report`.

Each module makes one part of what is shown, as plain values; the templates beside them say how it looks. Nothing here
fits or scores what the run has settled already: numbers that a run wrote down are read from there.
"""

from engine.report.result.write import write_report

__all__ = ["write_report"]
