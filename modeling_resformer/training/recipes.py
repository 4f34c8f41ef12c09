"""Recipes that come along, found by a file or by their bare name. By the standard library alone."""

from pathlib import Path

from ..shipped import shipped


RECIPES = shipped("scripts/recipes")


def is_recipe(argument: str) -> bool:
    """Whether an argument without a flag is meant as one: a JSON file, or a name in `scripts/recipes`."""
    return not argument.startswith("--") and (argument.endswith(".json") or argument in recipe_names())


def find_recipe(name: str) -> Path:
    """The file of a recipe, which is looked up in `scripts/recipes` where there is no such file, with its ending or without.

    Where there is no checkout, `scripts/recipes/NAME.json` means the recipe that was installed.

    Raises:
        ValueError: there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.parent in (Path(), Path("scripts/recipes")) and path.name.removesuffix(".json") in recipe_names():
        return RECIPES / f"{path.name.removesuffix('.json')}.json"
    raise ValueError(
        f"{name}: there is no such recipe; expected a JSON file, or one of scripts/recipes: {', '.join(recipe_names())}."
    )


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.json"))
