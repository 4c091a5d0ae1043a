"""What runs the base model: one file per host. ComfyUI's host lives with its nodes (``nodes/comfy_*.py``)."""
