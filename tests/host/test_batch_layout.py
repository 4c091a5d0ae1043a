"""How a batch is made up is known, not assumed: windows, caches, wrappers, regions and compilers of other nodes."""

import pytest
from comfy_extras.nodes_easycache import EasyCacheNode
from dhd_pack.dhumandiff.methods.paired import cascade_modes
from dhd_pack.dhumandiff.methods.paired.settings import CascadeSettings
from dhd_pack.nodes.comfy.guider import CascadeGuider
from dhd_pack.nodes.comfy.patch import apply_people
from support import tiny_comfy
from support.sampling import sample

POSITIVE, NEGATIVE = tiny_comfy.conditioning(1), tiny_comfy.conditioning(2)


@pytest.fixture(scope="module")
def paired(model, adapter, people):
    return apply_people(model, adapter, people)


def cascade(model, mode, scene=0.2, share=0.1):
    made = CascadeGuider(model)
    made.set_cascade(CascadeSettings(mode, scene, 1.0, share))
    made.set_conds(POSITIVE, NEGATIVE)
    made.set_cfg(5.0)
    return made


# --- caches that keep something for each id of a conditioning ---------------------------------------------------------


@pytest.mark.parametrize("mode", ["two_strength", "released"])
def test_a_cache_keeps_the_predictions_of_both_strengths_apart(paired, mode, monkeypatch):
    cached = EasyCacheNode.execute(paired, 0.2, 0.15, 0.95, False).result[0]
    apart, blend = [], cascade_modes.blend

    def looked_at(scene, face, mask):
        apart.append(float((scene - face).abs().max()))
        return blend(scene, face, mask)

    monkeypatch.setattr(cascade_modes, "blend", looked_at)
    sample(cascade(cached, mode), (1, 4, 16, 16), steps=12)
    assert apart
    assert min(apart) > 0
