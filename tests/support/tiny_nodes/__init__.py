"""Test-only: teaches ComfyUI's stock loaders the tiny base's files, so that the shipped workflow runs unchanged."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import comfy.clip_vision
import comfy.sd
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils

TESTS = Path(__file__).resolve().parents[2]
sys.path.append(str(TESTS))
if "dhd_pack" not in sys.modules:
    repository = TESTS.parent
    spec = importlib.util.spec_from_file_location(
        "dhd_pack", repository / "__init__.py", submodule_search_locations=[str(repository)]
    )
    sys.modules["dhd_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["dhd_pack"])

from support import tiny_comfy, tiny_flux

from . import flux


class TinySDXL(comfy.supported_models.SDXL):
    """The tiny UNet's layout, found before SDXL's own."""

    unet_config = {
        **comfy.supported_models.SDXL.unet_config,
        "model_channels": 32,
        "context_dim": 192,
        "transformer_depth": [0, 0, 1, 1, 2, 2],
        "adm_in_channels": 128 + 6 * 256,
    }

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, tiny_comfy.TinySDXLClipModel)

    def process_clip_state_dict(self, state_dict):
        return comfy.utils.state_dict_prefix_replace(state_dict, {"conditioner.tiny.": ""}, filter_keys=True)


class TinySD15(comfy.supported_models.SD15):
    """The UNet of tiny_parts' released folder, with the context of the tiny text encoders."""

    unet_config = {**comfy.supported_models.SD15.unet_config, "model_channels": 32, "context_dim": 192}


comfy.supported_models.models.insert(0, TinySDXL)
comfy.supported_models.models.append(TinySD15)

_vae_init = comfy.sd.VAE.__init__


def _tiny_vae_init(self, sd=None, config=None, **options):
    first = (sd or {}).get("decoder.conv_in.weight")
    if config is None and first is not None and first.shape[0] == tiny_comfy.VAE_PARAMS["ddconfig"]["ch"]:
        params = tiny_flux.VAE_PARAMS if first.shape[1] == 16 else tiny_comfy.VAE_PARAMS
        config, options = {"params": params}, {}
    _vae_init(self, sd=sd, config=config, **options)
    if config is not None:
        self.latent_channels = config["params"]["embed_dim"]


comfy.sd.VAE.__init__ = _tiny_vae_init

_load_vision = comfy.clip_vision.load_clipvision_from_sd


def _load_tiny_vision(sd, prefix="", convert_keys=False):
    patches = sd.get("vision_model.embeddings.patch_embedding.weight")
    if patches is None or patches.shape[0] != 64:
        return _load_vision(sd, prefix, convert_keys)
    return tiny_comfy.clip_vision(sd)


comfy.clip_vision.load_clipvision_from_sd = _load_tiny_vision


class AsAntelopev2:
    """A reference that the tests' small recognizer made, as if WithAnyone's had: what it draws is as random as the weights."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"reference": ("DHD_REFERENCE",)}})
    RETURN_TYPES = ("DHD_REFERENCE",)
    FUNCTION = "rename"
    CATEGORY = "tests"

    def rename(self, reference):
        return (dataclasses.replace(reference, recognizer="antelopev2/glintr100", recognizer_hash=""),)


NODE_CLASS_MAPPINGS = {
    "TinyAsAntelopev2": AsAntelopev2,
    "DrawnFacesForWithAnyone": flux.DrawnFacesForWithAnyone,
}
