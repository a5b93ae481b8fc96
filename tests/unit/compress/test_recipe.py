"""Recipes: TOML to steps, and what is wrong with one."""

import pytest

from hwbench.compress.recipe import parse_settings, read_recipe
from hwbench.errors import UsageError
from hwbench.records.compression import Step


def recipe(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_steps_in_their_order(tmp_path):
    text = '[[step]]\nmethod = "width"\nlayers = "layer1.*"\namount = 0.5\n[[step]]\nmethod = "finetune"\nepochs = 3\n'
    assert read_recipe(recipe(tmp_path, text)) == (
        Step(method="width", layers="layer1.*", settings={"amount": 0.5}),
        Step(method="finetune", settings={"epochs": 3}),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has none"),
        ("steps = []", "it has steps"),
        ("[[step]]\namount = 0.5", "step 1 names no method"),
        ('[[step]]\nmethod = "width"\nlayers = ["a"]', "layers of step 1 must be a regular expression"),
        ("step = ", "is not TOML"),
        ('step = "width"', "must hold"),
    ],
)
def test_what_is_no_recipe(tmp_path, text, said):
    with pytest.raises(UsageError, match=said):
        read_recipe(recipe(tmp_path, text))


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"none\.toml.*No such file"):
        read_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.5", 0.5), ("true", True), ("[8, 16]", [8, 16]), ('"x"', "x"), ("2:4", "2:4"), ("taylor", "taylor"), ("", "")],
)
def test_values_on_the_command_line(text, value):
    assert parse_settings([f"name={text}"]) == {"name": value}
