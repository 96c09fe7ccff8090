"""A first recipe: data is looked at, measured against this machine, and described, with reasons.

Handed a folder or a table; hands on a `Suggestion`: the text of a recipe, in which every line says why it is there, and
what was found.

It stands after training, because it asks what training would ask: the same index, the same checks and folds, the same
estimate of memory. Nothing is trained and no pixel is looked at that training would not look at, so what was found is
found when the run begins.
"""
