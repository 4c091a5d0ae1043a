"""A sentence -> who is which word, token spans, weights.

Pure text: no torch, and no tokenizer of its own.

    prompt = parse_prompt("A man@1 and a woman@2 on a bench. The man@1 wears a tuxedo.")
    tokens = locate_tokens(prompt, tokenize)     # tokenize: the host's own, text -> flat list of tokens
    print(describe_tokens(prompt, tokens))
"""

from .describe import describe_tokens
from .locate import SubjectToken, locate_tokens
from .parse import parse_prompt, split_sentences, try_parse_prompt
from .prompt import Mention, Prompt, Span
from .weights import split_weights

__all__ = [
    "Mention",
    "Prompt",
    "Span",
    "SubjectToken",
    "describe_tokens",
    "locate_tokens",
    "parse_prompt",
    "split_sentences",
    "split_weights",
    "try_parse_prompt",
]
