import math
import subprocess
import sys

import pytest

from omnisky.train import TrainConfig


def test_defaults_are_valid():
    assert TrainConfig(steps=1, batch_size=1).precision == "fp32"
    assert math.isinf(TrainConfig(steps=1, batch_size=1, clip_norm=math.inf).clip_norm)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("warmup_steps", -1),
        ("final_learning_rate_fraction", 1.5),
        ("weight_decay", -0.1),
        ("beta1", 1.0),
        ("clip_norm", 0.0),
        ("ema", 1.0),
        ("ema", -0.1),
        ("seed", -1),
        ("keep_checkpoints", 0),
        ("accumulate", 0),
    ],
)
def test_a_value_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=rf"{name} must .*found {value!r}"):
        TrainConfig(**({"steps": 1, "batch_size": 1} | {name: value}))


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("precision", "fp16", ValueError),
        ("schedule", "linear", ValueError),
        ("sharding", "zero3", ValueError),
        ("activation_checkpointing", 1, TypeError),
        ("compile", "yes", TypeError),
        ("steps", 1.5, TypeError),
        ("steps", True, TypeError),
        ("beta2", "0.9", TypeError),
    ],
)
def test_a_value_of_another_type_is_named(name, value, kind):
    config = TrainConfig(steps=1, batch_size=1)
    # The tests' type checker would stop the constructor before our own check.
    object.__setattr__(config, name, value)
    with pytest.raises(kind, match=rf"{name} must .*found {value!r}"):
        config.__post_init__()


def test_only_light_imports():
    code = "import sys, omnisky.train as t; t.TrainConfig; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_attribute():
    import omnisky.train

    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = omnisky.train.tarin
