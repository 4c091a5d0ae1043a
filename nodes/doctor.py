"""The doctor: what is missing for a first portrait."""

from __future__ import annotations

import time

from comfy_api.latest import io, ui

from .comfy.folders import examine_comfyui
from .comfy.schema import schema


class DHDDoctor(io.ComfyNode):
    """Versions, providers and model files in words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDDoctor",
            display_name="Doctor",
            description="Says what is here and what is missing for a first portrait, and what to do about it: versions, "
            "what face recognition runs on, model files and their licenses. The text may go into a bug report as it is.",
            search_aliases=["diagnose", "check", "versions", "missing models", "bug report", "help", "dhumandiff"],
            inputs=[],
            outputs=[io.String.Output("report", tooltip="The text that the node shows.")],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls) -> float:
        return time.time()  # whoever has mended something runs it again

    @classmethod
    def execute(cls) -> io.NodeOutput:
        report = str(examine_comfyui())
        return io.NodeOutput(report, ui=ui.PreviewText(report))
