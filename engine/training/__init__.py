"""From a recipe to fold models: what is repeated until it fits.

Handed a `Recipe` and whoever watches; hands on a run folder with the folds' checkpoints, the log, out-of-fold answers
and scores. A `Learner` takes steps; a fold's trainer loops over them and knows where it is; a run is its folds one
after the other, then the specialists, and can stop and go on anywhere.

Beside it stands predict, and neither knows the other: what they share stands before both.
"""
