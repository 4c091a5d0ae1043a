"""ComfyUI's door to DHumanDiff."""

from comfy_api.latest import ComfyExtension, io

WEB_DIRECTORY = "./web"  # help pages: docs/<node id>.md; what the page runs: *.js


class DHumanDiff(ComfyExtension):
    """Portraits of two people from two photos and a sentence."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        from .nodes import NODES

        return NODES


async def comfy_entrypoint() -> DHumanDiff:
    """Called by ComfyUI when it loads the pack."""
    return DHumanDiff()
