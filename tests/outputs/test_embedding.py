from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from sharedbb.errors import GraphError
from sharedbb.outputs import Embedding, embedding_decoder
from sharedbb.types import Geometry, Size

GEOMETRY = Geometry.fit(Size(10, 10), Size(32, 32))


def test_the_vector_is_copied_and_compared_by_its_angle() -> None:
    decoder = embedding_decoder(SimpleNamespace(dim=2))
    raw = {"vector": np.array([[0.6, 0.8]], np.float32)}
    first = decoder(raw, GEOMETRY)
    raw["vector"][:] = (1.0, 0.0)
    second = decoder(raw, GEOMETRY)
    assert first.vector.tolist() == pytest.approx([0.6, 0.8])
    assert first.similarity(second) == pytest.approx(0.6)
    assert json.loads(json.dumps(first.to_dict())) == {"type": "embedding", "vector": [0.6, 0.8]}
    assert repr(first) == "Embedding(vector (2,))"


def test_another_length_is_an_error() -> None:
    with pytest.raises(GraphError, match=r"'vector' has shape \(1, 3\).*\(1, 2\)"):
        embedding_decoder(SimpleNamespace(dim=2))({"vector": np.zeros((1, 3), np.float32)}, GEOMETRY)


@pytest.mark.parametrize(
    ("vector", "changed"),
    [((0.6, 0.8), 0), ((6.0, 8.0), 0), ((-0.8, 0.6), 0.5), ((-0.6, -0.8), 1), ((np.nan, 0), 1), ((0, 0), 1)],
)
def test_changed_is_half_of_what_the_cosine_lacks(vector: tuple[float, float], changed: float) -> None:
    dense = Embedding(np.array([0.6, 0.8], np.float32))
    assert Embedding(np.array(vector, np.float32)).changed(dense) == pytest.approx(changed, abs=1e-7)
    assert dense.changed(dense) == 0
