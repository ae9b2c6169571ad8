"""A parsed request: everything that admission, scheduling and accounting may look at.

None of these values can be part of a cycle, and thousands are alive: the garbage collector passes them by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, StrEnum, auto
from typing import TypeAlias

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Body: TypeAlias = bytes | memoryview
"""A request's body. The native transport shows long ones instead of copying them."""


class Api(StrEnum):
    """Which wire format the body has; `usage` in its answers is read accordingly."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    CONVERSATIONS = "conversations"
    EMBEDDINGS = "embeddings"
    IMAGES = "images"
    RERANK = "rerank"
    AUDIO = "audio"
    ANTHROPIC = "anthropic"
    VLLM = "vllm"
    SGLANG = "sglang"
    VLLM_GRPC = "vllm-grpc"
    OPAQUE = "opaque"
    """Nothing of the body is known (passthrough, bodiless requests)."""


class AnswerView(Enum):
    """Whether the gateway sends us the answer's body."""

    ALWAYS = auto()
    CHOICE = auto()
    """Unless we tell it, with the answer's headers, that it need not."""
    NEVER = auto()


class RequestHead(Struct, frozen=True, gc=False):
    """What is known when the headers have come. Names are lower case; of repeated ones the last counts."""

    headers: Mapping[str, str]
    method: str
    path: str
    """Without the query."""
    request_id: str
    received_at: float
    """Monotonic seconds."""
    has_body: bool = True
    subset: tuple[str, ...] | None = None
    """Endpoints (ip or ip:port) that the gateway allows; None when it did not say."""
    answer_view: AnswerView = AnswerView.ALWAYS
    model_optional: bool = False
    """A rule gives a model to requests that name none."""
    authority: str = ""
    """The host, with a port or without, that the gateway's own call to us names, in lower case: one picker
    behind several Services is told by it which one was meant. Empty where the transport cannot see it."""
    pool: str = ""
    """The pool that the gateway says the stream is for, outside of what clients can write; empty for none."""


class Prompt(Struct, frozen=True, gc=False):
    """One prompt to be prefilled: flattened text as UTF-8, or token ids. Exactly one of the two is set.

    Text counts as one token for every 4 bytes (the reference's estimate).
    """

    text: bytes = b""
    tokens: NDArray[np.uint32] | None = None

    @property
    def length(self) -> int:
        """Tokens; an estimate for text."""
        return len(self.tokens) if self.tokens is not None else (len(self.text) + 3) // 4


class Scanned(Struct, frozen=True, gc=False):
    """What the native transport found in a long body of a plain shape while it came in."""

    chain: bytes
    """Block hashes of the prompt's flattened text, as epp.parsing.blocks makes them."""
    text_bytes: int
    """Length of that text."""
    block_bytes: int
    max_blocks: int
    rest: bytes
    """The body with an empty value in place of the messages or the prompt."""
    start: int
    """Where that value stands in the body."""
    removed_bytes: int


class ScannedPrompt:
    """A Prompt whose text was hashed while it came in, and is made again only for who asks for it."""

    __slots__ = ("_scanned", "_text")
    tokens: None = None

    def __init__(self, scanned: Scanned, text: Callable[[], bytes]) -> None:
        self._scanned = scanned
        self._text = text

    @property
    def text(self) -> bytes:
        return self._text()

    @property
    def length(self) -> int:
        return (self._scanned.text_bytes + 3) // 4

    def chain(self, block_bytes: int, max_blocks: int) -> bytes | None:
        """As epp.parsing.blocks has it; None where the text was hashed in other blocks, or not far enough."""
        scanned = self._scanned
        if block_bytes != scanned.block_bytes:
            return None
        if max_blocks > scanned.max_blocks and len(scanned.chain) >= 8 * scanned.max_blocks:
            return None
        return scanned.chain[: 8 * max_blocks]


AnyPrompt: TypeAlias = Prompt | ScannedPrompt


class Request(Struct, gc=False):
    """One request after parsing. The director fills target_model, rewrite, priority and fairness_id."""

    head: RequestHead
    api: Api
    model: str
    """As the client named it; empty where the API has none."""
    target_model: str
    """After a rewrite; equal to `model` without one."""
    size_bytes: int
    stream: bool = False
    prompts: tuple[AnyPrompt, ...] = ()
    cache_salt: str = ""
    max_output_tokens: int | None = None
    previous_response_id: str = ""
    """A `/v1/responses` id that this request continues, reads or deletes."""
    skip_response: bool = False
    """The answer is of no interest (count_tokens and the like)."""
    model_span: tuple[int, int] | None = None
    """Bytes [start, end) of the model's JSON string in the body, quotes included."""
    rewrite: str = ""
    """Name of the rewrite whose rule decided `target_model`; empty where none did."""
    priority: int = 0
    fairness_id: str = "default-flow"
    input_tokens: int = 0
    """Sum over prompts; an estimate for text. Computed, whatever is given."""

    def __post_init__(self) -> None:
        tokens = 0
        for prompt in self.prompts:
            tokens += prompt.length
        self.input_tokens = tokens

    @property
    def id(self) -> str:
        return self.head.request_id

    @property
    def headers(self) -> Mapping[str, str]:
        return self.head.headers


class Usage(Struct, frozen=True, gc=False):
    """Token counts that the engine reported in its answer. None: not reported."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
