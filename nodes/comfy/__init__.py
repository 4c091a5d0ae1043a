"""The only files that know ComfyUI's insides: patching, batch layout, guider, encoders, folders, schema, miniature."""
