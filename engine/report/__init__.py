"""Pages for people: what a check of the data found, and what a recipe does to its images.

Handed findings, or a recipe and its samples; hands on one HTML file that needs no network and can be sent to somebody.

It stands late because it only shows: the pictures come out of the loader that trains, and the findings were judged
where they were found.
"""
