"""How fast each part of the path is on this machine, and who waits for whom.

Handed a recipe, or photos made to weigh what photos weigh; hands on rates with their spread, beside the machine,
versions, date and command that they were measured with.

It stands after everything that it measures: it runs the loader and the step that train, never copies of them.
"""
