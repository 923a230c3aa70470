"""What is preselected, and what is only told."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from backend.label_config import LabelConfig
from backend.predict import preselect

SINGLE = LabelConfig("mood", "image", "image", ("angry", "happy", "sad"), multiple=False)
SEVERAL = LabelConfig("mood", "image", "image", ("angry", "happy", "sad"), multiple=True, may_be_empty=True)


def told(config: LabelConfig, probabilities: list[float], sure: float = 0.5) -> tuple[tuple[str, ...], list[str]]:
    """Return what is chosen for an image, and the reasons that are shown."""
    version = SimpleNamespace(metrics={"threshold": 0.95})
    weights = SimpleNamespace(classes=np.array(config.classes))
    (result,) = preselect(config, version, weights, np.array([probabilities]), None, sure)
    reasons = [region["value"]["text"][0] for region in result if region["type"] == "textarea"]
    return config.labels(result), reasons


def test_a_class_that_is_probable_enough_is_chosen_and_the_reason_told() -> None:
    assert told(SINGLE, [0.02, 0.95, 0.03]) == (("happy",), ["happy, 95 %"])


def test_below_the_least_confidence_the_reason_stands_alone() -> None:
    assert told(SINGLE, [0.04, 0.48, 0.48]) == ((), ["happy or sad: both fit (happy 48 %)"])


@pytest.mark.parametrize(("sure", "chosen"), [(0.0, ("happy",)), (0.7, ("happy",)), (0.71, ()), (1.0, ())])
def test_how_sure_is_a_setting(sure: float, chosen: tuple[str, ...]) -> None:
    assert told(SINGLE, [0.1, 0.7, 0.2], sure)[0] == chosen


def test_of_several_each_that_is_sure_enough_is_chosen_and_all_likely_ones_are_told() -> None:
    assert told(SEVERAL, [0.95, 0.6, 0.1], 0.8) == (("angry",), ["angry 95 %, happy 60 %"])


def test_of_several_none_is_chosen_that_is_rather_not_there_however_little_is_asked() -> None:
    assert told(SEVERAL, [0.2, 0.4, 0.1], 0.0) == ((), ["rather none (happy 40 %)"])
