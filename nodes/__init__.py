"""The nodes: thin classes over ``dhumandiff/``; the files in ``comfy/`` are the ones that know ComfyUI's insides."""

from .adapter import DHDLoadAdapter
from .comfy.inputs import check_inputs
from .conditioning import DHDApplyPair
from .doctor import DHDDoctor
from .dual_pathway import DHDApplyDualPathway
from .layout import DHDPortraitLayout
from .miniature import DHDDrawPerson, DHDLoadMiniature
from .parts import DHDApplyParts, DHDEncodePart, DHDLoadParts2Whole
from .prompt import DHDSentences, DHDSubjectPrompt
from .references import (
    DHDEncodeReference,
    DHDLoadFaceAnalysis,
    DHDLoadReference,
    DHDLoadSigLIP,
    DHDSaveReference,
    DHDSwapPersons,
)
from .sampling import DHDCascadeGuider, DHDCascadeKSampler
from .scoring import DHDFaceMasks, DHDIdentityScore, DHDPickBest
from .withanyone import DHDApplyWithAnyone, DHDLoadWithAnyone

NODES = [
    DHDLoadAdapter,
    DHDLoadFaceAnalysis,
    DHDEncodeReference,
    DHDSaveReference,
    DHDLoadReference,
    DHDSwapPersons,
    DHDPortraitLayout,
    DHDApplyPair,
    DHDSubjectPrompt,
    DHDSentences,
    DHDCascadeGuider,
    DHDCascadeKSampler,
    DHDIdentityScore,
    DHDPickBest,
    DHDFaceMasks,
    DHDLoadMiniature,
    DHDDrawPerson,
    DHDDoctor,
    DHDLoadSigLIP,
    DHDLoadWithAnyone,
    DHDApplyWithAnyone,
    DHDLoadParts2Whole,
    DHDEncodePart,
    DHDApplyParts,
    DHDApplyDualPathway,
]

for _node in NODES:
    check_inputs(_node)
