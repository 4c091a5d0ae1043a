"""Load the adapter."""

from __future__ import annotations

from comfy_api.latest import io

from ..dhumandiff.errors import AdapterError
from .comfy.adapter import load_adapter
from .comfy.folders import adapter_choices, adapter_path, full_adapters
from .comfy.schema import AdapterType, schema


class DHDLoadAdapter(io.ComfyNode):
    """Choice of file -> adapter under ComfyUI's memory management."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDLoadAdapter",
            display_name="Load DHumanDiff Adapter",
            description="The trained weights that draw two people: DHumanDiff's, or an IP-Adapter Plus (Face) for SDXL.",
            search_aliases=["dhumandiff", "two people", "couple", "dual portrait", "face id", "ipadapter plus face"],
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=adapter_choices(),
                    tooltip="From models/dhumandiff: a folder with the four released files, or one .safetensors. "
                    "From models/ipadapter: IP-Adapter Plus (Face) SDXL ViT-H, which draws both people with one set of "
                    "weights and has no subject path.",
                ),
            ],
            outputs=[AdapterType.Output("adapter", tooltip="The adapter, for the other DHumanDiff nodes.")],
        )

    @classmethod
    def validate_inputs(cls, adapter_name: str | None = None) -> bool | str:
        # In the place of ComfyUI's own check of the choice, whose message does not say what to put where.
        if adapter_name is None:  # linked: looked up when it runs
            return True
        try:
            adapter_path(adapter_name)
        except AdapterError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str | None = None) -> float:
        if adapter_name is None:  # linked: the other node's own fingerprint counts
            return 0.0
        path = adapter_path(adapter_name)
        files = (path, *(path.iterdir() if path.is_dir() else ()))
        return max(file.stat().st_mtime for file in files if file.exists())  # a link beside them may lead nowhere

    @classmethod
    def execute(cls, adapter_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_adapter(adapter_path(adapter_name), full_adapters()))
