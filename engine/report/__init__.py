"""Pages for people: what a check of the data found, what a recipe does to its images, and what a run came to.

Handed findings, a recipe and its samples, or a run's folder; hands on one HTML file that needs no network and can be
sent to somebody.

It stands late because it only shows: the pictures come out of the loader that trains, findings were judged where they
were found, and scores were written down by the run.
"""
