"""A chat model of the llama architecture, 1.5 MB, whose answers are known: a parrot, for tests.

Each token has a dimension of its own, and the output row of a token names the tokens that it follows; so an answer is a
chain of words. Three heads of attention look through the whole context, and note whether it has a trigger: " story"
gets a story without end, of words that the sampling draws, and " cat" another short answer. So an answer shows whether
the context was evaluated, kept and restored. What is typed is one token for each byte, but for the triggers. A third
one, the beginning of a tool call, which a template shows that tells of tools, is answered by itself; the server's
grammar makes the rest of the call.
"""

from __future__ import annotations

import re
from itertools import chain, cycle, islice, pairwise
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter, LlamaFileType, TokenType, bytes_to_unicode, quants

ANSWER = "Polly hears you. Zażółć gęślą jaźń, 你好 🙂"
CAT = "Meow."
STORY = "Once upon a time"  # how it begins
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

WIDTH, HEAD, HEADS, INNER, CONTEXT = 512, 64, 8, 32, 32768
NOTES = WIDTH - 3  # dimensions of the notes: the story's, the cat's, the call's
END, BEGIN, CALL = "<|im_end|>", "<|im_start|>", '<tool_call>\n{"name": "'
MERGES = ["s t", "st o", "sto r", "stor y", "Ġ story", "c a", "ca t", "Ġ cat"]
# What follows in a story: subjects and verbs by turns. At temperature 0 they come in this order, again and again.
PLOT = re.findall(
    r" (?:the )?\w+",
    " the keeper saw the sea loved the lamp feared the storm heard"
    " the gull followed the ship called the moon left the bell found",
)
GAIN = 2.0  # of a logit, for each unit of the normalised state
PREFERRED = 0.02  # part of the gain that the plot has before other words


def encode(text: str) -> str:
    """Return a text in GPT-2's letters, one for each byte."""
    return "".join(bytes_to_unicode()[byte] for byte in text.encode())


def words(text: str) -> list[str]:
    """Split an answer into tokens: words with the blank before them, and the bytes of an emoji."""
    tokens = (encode(word) for word in re.findall(r"🙂| ?[^ 🙂]*", text))
    return [part for token in tokens for part in (token if token == encode("🙂") else [token]) if part]


def vocabulary() -> list[str]:
    """Return the tokens in the order of their numbers."""
    typed = [*bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in MERGES), BEGIN, END, CALL]
    return [*typed, *(token for token in successions() if token not in typed)]


def story(tokens: int) -> str:
    """Return the first tokens of the story at temperature 0."""
    first = re.findall(r" ?\S+", STORY)
    return "".join(islice(chain(first, cycle(PLOT)), tokens))


def successions() -> dict[str, dict[str, float]]:
    """Return, for each token of the answers, after which tokens it comes, and how surely."""
    begins = encode("\n")  # the last token before an answer
    after: dict[str, dict[str, float]] = {}

    def follows(token: str, before: str, score: float = 1.0) -> None:
        after.setdefault(token, {})[before] = score

    for answer, first in ((words(ANSWER), 1.0), (words(CAT), 0.8), (words(STORY), 0.8)):
        follows(answer[0], begins, first)
        for before, token in pairwise(answer):
            follows(token, before)
    follows(CALL, begins, 0.8)
    for text in (ANSWER, CAT):
        follows(END, words(text)[-1])
    for index, part in enumerate(PLOT):
        if index % 2 == 0:
            follows(encode(part), words(STORY)[-1], 1 - PREFERRED * (index != 0))
        for other, before in enumerate(PLOT):
            if (index - other) % 2:
                follows(encode(part), encode(before), 1 - PREFERRED * (index != (other + 1) % len(PLOT)))
    return after


def tensors(number: dict[str, int]) -> dict[str, np.ndarray]:
    """Return the weights: a layer whose heads note the triggers; its feed-forward part adds nothing."""
    unit = 1 / np.sqrt(WIDTH)  # of a normalised state of one token
    known = min(len(number), NOTES)
    embedding = np.zeros((len(number), WIDTH))
    embedding[range(known), range(known)] = 1
    output = np.zeros((len(number), WIDTH))
    for token, before in successions().items():
        for other, score in before.items():
            output[number[token], number[other]] = GAIN * score
    # A cat, in the result of a call, is more than the tools that are told of as before.
    for note, (answer, score) in enumerate(((words(STORY)[0], 0.7), (words(CAT)[0], 0.7), (CALL, 0.5))):
        output[number[answer], NOTES + note] = GAIN * score
    for token in (END, *'{":}<'):  # in a call, rather than the blanks, or the further calls, that its grammar allows
        output[number[token], NOTES + 2] = GAIN * (0.6 if token == END else 0.1)
    query, key, value, out = (np.zeros((HEADS * HEAD, WIDTH)) for _ in range(4))
    slow, strength = HEAD - 2, 16.0  # a pair of dimensions that position hardly turns
    for note, trigger in enumerate(("Ġstory", "Ġcat", CALL)):
        head = note * HEAD
        query[head + slow, :known] = strength * unit
        key[head + slow, number[trigger]] = strength * unit
        value[head, number[trigger]] = unit
        out[NOTES + note, head] = 1
    layer = {
        **{"attn_q": query, "attn_k": key, "attn_v": value, "attn_output": out},
        **{"ffn_gate": np.zeros((INNER, WIDTH)), "ffn_up": np.zeros((INNER, WIDTH))},
        "ffn_down": np.zeros((WIDTH, INNER)),
    }
    return {
        "token_embd": embedding,
        **{f"blk.0.{name}": matrix for name, matrix in layer.items()},
        **dict.fromkeys(("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"), np.ones(WIDTH)),
        "output": output,
    }


def write(target: Path, *, fillers: int = 0) -> Path:
    """Write the model, the same bytes each time.

    With fillers, it has so many more tokens, which it never says; each adds 544 bytes to embeddings and to the output.
    """
    tokens = [*vocabulary(), *(f"filler{number}" for number in range(fillers))]
    writer = GGUFWriter(target, "llama")
    writer.add_name("Parrot")
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(2)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_dimension_count(HEAD)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    kinds = {BEGIN: TokenType.CONTROL, END: TokenType.CONTROL, CALL: TokenType.USER_DEFINED}
    writer.add_token_types([kinds.get(token, TokenType.NORMAL) for token in tokens])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(tokens.index(BEGIN))
    writer.add_eos_token_id(tokens.index(END))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, matrix in tensors({token: index for index, token in enumerate(tokens)}).items():
        floats = matrix.astype(np.float32)
        if matrix.ndim == 1:
            writer.add_tensor(f"{name}.weight", floats)
        else:
            writer.add_tensor(f"{name}.weight", quants.quantize(floats, Kind.Q8_0), raw_dtype=Kind.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
