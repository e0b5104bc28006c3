"""The public names of the room."""

from __future__ import annotations

from sharedbb import learn


def test_public_names_are_pinned() -> None:
    assert learn.__all__ == [
        *("HEADLINE", "VOID", "Boxes", "Course", "Data", "Distill", "Network", "Predictor", "Sample", "StepReport"),
        *("Trainer", "Training", "headline", "judge", "open_data"),
    ]
    for name in learn.__all__:
        assert getattr(learn, name) is not None
