from engine.recipe.sections import Recipe

__all__ = ["Recipe"]
