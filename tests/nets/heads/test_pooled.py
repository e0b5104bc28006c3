from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sharedbb.nets.heads import embedding, tags

CHANNELS = {16: 7, 32: 9}


def maps(value: float | None = None) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 7, 6, 10), (3, 9, 3, 5))
    return [torch.randn(s, generator=generator) if value is None else torch.full(s, value) for s in shapes]


def test_tags_read_mean_and_maximum_of_every_tap() -> None:
    torch.manual_seed(0)
    head = tags(SimpleNamespace(taps=(16, 32), labels=("rain", "night")), CHANNELS).eval()
    first, second = maps()
    pooled = torch.cat(
        [first.flatten(2).mean(2), first.flatten(2).max(2)[0], second.flatten(2).mean(2), second.flatten(2).max(2)[0]],
        1,
    )
    expected = head.predict(torch.relu(head.hidden(pooled)))
    torch.testing.assert_close(head([first, second])["logits"], expected)
    assert expected.shape == (3, 2)


def test_tags_do_not_care_where_things_are() -> None:
    head = tags(SimpleNamespace(taps=(16, 32), labels=("rain", "night")), CHANNELS).eval()
    there = maps()
    elsewhere = [value.roll((1, 2), (2, 3)) for value in there]
    torch.testing.assert_close(head(there)["logits"], head(elsewhere)["logits"])


def test_embeddings_have_length_one() -> None:
    head = embedding(SimpleNamespace(taps=(16, 32), dim=12), CHANNELS).eval()
    vector = head(maps())["vector"]
    assert vector.shape == (3, 12)
    torch.testing.assert_close(vector.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_embedding_of_nothing_is_finite(dtype: torch.dtype) -> None:
    head = embedding(SimpleNamespace(taps=(16, 32), dim=12), CHANNELS).to(dtype).eval()
    torch.nn.init.zeros_(head.predict.bias)
    assert head([value.to(dtype) for value in maps(0.0)])["vector"].isfinite().all()
