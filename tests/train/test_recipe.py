import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnisky.train import TrainConfig, read_recipe, write_json


@dataclass(frozen=True, kw_only=True)
class Shape:
    width: int = 8
    kind: Literal["round", "square"] = "round"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str
    inputs: tuple[str, ...] = ()
    folder: Path = Path("runs")
    shuffle: bool = True
    train: TrainConfig
    shape: Shape = field(default_factory=Shape)
    second: Shape | None = None


@dataclass(frozen=True, kw_only=True)
class AnyName:
    name: Any
    inputs: tuple[str, ...]
    train: TrainConfig


TEXT = """
name = "toy"
inputs = ["gaia_xp", "gaia_g"]

[train]
steps = 10
batch_size = 4
learning_rate = 1
clip_norm = inf
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text(TEXT)
    return path


def test_reads_sections_and_defaults(recipe):
    found = read_recipe(recipe, Recipe)
    assert found.inputs == ("gaia_xp", "gaia_g")
    assert found.train == TrainConfig(steps=10, batch_size=4, learning_rate=1.0, clip_norm=math.inf)
    assert found.shape == Shape()
    assert found.second is None


def test_overrides_are_toml_or_text(recipe):
    changes = ["train.steps=20", "shape.kind=square", "folder=a/b", "second.width=3"]
    found = read_recipe(recipe, Recipe, [*changes, 'inputs=["x"]', "shuffle=false"])
    assert found.train.steps == 20
    assert found.shape.kind == "square"
    assert found.folder == Path("a/b")
    assert found.second == Shape(width=3)
    assert found.inputs == ("x",)
    assert found.shuffle is False


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.step=3", r"unknown key 'train.step' \(found 3\). Did you mean 'train.steps'\?"),
        ("trian.steps=3", "unknown key 'trian'.*Did you mean 'train'.*Allowed in the top level"),
        ("train.steps=2.5", "train.steps: found 2.5, expected a whole number"),
        ("train.steps=true", "train.steps: found True, expected a whole number"),
        ("train.steps=many", "train.steps: found 'many', expected a whole number"),
        ("train.learning_rate=fast", "train.learning_rate: found 'fast', expected a number"),
        ("train.precision=fp16", "train.precision: found 'fp16', expected one of 'fp32', 'bf16'"),
        ("train.steps=0", "train: steps must be 1 or more; found 0"),
        ("train=3", "train: found 3, expected a section"),
        ("train.steps.more=3", "'steps' is a value, not a section"),
        ("shuffle=no", "shuffle: found 'no', expected true or false"),
        ("shape.kind=oval", "shape.kind: found 'oval', expected one of 'round', 'square'"),
        ("second.depth=1", "unknown key 'second.depth'.*Allowed in section .second.: width, kind"),
        ("train.steps", "'train.steps' is not of the form"),
        ("=3", "is not of the form"),
    ],
)
def test_a_wrong_override_says_what_is_allowed(recipe, override, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(recipe, Recipe, [override])


def test_all_problems_are_named_at_once(recipe):
    recipe.write_text("nam = 'x'\n[train]\nsteps = 1\n")
    with pytest.raises(ValueError, match="unknown key") as caught:
        read_recipe(recipe, Recipe)
    message = str(caught.value)
    assert str(recipe) in message
    assert "missing key 'name' (text)" in message
    assert "missing key 'train.batch_size' (a whole number)" in message


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recipe"):
        read_recipe(tmp_path / "none.toml", Recipe)
    broken = tmp_path / "broken.toml"
    broken.write_text("steps = = 3")
    with pytest.raises(ValueError, match=r"not valid TOML.*line 1"):
        read_recipe(broken, Recipe)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not valid TOML"):
        read_recipe(broken, Recipe)


def test_resolved_recipe_is_json_and_complete(recipe, tmp_path):
    path = write_json(read_recipe(recipe, Recipe), tmp_path / "run" / "recipe.json")
    written = json.loads(path.read_text())
    assert written["train"]["beta2"] == 0.95
    assert written["folder"] == "runs"
    assert [p.name for p in path.parent.iterdir()] == ["recipe.json"]


@given(text=st.text())
def test_no_override_smuggles_in_another_key(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("recipes") / "toy.toml"
    path.write_text(TEXT)
    found = read_recipe(path, AnyName, [f"name={text}"])
    assert found.train == read_recipe(path, AnyName).train
    assert found.inputs == ("gaia_xp", "gaia_g")
