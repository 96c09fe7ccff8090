"""Looks for settings by training: backbones compared, a learning rate found, keys of the recipe searched.

Handed a `Recipe` and what may vary; hands on a table, a picture, and the `--set`s that did best. A try is a run like
any other, in a folder of its own, so it is stopped and goes on as runs are.

It stands after training, which does not know that it is being tried.
"""
