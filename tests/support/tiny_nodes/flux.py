"""Test-only: teaches ComfyUI's stock loaders the tiny FLUX's files; faces of drawn people for WithAnyone."""

import comfy.model_detection
import comfy.sd

from support import tiny_flux

_detect = comfy.model_detection.detect_unet_config


def _detect_sizes(state_dict, key_prefix, *more, **options):
    """ComfyUI before Flux.2 takes every FLUX for one of 3,072 wide."""
    config = _detect(state_dict, key_prefix, *more, **options)
    text = state_dict.get(f"{key_prefix}txt_in.weight")
    if config and config.get("image_model") == "flux" and text is not None:
        config["hidden_size"], config["context_in_dim"] = text.shape
        config["num_heads"] = text.shape[0] // sum(config["axes_dim"])
    return config


comfy.model_detection.detect_unet_config = _detect_sizes

_load_text = comfy.sd.load_text_encoder_state_dicts


def _load_tiny_text(state_dicts=(), *more, **options):
    first = "encoder.block.0.layer.0.SelfAttention.k.weight"
    t5 = next((weights for weights in state_dicts if first in weights), None)
    if t5 is None or t5[first].shape[1] != tiny_flux.TEXT:
        return _load_text(state_dicts, *more, **options)
    return tiny_flux.clip(*(weights for weights in state_dicts if weights is not t5), t5=t5)


comfy.sd.load_text_encoder_state_dicts = _load_tiny_text


class DrawnFacesForWithAnyone:
    """The miniature's face models under the name of the recognizer that WithAnyone asks for: its random weights know no other."""

    RETURN_TYPES = ("FACE_ANALYSIS",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls):
        return {}

    def load(self):
        from dhd_pack.dhumandiff.methods.withanyone.people import RECOGNIZER
        from dhd_pack.dhumandiff.miniature.faces import mini_faces

        faces = mini_faces()
        faces.name = RECOGNIZER
        return (faces,)
