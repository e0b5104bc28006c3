"""Transforms in a pipeline file: by type, with their own fields, and what a wrong one reads like."""

from __future__ import annotations

from typing import Any

import pytest

from sharedbb.errors import SpecError
from sharedbb.spec import Pipeline, dump, json_schema, loads
from sharedbb.spec.transforms import (
    TRANSFORMS,
    AutoTransform,
    HaarTransform,
    LowResolutionTransform,
    RgbTransform,
    SpaceToDepthTransform,
    WaveletTransform,
    Yuv420Transform,
)

TEXT = """\
name: a
input: {size: [384, 640]}
transform: %s
backbone: {arch: resnet18}
heads: {a: {type: depth, taps: [4]}}
"""
TYPES = "'rgb', 'auto', 'space_to_depth', 'haar', 'wavelet', 'yuv420' or 'low_resolution'"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("{}", RgbTransform()),
        ("{type: rgb}", RgbTransform()),
        ("{type: auto}", AutoTransform()),
        ("{type: space_to_depth, block: 4}", SpaceToDepthTransform(block=4)),
        ("{type: haar}", HaarTransform(levels=1, layout="mallat", bands="all")),
        ("{type: haar, levels: 2, layout: packet, bands: low}", HaarTransform(levels=2, layout="packet", bands="low")),
        ("{type: wavelet}", WaveletTransform(wavelet="db2", levels=1, bands="all")),
        ("{type: wavelet, wavelet: bior2.2}", WaveletTransform(wavelet="bior2.2")),
        ("{type: yuv420, range: full}", Yuv420Transform(matrix="auto", range="full")),
        (
            "{type: low_resolution, sizes: [[384, 640], [192, 320]]}",
            LowResolutionTransform(sizes=((384, 640), (192, 320)), budget=0.02, hold=30, audit=0.02),
        ),
    ],
)
def test_a_transform_is_read_by_its_type_and_written_back(given: str, expected: Any) -> None:
    pipeline = loads(TEXT % given)
    assert pipeline.transform == expected
    assert loads(dump(pipeline)) == pipeline
    assert Pipeline(**{**dict(pipeline), "transform": expected}) == pipeline


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("rgb", "3:12: transform: must be a mapping with a type, such as {type: rgb}, got 'rgb'"),
        ("", "3:11: transform: must be a mapping with a type, such as {type: rgb}, got nothing"),
        ("{type: bgr}", f"3:19: transform.type: must be {TYPES}, got 'bgr'"),
        ("{type: yuv}", f"3:19: transform.type: must be {TYPES}, got 'yuv'; did you mean 'yuv420'?"),
        ("{type: [haar]}", f"3:19: transform.type: must be {TYPES}, got ['haar']"),
        ("{tpye: haar}", "3:13: transform.tpye: unknown field; did you mean 'type'?"),
        ("{levels: 2}", f"3:1: transform.type: is missing; it must be {TYPES}"),
        ("{type: haar, levels: 3}", "3:33: transform.levels: must be 1 or 2, got 3"),
        (
            "{type: haar, level: 2}",
            "3:25: transform.level: unknown field; did you mean 'levels'? "
            "(known: type, levels, layout, bands, certify)",
        ),
        (
            "{type: haar, bands: lo}",
            "3:32: transform.bands: must be 'all', 'low' or 'low_and_edges', got 'lo'; did you mean 'low'?",
        ),
        ("{type: space_to_depth, block: 3}", "3:42: transform.block: must be 2 or 4, got 3"),
        (
            "{type: wavelet, wavelet: dbb2}",
            "3:37: transform.wavelet: must be a discrete wavelet of PyWavelets, such as "
            "'db2', 'db32', 'db29' or 'db28', got 'dbb2'",
        ),
        (
            "{type: wavelet, wavelet: gaus1}",
            "3:37: transform.wavelet: must be a discrete wavelet of PyWavelets, such as "
            "'haar', 'db2', 'sym4' or 'bior2.2', got 'gaus1'",
        ),
        (
            "{type: yuv420, matrix: bt701}",
            "3:35: transform.matrix: must be 'auto', 'bt601' or 'bt709', got 'bt701'; did you mean 'bt709'?",
        ),
        (
            "{type: low_resolution}",
            "3:1: transform.sizes: is missing (two or three sizes, each height and width in multiples of 32, the "
            "largest first: the input's own size)",
        ),
        (
            "{type: low_resolution, sizes: [[384, 640]]}",
            "3:42: transform.sizes: must have at least 2 entries, got 1",
        ),
        (
            "{type: low_resolution, sizes: [[384, 640], [192, 320], [96, 160], [32, 32]]}",
            "3:42: transform.sizes: must have at most 3 entries, got 4",
        ),
        (
            "{type: low_resolution, sizes: [[384, 640], [192, 672]]}",
            "3:55: transform.sizes.1: must be smaller than the size before, [384, 640], got [192, 672]",
        ),
        (
            "{type: low_resolution, sizes: [[352, 640], [192, 320]]}",
            "3:43: transform.sizes.0: must be the input's size, [384, 640], got [352, 640]",
        ),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(given: str, problem: str) -> None:
    with pytest.raises(SpecError) as raised:
        loads(TEXT % given, "p.yaml")
    assert str(raised.value) == f"p.yaml:{problem}"


def test_the_registered_types_are_the_models_own() -> None:
    assert all(model.model_fields["type"].default == name for name, model in TRANSFORMS.items())


def test_the_schema_offers_every_type() -> None:
    offered = json_schema()["properties"]["transform"]["discriminator"]["mapping"]
    assert set(offered) == set(TRANSFORMS)
