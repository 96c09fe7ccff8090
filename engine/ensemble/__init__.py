"""Several answers become one: Predictions in, Predictions out.

Handed the `Predictions` of members, joined by sample id and class name, never by position; hands on those of all of
them together. The rules in use (views, vote, specialists) are an `Ensemble`, saved beside the folds.

It knows no model and no pixel, so answers made elsewhere join as well. It stands before train, which settles and saves
the rules, and predict, which follows them without being told.
"""
