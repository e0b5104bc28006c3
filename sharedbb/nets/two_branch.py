"""A backbone at half resolution: Haar's low band through the trunk, its detail bands through a light branch.

After the wavelet-like auto-encoder (Chen et al., "Learning a Wavelet-like Auto-Encoder to Accelerate Deep Neural
Networks", AAAI 2018), with Haar's fixed, orthonormal analysis instead of a learned one: nothing of the picture is lost.

The trunk reads a picture of half the height and width, for a quarter of the multiply-adds, and its map of stride s lies
at stride 2s of the picture. Taps keep the plain backbone's strides and channels: each is the trunk's own map of that
name made twice as large, plus a projection of the next finer map, which lies at the right stride already. All that is
added starts at zero: an untrained two-branch backbone answers what the plain one answers on the picture at half size,
so that heads of the plain backbone fit, and training starts from there.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharedbb.errors import GraphError
from sharedbb.nets import weights as weight_files
from sharedbb.nets.backbones import SEED, Backbone, check_image, seeded
from sharedbb.nets.blocks import projection, separable, upsample

STRIDES = (4, 8, 16, 32)
"""The strides at which a backbone must have taps to be run at half resolution."""

DETAIL_CHANNELS = 16
"""Width of the branch that reads the detail bands."""


class TwoBranch(Backbone):
    """A backbone whose trunk runs on the low band of the picture; the detail bands are added to its finest map.

    ``channels`` and the forward's shapes are those of the plain backbone. Weights of the trunk keep the plain
    backbone's names; those of ``details``, ``inject`` and ``laterals`` are new.

    The low band is the mean of 2×2 pixels, ``[N, 3, H / 2, W / 2]``; the details are the three orthonormal high bands
    of each colour with their signs, ``[N, 9, H / 2, W / 2]``. The branch takes them to stride 4, where ``inject`` adds
    them to the trunk's map of that stride, and so to all that follows. A trunk without such a map (a stem of stride 4,
    as in ConvNeXt) does not see them: they reach the tap at stride 4 alone.
    """

    low: Tensor
    high: Tensor

    def __init__(self, plain: Backbone) -> None:
        """Copy the plain backbone with its weights; it is left as it is.

        Raises GraphError for a backbone without a tap at each of the strides 4, 8, 16 and 32.
        """
        if tuple(plain.channels) != STRIDES:
            raise GraphError(
                f"the decomposition two_branch needs a backbone with taps at the strides 4, 8, 16 and 32, "
                f"got {list(plain.channels)}; leave it at none"
            )
        taps = {stride: (step, plain.channels[stride]) for step, stride in plain.tapped.items()}
        super().__init__(deepcopy(plain), plain.steps, taps)
        low, high = haar()
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.details = _detail_branch()
        joint = _last_at_stride_2(plain)
        self.joint, finer = joint or ("", DETAIL_CHANNELS)
        if joint:
            self.inject = _closed(projection(DETAIL_CHANNELS, finer))
        self.laterals = nn.ModuleDict()
        for stride in STRIDES:
            self.laterals[str(stride)] = _closed(projection(finer, self.channels[stride]))
            finer = self.channels[stride]

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Details first, then the trunk, then the taps, so that between stages of the trunk one map carries all on."""
        check_image(image)
        finest: Tensor = self.details(F.conv2d(image, self.high, stride=2))
        value = F.conv2d(image, self.low, stride=2)
        maps: dict[int, Tensor] = {}
        for step in self.steps:
            value = self.get_submodule(step)(value)
            if step == self.joint:
                value = finest = value + self.inject(finest)
            if step in self.tapped:
                maps[self.tapped[step]] = value
        features = {}
        for stride, finer in zip(STRIDES, (finest, *maps.values()), strict=False):
            lateral = self.laterals[str(stride)](finer)
            features[stride] = lateral + _doubled(maps[stride], lateral)
        return features

    def completed(self, state: weight_files.State, prefix: str = "") -> dict[str, Tensor]:
        """A state dict for this backbone: where ``state`` is a plain one's, what is new as it is here.

        ``prefix`` is what the names begin with that belong to the backbone. A state that has anything of the new parts
        is returned as it is.
        """
        own = self.state_dict()
        new = {prefix + name: own[name] for name in own if name.startswith(("details.", "inject.", "laterals."))}
        return dict(state) if any(name in state for name in new) else {**state, **new}


def two_branch(build: Callable[[str | None], nn.Module], weights: str | None = None) -> TwoBranch:
    """The two-branch form of the backbone that ``build(weights)`` gives, what is new in it random from a fixed seed.

    A ``weights`` file of a two-branch backbone fills all of it, any other the trunk alone. Raises WeightsError, and
    GraphError for a backbone that cannot be decomposed.
    """
    plain = build(weights)
    if not isinstance(plain, Backbone):
        raise GraphError(
            f"the decomposition two_branch needs a sharedbb.nets.Backbone (a chain of steps), "
            f"got a {type(plain).__name__}; leave it at none"
        )
    network = seeded(SEED, lambda: TwoBranch(plain))
    if weights is not None and weight_files.is_file(weights):
        weight_files.put(network.completed(weight_files.read_state(weights)), network, f"the weights {weights}")
    return network


def haar() -> tuple[Tensor, Tensor]:
    """Haar's analysis as convolutions of stride 2: weights [3, 3, 2, 2] of the low band, [9, 3, 2, 2] of the details.

    The low band is halved, to be the mean of the four pixels. Details come colour by colour: differences of rows, of
    columns, and of the diagonals.
    """
    even, odd = torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])
    bands = torch.stack([torch.outer(odd, even), torch.outer(even, odd), torch.outer(odd, odd)]) / 2
    low = torch.einsum("oc,rq->ocrq", torch.eye(3), torch.outer(even, even) / 4)
    return low, torch.einsum("oc,brq->obcrq", torch.eye(3), bands).flatten(0, 1)


def _doubled(coarse: Tensor, fine: Tensor) -> Tensor:
    """``coarse`` at twice its size, its last row and column cut off, or zeros added, where ``fine`` has an odd size."""
    raised = upsample(coarse, 2, "nearest")
    rows, columns = fine.shape[2] - raised.shape[2], fine.shape[3] - raised.shape[3]
    return F.pad(raised, (0, columns, 0, rows)) if rows or columns else raised


def _detail_branch() -> nn.Sequential:
    """From the detail bands to stride 4: a strided 3×3 convolution, batch norm and ReLU, and a separable one."""
    entry = nn.Conv2d(9, DETAIL_CHANNELS, 3, stride=2, padding=1, bias=False)
    nn.init.kaiming_normal_(entry.weight, nonlinearity="relu")
    return nn.Sequential(entry, nn.BatchNorm2d(DETAIL_CHANNELS), nn.ReLU(), separable(DETAIL_CHANNELS))


def _closed(project: nn.Sequential) -> nn.Sequential:
    """A projection whose batch norm scales by zero: it adds nothing until it is trained (Goyal et al., 2017)."""
    norm = project[-1]
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.zeros_(norm.weight)
    return project


def _last_at_stride_2(plain: Backbone) -> tuple[str, int] | None:
    """The last step whose map has stride 2, and its channels; None where the stem is coarser."""
    side = 2 * STRIDES[-1]
    trunk = deepcopy(plain).to("meta").eval()
    value = torch.empty(1, 3, side, side, device="meta")
    found = None
    for step in plain.steps:
        value = trunk.get_submodule(step)(value)
        if value.shape[3] * 2 == side:
            found = step, value.shape[1]
    return found
