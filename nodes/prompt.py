"""Subject-augmented prompting: a sentence in which words are people; and many sentences, one a line."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..dhumandiff.layout.person_style import PERSON_COLORS, PERSON_DASHES
from ..dhumandiff.layout.presets import MOST_PEOPLE
from ..dhumandiff.prompts import describe_tokens, parse_prompt, split_sentences
from ..dhumandiff.references.recognizers import recognizer_warnings
from .comfy.encoders import encode_subject_prompt, token_words
from .comfy.schema import ADVANCED, AdapterType, ReferenceType, check_choice, schema, tell
from .people import references_in_order

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

    from ..dhumandiff.references import FaceReference

MENTIONS = ("first", "all")


class DHDSubjectPrompt(io.ComfyNode):
    """Text with marked words -> CONDITIONING in which those words carry the faces."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        sentence = io.String.Input(
            "text",
            multiline=True,
            dynamic_prompts=True,
            default="A man@1 and a woman@2 on a bench in a garden. The man@1 wears a black tuxedo, the woman@2 a white dress",
            tooltip="The sentence. @1, @2 and so on behind a word say who it is; \\@ is a plain @.",
        )
        # For web/who_is_who.js, so that nothing is written down twice.
        sentence.extra_dict = {
            "person_style": {"colors": PERSON_COLORS[:MOST_PEOPLE], "dashes": PERSON_DASHES[:MOST_PEOPLE]}
        }
        return schema(
            node_id="DHDSubjectPrompt",
            display_name="Encode Subject-Augmented Prompt",
            description="Write word@1, word@2 and so on up to 4 where a word names a person: "
            '"A man@1 and a woman@2 on a bench". Without marks the first person nouns are taken in order. '
            "Weights (man@1:1.2), embeddings and long prompts work as in CLIP Text Encode. Where a word carries a face, "
            "CLIP-L is read at its last layer, as the weights were trained; CLIP Set Last Layer then moves CLIP-G only.",
            search_aliases=["prompt", "text encode", "clip", "who is who", "subject", "dhumandiff"],
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of an SDXL checkpoint."),
                AdapterType.Input("adapter", tooltip="From Load DHumanDiff Adapter."),
                ReferenceType.Input("reference_1", tooltip="Person 1: @1 in the text."),
                ReferenceType.Input("reference_2", optional=True, tooltip="Person 2: @2 in the text."),
                sentence,
                io.Combo.Input(
                    "mentions",
                    options=list(MENTIONS),
                    default="first",
                    tooltip="Which words carry a face: the first mention of each person, as the weights were trained, or all.",
                    **ADVANCED,
                ),
                ReferenceType.Input("reference_3", optional=True, tooltip="Person 3: @3 in the text."),
                ReferenceType.Input("reference_4", optional=True, tooltip="Person 4: @4 in the text."),
            ],
            outputs=[
                io.Conditioning.Output("conditioning", tooltip="For the positive input of a sampler."),
                io.String.Output("bound_words", tooltip="Which words and tokens were bound to whom."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        clip: CLIP,
        adapter: ModelPatcher,
        reference_1: FaceReference,
        text: str,
        mentions: str,
        reference_2: FaceReference | None = None,
        reference_3: FaceReference | None = None,
        reference_4: FaceReference | None = None,
    ) -> io.NodeOutput:
        mentions = check_choice("mentions", mentions, MENTIONS)
        references = references_in_order(reference_1, reference_2, reference_3, reference_4)
        all_mentions = parse_prompt(text, persons=len(references), mentions="all")
        prompt = all_mentions if mentions == "all" else all_mentions.first_mentions()
        notes = [
            *prompt.notes(len(references)),
            *_more_than_trained(adapter, len(references)),
            *recognizer_warnings(references, adapter.model.info.recognizer),
        ]
        if notes:
            tell(cls, " ".join(notes))
        conditioning, tokens = encode_subject_prompt(clip, adapter, references, prompt)
        bound_words = describe_tokens(prompt, tokens, token_words(clip, prompt.text))
        # For the page: words that name a person and carry no face are shown, too.
        spans = [asdict(span) for span in prompt.spans(all_mentions.mentions)]
        return io.NodeOutput(conditioning, bound_words, ui={"who_is_who": [spans]})


def _more_than_trained(adapter: ModelPatcher, persons: int) -> list[str]:
    """What somebody should know who names more people than the weights have seen in one sentence."""
    info = adapter.model.info
    if info.shared or persons <= info.persons:
        return []
    return [
        f"These weights were trained with {info.persons} people: the words of {persons} are mapped alike, which nobody has measured, "
        f"and Apply Disparity-Aware Conditioning takes {info.persons} with them."
    ]


class DHDSentences(io.ComfyNode):
    """Lines of text -> a list of sentences, for each of which everything behind it runs once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        shared = {"default": "", "optional": True}
        return schema(
            node_id="DHDSentences",
            display_name="Sentences",
            description="One sentence a line. Everything behind this node runs once for each of them: ten sentences are ten "
            "pictures, or ten batches. Empty lines and lines that begin with # are left out.",
            search_aliases=[
                "list",
                "lines",
                "prompts",
                "batch of prompts",
                "text list",
                "several sentences",
                "dhumandiff",
            ],
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="A man@1 and a woman@2 on a bench in a garden\nA man@1 and a woman@2 on a beach at sunset",
                    tooltip="The sentences, one a line. A # in front of a line leaves it out.",
                ),
                io.String.Input(
                    "before",
                    **shared,
                    tooltip="Put in front of every sentence: what all pictures share, such as a style.",
                ),
                io.String.Input(
                    "after",
                    **shared,
                    tooltip="Put behind every sentence: what all pictures share, such as clothes or light.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "sentences",
                    is_output_list=True,
                    tooltip="For the text of Encode Subject-Augmented Prompt, Pick Best Portrait and Score Identity.",
                )
            ],
        )

    @classmethod
    def execute(cls, text: str, before: str = "", after: str = "") -> io.NodeOutput:
        return io.NodeOutput(split_sentences(text, before, after))
