"""torch on the CPU: eager and compiled by Inductor, in float32 and in bfloat16, channels last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sharedbb as sb
from benchmarks.networks import Normalized
from benchmarks.peers.base import Absent, Answers, Peer, Work, cores, quietly, reason
from benchmarks.peers.quantized import digest

EAGER = (
    "https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html: inference mode, channels last, "
    "a thread a core; bfloat16 by autocast"
)
INDUCTOR = (
    "https://docs.pytorch.org/tutorials/intermediate/inductor_debug_cpu.html and torch.compile's reference: "
    "Inductor with frozen weights, fixed shapes"
)

Networks = Callable[[Work], list[nn.Module]]


def separate(work: Work) -> list[nn.Module]:
    """The four separate networks."""
    return list(work.networks.values())


def merged(work: Work) -> list[nn.Module]:
    """The hand-merged network."""
    return [work.whole]


def eager(networks: Networks, *, half: bool) -> Callable[[Work], Callable[[sb.Frame], Answers]]:
    """A frame through all networks, operator by operator."""
    return lambda work: _runs(work, _modules(work, networks(work)), half)


def inductor(networks: Networks, *, half: bool) -> Callable[[Work], Callable[[sb.Frame], Answers]]:
    """The same, compiled; that happens here, on the first frame."""

    def prepare(work: Work) -> Callable[[sb.Frame], Answers]:
        made = [
            torch.compile(module, dynamic=False, options={"freezing": True})
            for module in _modules(work, networks(work))
        ]
        run = _runs(work, made, half)
        try:
            with quietly():
                run(work.frames[0])
        except Exception as error:  # of a compiler that is missing or fails: whatever it raises, it is not there
            raise Absent(reason(error)) from error
        return run

    return prepare


def _modules(work: Work, networks: list[nn.Module]) -> list[Any]:
    torch.set_num_threads(cores())
    return [
        Normalized(network, work.normalization).eval().to(memory_format=torch.channels_last) for network in networks
    ]


def _runs(work: Work, modules: list[Any], half: bool) -> Callable[[sb.Frame], Answers]:
    intake = work.intake()
    picture = torch.from_numpy(intake.picture)

    @torch.inference_mode()
    def run(frame: sb.Frame) -> Answers:
        intake(frame)
        found: Answers = {}
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            for module in modules:
                found |= {name: answer.float().numpy() for name, answer in module(picture).items()}
        return found

    return run


class _ChannelsLast(nn.Module):
    """A network whose maps come out NHWC, as LiteRT and what reads its answers have them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            answer.permute(0, 2, 3, 1) if answer.ndim == 4 else answer for answer in self.network(picture).values()
        )


def torch_programs(work: Work) -> list[Path]:
    """Files of the four separate networks as torch.export saves them; they take uint8 RGB [1, H, W, 3]."""
    picture = torch.zeros(1, work.size.height, work.size.width, 3, dtype=torch.uint8)
    found = []
    for head, network in work.networks.items():
        path = work.folder / f"{work.pipeline.name}-{head}-{digest(network)}.pt2"
        if not path.is_file():
            module = _ChannelsLast(Normalized(network, work.normalization)).eval()
            unfinished = path.with_name(f"unfinished-{path.name}")
            with quietly():
                torch.export.save(torch.export.export(module, (picture,)), unfinished)
            unfinished.replace(path)
        found.append(path)
    return found


REFERENCE = Peer("torch eager f32, merged by hand", EAGER, eager(merged, half=False))
"""What every other peer's answers are held against."""

TORCH = (
    Peer("torch eager f32, separate", EAGER, eager(separate, half=False)),
    REFERENCE,
    Peer("torch eager bf16, separate", EAGER, eager(separate, half=True)),
    Peer("torch eager bf16, merged by hand", EAGER, eager(merged, half=True)),
    Peer("torch.compile bf16, separate", INDUCTOR, inductor(separate, half=True)),
    Peer("torch.compile bf16, merged by hand", INDUCTOR, inductor(merged, half=True)),
)
