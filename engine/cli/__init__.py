"""The command line: parses, calls a room, prints.

Handed arguments; hands on results to stdout, everything else to stderr, and an exit code.

It stands last and nobody imports it. What a library user would want is not here. A command is imported when it is run:
help, completion and a mistyped name answer at once.
"""
