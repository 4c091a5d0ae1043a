"""What tests share: builders of small files and models, a ComfyUI server, stand-ins."""
