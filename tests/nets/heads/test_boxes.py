from __future__ import annotations

from types import SimpleNamespace

import torch

from sharedbb.nets.heads import detection

CHANNELS = {4: 6, 8: 5, 16: 7, 32: 9}
TAPS = (8, 16, 32)


def build(taps: tuple[int, ...] = TAPS) -> torch.nn.Module:
    torch.manual_seed(0)
    return detection(SimpleNamespace(taps=taps, classes=("car", "person", "sign"), channels=16), CHANNELS)


def maps(taps: tuple[int, ...] = TAPS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, CHANNELS[s], 96 // s, 160 // s, generator=generator) for s in taps]


def test_cells_run_over_levels_then_rows_then_columns() -> None:
    head, inputs = build().eval(), maps()
    answer = head(inputs)
    assert answer["scores"].shape == (2, 12 * 20 + 6 * 10 + 3 * 5, 3)
    assert answer["distances"].shape == (2, 12 * 20 + 6 * 10 + 3 * 5, 4)
    seen: dict[int, torch.Tensor] = {}
    head.scores.register_forward_hook(lambda module, args, value: seen.update({len(seen): value}))
    answer = head(inputs)
    offset = 0
    for level, stride in enumerate(TAPS):
        rows, columns = 96 // stride, 160 // stride
        for row, column in ((0, 0), (1, 3), (rows - 1, columns - 1)):
            flat = answer["scores"][:, offset + row * columns + column]
            assert torch.equal(flat, seen[level][:, :, row, column])
        offset += rows * columns


def test_distances_are_never_negative_and_scale_by_level() -> None:
    head = build().eval()
    with torch.no_grad():
        head.distances.weight.normal_(0, 3)
        before = head(maps())["distances"]
        head.scales[2] *= 100
        after = head(maps())["distances"]
    assert before.min() >= 0
    assert before.std() > 0.5
    assert torch.equal(before[:, :300], after[:, :300])
    assert not torch.equal(before[:, 300:], after[:, 300:])


def test_an_untrained_detector_sees_next_to_nothing() -> None:
    probabilities = build().eval()(maps())["scores"].sigmoid()
    assert 0.005 < probabilities.mean() < 0.02


def test_convolutions_are_shared_and_norms_are_not() -> None:
    one, three = build((8,)), build()
    shared = {name for name, _ in one.named_parameters()} - {"scales"}
    more = {name for name, _ in three.named_parameters()} - shared
    assert all("norms" in name or "projections" in name or name == "scales" for name in more)


def test_every_weight_learns() -> None:
    head = build().train()
    answer = head(maps())
    (answer["scores"].sigmoid().mean() + answer["distances"].mean()).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in head.parameters())
