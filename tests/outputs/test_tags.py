from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from sharedbb.errors import GraphError
from sharedbb.outputs import Tags, tags_decoder
from sharedbb.types import Geometry, Size

GEOMETRY = Geometry.fit(Size(10, 10), Size(32, 32))


def decode(logits: list[float], threshold: float = 0.5) -> Tags:
    spec = SimpleNamespace(labels=("rain", "night", "crowd")[: len(logits)], threshold=threshold)
    return tags_decoder(spec)({"logits": np.array([logits], np.float32)}, GEOMETRY)


def test_probabilities_are_sigmoids_each_for_itself() -> None:
    logits = np.array([-3.0, 0.5, 30.0])
    tags = decode(logits.tolist())
    np.testing.assert_allclose(tags.probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-5)
    assert tags.probabilities.dtype == np.float32
    assert tags["night"] == pytest.approx(0.62246, abs=1e-5)


@pytest.mark.parametrize(
    ("threshold", "present"), [(0.5, ("night", "crowd")), (0.9, ("crowd",)), (0.0, ("rain", "night", "crowd"))]
)
def test_present_is_from_the_threshold_on(threshold: float, present: tuple[str, ...]) -> None:
    assert decode([-3.0, 0.0, 30.0], threshold).present == present


def test_extreme_logits_stay_in_range_without_warnings() -> None:
    assert decode([-1e30, 1e30, -np.inf]).probabilities.tolist() == [0.0, 1.0, 0.0]


def test_not_a_number_is_not_present_and_null_in_json() -> None:
    record = json.loads(json.dumps(decode([np.nan, 3.0]).to_dict(), allow_nan=False))
    assert record == {"type": "tags", "present": ["night"], "probabilities": {"rain": None, "night": 0.9526}}


def test_labels_must_match_and_be_known() -> None:
    with pytest.raises(KeyError, match="no label 'fog'; these tags have rain, night"):
        decode([0.0, 0.0])["fog"]
    with pytest.raises(GraphError, match=r"'logits' has shape \(1, 3\).*\(1, 1\)"):
        tags_decoder(SimpleNamespace(labels=("a",), threshold=0.5))({"logits": np.zeros((1, 3), np.float32)}, GEOMETRY)
    assert repr(decode([3.0, -3.0])) == "Tags(rain; 2 labels)"
    assert repr(decode([-3.0])) == "Tags(none; 1 labels)"


def test_changed_is_the_share_of_labels_whose_answer_differs() -> None:
    dense = decode([-3.0, 0.5, 2.0])
    assert decode([-0.1, 9.0, 0.1]).changed(dense) == 0
    assert decode([0.1, 9.0, -0.1]).changed(dense) == pytest.approx(2 / 3)
    assert decode([np.nan, 9.0, np.nan]).changed(dense) == pytest.approx(1 / 3)
    assert dense.answers.tolist() == [False, True, True]
