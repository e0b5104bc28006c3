"""Forms of the picture from the pipeline to the answers: planes, folded stems, what auto chooses, certified errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch

import sharedbb as sb
from sharedbb.compiler import compiled, formed
from sharedbb.compiler.form import Form, Given
from sharedbb.runtime import Ladder
from sharedbb.spec.transforms import AutoTransform
from sharedbb.transforms.colour import Colour
from sharedbb.types import FrameResult, Size

PIPELINE = Path(__file__).parents[2] / "pipelines" / "street.yaml"
SIZE = (96, 160)
SOURCE = (144, 240)
EXACT = ["{type: space_to_depth}", "{type: haar}", "{type: haar, layout: packet}", "{type: wavelet, wavelet: db2}"]

Picture = np.ndarray


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _pictures(count: int) -> list[Picture]:
    """A street that a camera pans over, uint8 [144, 240, 3] RGB, of muted colours."""
    frames = sb.open_source("synthetic:street?motion=drive&frames=1&size=320x192")
    wide = cv2.resize(next(iter(frames)).rgb(), (SOURCE[1] + 4 * count, SOURCE[0]), interpolation=cv2.INTER_AREA)
    return [np.ascontiguousarray(wide[:, 4 * at : 4 * at + SOURCE[1]]) for at in range(count)]


def _clip(path: Path, count: int = 4, pix_fmt: str = "yuv420p", **tags: int) -> Path:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=25, options={"threads": "1", "crf": "14"})
        stream.height, stream.width, stream.pix_fmt = *SOURCE, pix_fmt
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for index, picture in enumerate(_pictures(count)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format=pix_fmt, dst_colorspace=tags.get("colorspace"))
            frame.pts, frame.time_base = index, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def _pipeline(transform: str, *more: str) -> sb.Pipeline:
    changes = [f"input.size={list(SIZE)}", f"transform={transform}", "runtime.backend=eager", "runtime.device=cpu"]
    return sb.load(str(PIPELINE), [*changes, *more])


def _engine(transform: str, *more: str, source: Any = None, use_cache: bool = False) -> sb.Engine:
    return sb.compile(_pipeline(transform, *more), source=source, use_cache=use_cache)


def _changed(results: list[FrameResult], others: list[FrameResult]) -> Mapping[str, float]:
    return {
        head: float(np.mean([one[head].changed(other[head]) for one, other in zip(results, others, strict=True)]))
        for head in results[0]
    }


@pytest.mark.parametrize("transform", EXACT)
def test_exact_forms_give_the_same_answers(transform: str) -> None:
    plain, engine = _engine("{type: rgb}"), _engine(transform)
    assert engine.program.stems
    for picture in _pictures(2):
        expected, found = plain.step(picture, order="rgb"), engine.step(picture, order="rgb")
        assert np.allclose(found["surface"].logits, expected["surface"].logits, rtol=1e-4, atol=1e-4)
        assert np.allclose(found["objects"].boxes, expected["objects"].boxes, atol=0.02)


@pytest.mark.parametrize("tags", [{}, {"colorspace": 1}])
def test_planes_give_the_answers_of_their_colours(tmp_path: Path, tags: dict[str, int]) -> None:
    clip = _clip(tmp_path / "clip.mp4", **tags)
    plain, engine = _engine("{type: rgb}"), _engine("{type: yuv420}", source=clip)
    intake = engine.state().reading.intake
    assert [plane.name for plane in engine.program.planes] == ["input.y", "input.u", "input.v"]
    changed = _changed(list(engine.stream(clip)), list(plain.stream(clip)))
    assert max(changed["surface"], changed["edges"], changed["scene"]) < 0.01, changed
    assert changed["objects"] < 0.15
    assert intake.reasons == engine.state().reading.intake.reasons == ()


def test_planes_of_another_colour_are_converted_and_said_to_be(tmp_path: Path) -> None:
    clip = _clip(tmp_path / "clip.mp4", colorspace=1)
    plain, engine = _engine("{type: rgb}"), _engine("{type: yuv420, matrix: bt601, range: limited}", source=clip)
    changed = _changed(list(engine.stream(clip)), list(plain.stream(clip)))
    assert changed["surface"] < 0.02
    assert "bt709 limited converted to bt601 limited" in engine.profile.whys["transform"]


def test_other_sampling_is_converted_and_said_to_be(tmp_path: Path) -> None:
    clip = _clip(tmp_path / "clip.mkv", pix_fmt="yuv444p")
    engine = _engine("{type: yuv420}", source=clip)
    assert len(list(engine.stream(clip))) == 4
    assert "yuv444p converted to yuv420p" in engine.profile.whys["transform"]


@pytest.mark.parametrize("mode", ["exact", "bounded", "keyframe", "auto"])
def test_reuse_works_on_planes(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames stand still, then change in one corner; every mode answers within its terms, exact the same."""
    monkeypatch.setattr("sharedbb.reuse.worth.GAIN", float("inf"))
    monkeypatch.setattr("sharedbb.compiler.measure.ROUNDS", 1)
    engine = _engine("{type: yuv420}", f"reuse.mode={mode}", "reuse.audit=0", "reuse.refresh=0")
    dense = _engine("{type: yuv420}")
    first = _pictures(1)[0]
    second = first.copy()
    second[:24, :24] = 255 - second[:24, :24]
    modes = []
    for picture in (first, first, second, second):
        found, expected = engine.step(picture, order="rgb"), dense.step(picture, order="rgb")
        modes.append(found.mode)
        if mode == "exact" or found.mode in ("dense", "key"):
            assert np.allclose(found["surface"].logits, expected["surface"].logits, rtol=1e-4, atol=1e-4)
    assert modes[1] == "still"
    assert modes[2] != "still"


def test_the_form_is_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAREDBB_CACHE", str(tmp_path))
    forms = []
    lowered = compiled.store
    monkeypatch.setattr(compiled, "store", lambda name, made: (forms.append(made.form), lowered(name, made)))
    first = _engine("{type: yuv420}", "runtime.backend=openvino", use_cache=True)
    monkeypatch.setattr("sharedbb.compiler.assemble._build", lambda *_: pytest.fail("not from the cache"))
    second = _engine("{type: yuv420}", "runtime.backend=openvino", use_cache=True)
    assert second.program.planes == first.program.planes == forms[0].planes
    assert second.program.stems == first.program.stems
    picture = _pictures(1)[0]
    one, other = (engine.step(picture, order="rgb")["surface"] for engine in (first, second))
    assert np.array_equal(one.logits, other.logits)


def test_a_form_survives_being_written_down() -> None:
    made = formed.formed(
        _graph(), _pipeline("{type: haar, bands: low}").transform, _pipeline("{type: rgb}").input, (), None, Given()
    )[1]
    back = Form.from_dict(json.loads(json.dumps(made.to_dict())))
    assert (back.planes, back.colour, back.stems) == (made.planes, made.colour, made.stems)
    assert np.allclose(back.certificates[0].bound(), made.certificates[0].bound())
    planes = Form(made.planes, Colour("bt709", "full"))
    assert Form.from_dict(planes.to_dict()) == planes


def _graph() -> Any:
    from sharedbb.compiler.assemble import _graph as graph_of

    return graph_of(_pipeline("{type: rgb}"))


@pytest.mark.parametrize(
    ("milliseconds", "chosen"),
    [
        ({"rgb": 10.0, "space_to_depth 2": 9.0, "yuv420": 9.5}, "space_to_depth"),
        ({"rgb": 10.0, "space_to_depth 2": 9.9, "yuv420": 9.5}, "yuv420"),
        ({"rgb": 10.0, "space_to_depth 2": 9.9, "yuv420": 9.8}, "rgb"),
    ],
)
def test_auto_takes_what_is_clearly_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, milliseconds: dict[str, float], chosen: str
) -> None:
    clip = _clip(tmp_path / "clip.mp4", count=1)
    asked: list[set[str]] = []

    def measured(cases: Mapping[str, Any], device: str) -> dict[str, float]:
        for call in cases.values():
            call()
        asked.append(set(cases))
        return {name: milliseconds[name] for name in cases}

    monkeypatch.setattr(formed, "interleaved", measured)
    engine = _engine("{type: auto}", source=clip)
    assert asked == [{"rgb", "space_to_depth 2", "yuv420"}]
    names = {"rgb": 1, "space_to_depth": 1, "yuv420": 3}
    assert len(engine.program.planes) == names[chosen]
    assert bool(engine.program.stems) == (chosen != "rgb")
    assert sum("(chosen)" in choice and "by form" in choice for choice in engine.program.choices) == 1


def test_auto_offers_planes_only_where_the_source_has_them(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), _pictures(1)[0])
    full = _clip(tmp_path / "full.mkv", pix_fmt="yuv444p", count=1)
    half = _clip(tmp_path / "half.mp4", count=1)
    auto = AutoTransform()
    assert [Given.of(source, auto).planes for source in (None, picture, full, half)] == [False, False, False, True]
    assert Given.of(half, _pipeline("{type: rgb}").transform).frame is None


def test_results_are_certified_where_that_is_asked_for() -> None:
    engine = _engine("{type: haar, bands: low, certify: true}")
    plain = _engine("{type: rgb}")
    for picture in _pictures(3):
        result = engine.step(picture, order="rgb")
        plain.step(picture, order="rgb")
        assert result.stem_error is not None
        assert 0 < result.stem_error.rms < result.stem_error.bound
        assert result.to_dict()["stem_error"]["bound"] == result.stem_error.bound
    assert plain.step(picture, order="rgb").stem_error is None
    assert all(why.startswith("at most ") for why in engine.profile.whys["certify"])


def test_large_jpegs_are_decoded_at_the_size_that_is_needed(tmp_path: Path) -> None:
    large = cv2.resize(_pictures(1)[0], (4 * SIZE[1], 4 * SIZE[0]), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "a.jpg"), large[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    engine, whole = _engine("{type: rgb}"), _engine("{type: rgb}")
    (result,) = engine.stream(tmp_path)
    expected = whole.step(cv2.imread(str(tmp_path / "a.jpg")))
    assert result.frame.encoded is not None
    assert result.frame.rgb().shape == large.shape
    assert result["surface"].changed(expected["surface"]) < 0.02


def test_low_resolution_has_the_network_at_every_size(tmp_path: Path) -> None:
    sizes = [list(SIZE), [64, 96]]
    changes = ["schedule.deadline_ms=1000", "runtime.precision=f32"]
    engine = _engine(f"{{type: low_resolution, sizes: {sizes}, budget: 0.1, hold: 5, audit: 0}}", *changes)
    assert isinstance(engine, Ladder)
    assert [program.size for program in engine.programs] == [Size(*size) for size in sizes]
    assert {program.device.name for program in engine.programs} == {"eager"}
    assert (engine.rules.budget, engine.rules.hold, engine.rules.audit) == (0.1, 5, 0)
    assert engine.rules.deadline_ms == 1000
    plain = _engine("{type: rgb}", "runtime.precision=f32")
    picture = _pictures(1)[0]
    found, expected = engine.step(picture, order="rgb"), plain.step(picture, order="rgb")
    assert found.sized == "largest"
    assert np.allclose(found["surface"].logits, expected["surface"].logits, atol=1e-5)
    engine.rules = replace(engine.rules, deadline_ms=1e-6)
    small = engine.step(picture, order="rgb")
    assert (small.geometry.network, small.sized) == (Size(64, 96), "deadline")
    other = _engine("{type: rgb}", "input.size=[64, 96]", "runtime.precision=f32").step(picture, order="rgb")
    assert np.allclose(small["surface"].logits, other["surface"].logits, atol=1e-5)


def test_what_was_compiled_for_one_source_is_not_taken_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHAREDBB_CACHE", str(tmp_path / "cache"))
    clips = [_clip(tmp_path / f"{at}.mp4", count=1, **tags) for at, tags in enumerate(({}, {"colorspace": 1}))]
    for clip in clips:
        engine = _engine("{type: yuv420}", "runtime.backend=openvino", source=clip, use_cache=True)
        assert len(list(engine.stream(clip))) == 1
        assert engine.profile.whys["transform"] == {"full": 1}


def test_a_colour_that_is_said_is_that_of_untagged_frames(tmp_path: Path) -> None:
    clip = _clip(tmp_path / "clip.mp4", count=1)
    frame = next(iter(sb.open_source(clip)))
    planes = []
    for matrix in ("bt601", "bt709"):
        engine = _engine(f"{{type: yuv420, matrix: {matrix}}}", source=clip)
        engine.step(frame)
        assert engine.state().reading.intake.reasons == ()
        planes.append(engine.state().reading.picture.planes["input.y"].copy())
    assert np.array_equal(planes[0][:, 1:-1], planes[1][:, 1:-1])


def test_a_source_that_gives_its_frames_once_is_left_alone() -> None:
    class Once:
        name, live, fps, frames, size, skipped = "once", False, 25.0, 2, None, 0

        def __init__(self) -> None:
            self._left = iter(_pictures(2))

        def __iter__(self) -> Any:
            return self._left

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self._left = iter(())

    source = Once()
    assert Given.of(source, AutoTransform()).frame is None
    assert len(list(_engine("{type: rgb}").stream(source))) == 2


def test_frames_on_which_the_stem_did_not_run_are_not_certified() -> None:
    engine = _engine("{type: haar, bands: low, certify: true}", "reuse={mode: bounded, audit: 0, refresh: 0}")
    picture = _pictures(1)[0]
    first, second = engine.step(picture, order="rgb"), engine.step(picture, order="rgb")
    assert (first.mode, second.mode) == ("dense", "still")
    assert first.stem_error is not None
    assert second.stem_error is None


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        ("{type: haar, certify: true}", "certify: needs bands that are left out"),
        ("{type: wavelet, wavelet: dmey}", "cannot be 'dmey'"),
        ("{type: haar, levels: 2}", "stride 2"),
    ],
)
def test_what_cannot_be_is_said(transform: str, said: str) -> None:
    with pytest.raises(sb.SharedBBError, match=said):
        _engine(transform)


def test_levels_too_deep_for_the_picture_are_refused() -> None:
    changes = ["backbone={arch: convnext_tiny}", "input.size=[32, 32]"]
    with pytest.raises(sb.SharedBBError, match="2 levels of db38 are too deep for a picture of 32x32; it takes 1 at"):
        _engine("{type: wavelet, wavelet: db38, levels: 2}", *changes)


def test_a_source_decodes_in_full_again_after_the_engine(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), cv2.resize(_pictures(1)[0], (4 * SIZE[1], 4 * SIZE[0])))
    source = sb.open_source(tmp_path)
    (result,) = _engine("{type: rgb}").stream(source)
    assert result.frame.encoded is not None
    assert next(iter(source)).encoded is None
