"""Images that we make: drawn data sets to try things on, and augmented copies of one's own.

Handed a few numbers, or images and the kinds of change wanted; hands on a folder with a table, which `data` reads like
anybody's. Every picture has an address, so the same command makes the same files.

It stands after the loader, because copies are drawn and run by the policy and the pass that train.
"""
