"""Several answers become one: Predictions in, Predictions out.

Handed the `Predictions` of members, joined by sample id and class name, never by position; hands on those of all of
them together. What a run uses of it (views, vote, specialists, and what was fitted on out-of-fold predictions: weights
or a stack, neighbours, calibration, sets and thresholds) is an `Ensemble`, saved beside the folds.

The rules know no model and no pixel, so answers made elsewhere join as well. It stands before training, which settles
and saves what is used, and predict, which follows that without being told.
"""
