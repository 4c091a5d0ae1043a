"""Parts2Whole (arXiv 2404.15267): face, hair, clothes and shoes of each person from pictures of their own.

p = Parts2Whole.from_pretrained("models/dhumandiff/Parts2Whole")
parts = [Part("face", latent, mask, label_embedding, image_embed), ...]
with p.attach(unet, parts, pose=pose_map):                       # a diffusers UNet
    noise = unet(x, t, encoder_hidden_states=text).sample        # x: [unconditional; conditional]
"""

from .model import Parts2Whole
from .part import LABELS, Part

__all__ = ["LABELS", "Part", "Parts2Whole"]
