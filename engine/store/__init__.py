"""Everything that a run leaves on disk, each name once, and how it is written and read.

Handed weights, predictions, lines of the log; hands on a `RunFolder` and the `Checkpoint`s in it. Files appear under
their names only when they are whole, and nothing is unpickled when read.

It stands between making and answering: training and prediction meet on disk and nowhere else. What only reads runs
(past runs side by side, trackers) gets by without torch, so checkpoints stand apart from logs and scores.
"""
