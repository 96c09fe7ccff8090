"""Other ways to train a classifier, set up as their own documentation does, for the benchmarks beside this folder."""
