"""What the user wrote, resolved, checked and frozen: the one description of a run.

Handed a TOML file and `--set`s; hands on a `Recipe` of sections, one for each room, or one error that lists everything
that is wrong, with the line, what is allowed and what was probably meant. `docs/recipes.md` is made from the sections.

It stands before all that it describes and knows no tensor, decoder or table: a recipe is text, and a mistake in it is
told before anything heavy is imported. What only the data or the backbone can tell is checked by the room that has it.
"""

from engine.recipe.sections import Recipe

__all__ = ["Recipe"]
