"""The pipeline language as JSON Schema, for editors."""

from __future__ import annotations

from typing import Any

from sharedbb.spec.pipeline import Pipeline


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a pipeline file, with descriptions, and with everything registered by now.

    In an editor with a YAML language server: ``# yaml-language-server: $schema=pipeline.schema.json``.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Pipeline.model_json_schema(),
        "title": "sharedbb pipeline",
        "description": "One input, one backbone, any number of heads.",
    }
