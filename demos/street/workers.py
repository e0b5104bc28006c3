"""Several single-threaded processes that train one network, each on its share of every batch.

On a machine that does other work as well, two processes of one thread that meet once a step go several times faster
than one process of two threads, which waits for the slower one in every operator.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

RANK = "STREET_RANK"


@dataclass(frozen=True, slots=True)
class Team:
    """This process among ``count``; ``rank`` 0 writes files and follows signals."""

    rank: int = 0
    count: int = 1

    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace each floating-point tensor by its mean over the team, in place; all members must call it."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().float().reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        with torch.no_grad():
            for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def leave(self) -> None:
        """The end of the work in common."""
        if self.count > 1:
            dist.destroy_process_group()


def join(count: int) -> Team:
    """Make a team of ``count``: the first caller starts the others with its own command line and meets them."""
    if count == 1:
        return Team()
    torch.set_num_threads(1)
    rank = int(os.environ.get(RANK, "0"))
    place = Path(tempfile.gettempdir()) / f"street-{os.getppid() if rank else os.getpid()}"
    if rank == 0:
        place.unlink(missing_ok=True)
        for other in range(1, count):
            subprocess.Popen([sys.executable, *sys.argv], env=os.environ | {RANK: str(other)})
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=count)
    return Team(rank, count)
