"""ComfyUI's options for little memory: the shipped workflow still ends in a picture, the same one where no number is rounded.

ComfyUI takes --lowvram and --novram only without --cpu, so they cannot be tried without a card; --cpu-vae only shows that nothing of
the pack minds it. fp8 weights are stored as such. Full size: test_full_size.py.
"""

import json

import numpy as np
import pytest
from PIL import Image
from support.comfyui import REPOSITORY
from support.server import Server, add_faces, api_form, node_of, on_the_tiny_base
from support.twins import fill_shipped

pytestmark = [pytest.mark.slow, pytest.mark.faces]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, faces_root):
    """Draw the workflow on a server with these options; uint8 [H, W, 3]."""
    known = {}

    def draw(*flags):
        if flags not in known:
            base = tmp_path_factory.mktemp("comfyui")
            fill_shipped(base)
            server = Server(base, *flags)
            add_faces(base, faces_root)
            try:
                server.wait()
                prompt = on_the_tiny_base(
                    api_form(json.loads((REPOSITORY / "workflows" / "dual_portrait.json").read_text()))
                )
                result = server.run(prompt)
                assert result["error"] is None, result["error"]
                saved = result["outputs"][node_of(prompt, "SaveImage")]["images"][0]
                known[flags] = np.asarray(Image.open(base / "output" / saved["filename"]).convert("RGB"))
            finally:
                server.stop()
        return known[flags]

    return draw


def test_with_the_vae_on_the_cpu_the_picture_is_the_same_to_the_bit(drawn):
    assert np.array_equal(drawn("--cpu-vae"), drawn())


def test_weights_stored_in_fp8_draw_nearly_the_same(drawn):
    difference = np.abs(drawn("--fp8_e4m3fn-unet", "--fp8_e4m3fn-text-enc").astype(int) - drawn().astype(int))
    assert 0 < difference.mean() < 40
