"""The label court: which labels of the training data are likely wrong, and what people decided about them.

Handed a trained run, ranks its photos by how much speaks against their labels, out of fold, with the reasons in words;
keeps decisions, each with who made it, in the run's folder, and makes of them the tables that `data.relabel` and
`data.exclude_file` read.

It stands after training and before whatever shows it: the ranking knows arrays, and the page that a person judges on
is served from `serve`. No label is changed here but by a recipe that names such a table.
"""
