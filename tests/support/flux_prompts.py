"""Prompts in API form that run on the tiny FLUX in a server, with the stock loaders and samplers.

fill(server.base)                               # tiny FLUX, WithAnyone and people, under the names that the prompts use
server.run(text_to_image())
server.run(with_people(text_to_image(), 2))
    server.run(with_photos(with_people(text_to_image(), 2), server.base))    # the fixture `server` has photos and faces
"""

from support import tiny_flux, tiny_withanyone
from support.server import PHOTOS
from support.siglip import siglip_file

SIZE = {"width": 128, "height": 96}
ADAPTER = "withanyone.safetensors"


def fill(base):
    """A server's base folder with everything that prompts here name."""
    models = base / "models"
    tiny_flux.write_models(models)
    tiny_withanyone.write_file(models / "withanyone" / ADAPTER)
    for k in range(1, 5):
        place = models / "dhumandiff" / "references" / f"person_{k}.safetensors"
        place.parent.mkdir(parents=True, exist_ok=True)
        tiny_withanyone.person(k).save(place)


def text_to_image():
    """Words alone, as FLUX is sampled everywhere."""
    clip_l, t5 = tiny_flux.FILES["text_encoders"]
    sampling = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    nodes = {
        "model": ("UNETLoader", {"unet_name": tiny_flux.FILES["diffusion_models"], "weight_dtype": "default"}),
        "clip": ("DualCLIPLoader", {"clip_name1": clip_l, "clip_name2": t5, "type": "flux"}),
        "vae": ("VAELoader", {"vae_name": tiny_flux.FILES["vae"]}),
        "text": ("CLIPTextEncode", {"clip": ["clip", 0], "text": "a man and a woman in a garden"}),
        "guidance": ("FluxGuidance", {"conditioning": ["text", 0], "guidance": 4.0}),
        "latent": ("EmptySD3LatentImage", {**SIZE, "batch_size": 1}),
        "sampler": (
            "KSampler",
            {
                "model": ["model", 0],
                "positive": ["guidance", 0],
                "negative": ["guidance", 0],
                "latent_image": ["latent", 0],
                **sampling,
            },
        ),
        "decode": ("VAEDecode", {"samples": ["sampler", 0], "vae": ["vae", 0]}),
        "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": "flux"}),
    }
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


def with_people(prompt, count):
    """The prompt with people of `fill` in boxes of Portrait Layout."""
    nodes = {
        "weights": ("DHDLoadWithAnyone", {"adapter_name": ADAPTER, "precision": "auto"}),
        "layout": ("DHDPortraitLayout", {"preset": "faces only", "people": count, "latent": ["latent", 0]}),
        "people": (
            "DHDApplyWithAnyone",
            {
                "model": ["model", 0],
                "withanyone": ["weights", 0],
                "form": 0.5,
                "strength": 1.0,
                "boxes": ["layout", 2],
                **{f"reference_{k}": [f"person_{k}", 0] for k in range(1, count + 1)},
            },
        ),
        **{f"person_{k}": ("DHDLoadReference", {"file_name": f"person_{k}"}) for k in range(1, count + 1)},
    }
    added = {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}
    sampler = {**prompt["sampler"], "inputs": {**prompt["sampler"]["inputs"], "model": ["people", 0]}}
    return {**prompt, **added, "sampler": sampler}


def with_photos(prompt, base):
    """The prompt of `with_people` with people who are encoded from photos, by SigLIP and the tests' small face models."""
    if not (tower := base / "models" / "clip_vision" / "siglip.safetensors").exists():
        siglip_file(tower)
    people = [key for key in prompt if key.startswith("person_")]
    nodes = {
        "faces": ("DHDLoadFaceAnalysis", {"pack": "mini", "provider": "CPU", "download": False}),
        "siglip": ("DHDLoadSigLIP", {"siglip_name": "siglip.safetensors"}),
        **{f"photo_{k}": ("LoadImage", {"image": photo}) for k, photo in enumerate(PHOTOS, 1)},
        **{key: ("TinyAsAntelopev2", {"reference": [f"encoded_{k}", 0]}) for k, key in enumerate(people, 1)},
        **{
            f"encoded_{k}": (
                "DHDEncodeReference",
                {
                    "image": [f"photo_{k}", 0],
                    "siglip_vision": ["siglip", 0],
                    "face_analysis": ["faces", 0],
                    "which": "largest",
                    "index": 0,
                    "normalise_light": False,
                    "name": "",
                },
            )
            for k in range(1, len(people) + 1)
        },
    }
    return {**prompt, **{key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}}
