"""Answers of the generation APIs: server-sent events as tokens come, or one JSON at the end."""

from __future__ import annotations

from typing import Final

import msgspec

from epp.sim.httpd import Exchange, chunk
from epp.sim.sequence import Sequence
from epp.sim.tokens import TOKEN_BYTES

_DONE: Final = chunk(b"data: [DONE]\n\n")
_NO_FINISH: Final = b"null"


def quoted(text: str) -> bytes:
    return msgspec.json.encode(text)


class Choice:
    """One sequence of an answer and how its chunks look. A token is four ASCII bytes, so the frame of a
    chunk is the same for every token but the last."""

    __slots__ = ("_after", "_before", "_frame", "index", "sequence", "text")

    def __init__(self, index: int, text: bytes, envelope: bytes, *, chat: bool) -> None:
        self.index = index
        self.text = text
        self.sequence: Sequence | None = None
        kind = b'"delta":{"content":"' if chat else b'"text":"'
        self._before = b'data: %b"choices":[{"index":%d,%b' % (envelope, index, kind)
        self._after = (b'"}' if chat else b'"') + b',"logprobs":null,"finish_reason":%b}]}\n\n'
        plain = self._after % _NO_FINISH
        size = len(self._before) + TOKEN_BYTES + len(plain)
        self._frame = (b"%x\r\n" % size + self._before, plain + b"\r\n")

    def token(self, number: int) -> bytes:
        """The chunk of token `number`, counted from 1."""
        before, after = self._frame
        end = number * TOKEN_BYTES
        return before + self.text[end - TOKEN_BYTES : end] + after

    def last(self, number: int, reason: str) -> bytes:
        end = number * TOKEN_BYTES
        after = self._after % quoted(reason)
        return chunk(self._before + self.text[end - TOKEN_BYTES : end] + after)


class Answer:
    """One request's way back, for one or more sequences."""

    __slots__ = (
        "_envelope", "_exchange", "_headers", "_include_usage", "_left", "break_after", "chat", "choices",
        "silently", "stream",
    )  # fmt: skip

    def __init__(
        self,
        exchange: Exchange,
        *,
        answer_id: str,
        model: str,
        created: int,
        headers: bytes,
        texts: list[bytes],
        chat: bool,
        stream: bool,
        include_usage: bool,
    ) -> None:
        self._exchange = exchange
        self._headers = headers
        self.chat = chat
        self.stream = stream
        self.break_after = 0
        """Break off after this many tokens; 0 for never."""
        self.silently = False
        """Breaking off leaves the connection open."""
        self._include_usage = include_usage
        kind = ("chat.completion" if chat else "text_completion") + (".chunk" if chat and stream else "")
        self._envelope = b'{"id":%b,"object":"%b","created":%d,"model":%b,' % (
            quoted(answer_id), kind.encode(), created, quoted(model),
        )  # fmt: skip
        self.choices = [Choice(i, text, self._envelope, chat=chat) for i, text in enumerate(texts)]
        self._left = len(texts)

    def begin(self) -> None:
        """The head of a streamed answer goes out before the first token, as vLLM's does."""
        if self.stream:
            self._exchange.start(200, b"content-type: text/event-stream; charset=utf-8\r\n" + self._headers)

    def token(self, choice: Choice, number: int) -> None:
        """A token that is not the last."""
        if not self.stream or 0 < self.break_after < number:
            return
        data = choice.token(number)
        if number == 1 and self.chat:
            data = self._role(choice) + data
        self._exchange.write(data)
        if number == self.break_after and not self.silently:
            self._exchange.cut()

    def finish(self, choice: Choice, number: int, reason: str) -> None:
        """The last token of one sequence; with the last of all, the end of the answer."""
        self._left -= 1
        if 0 < self.break_after < number:
            if not self.silently:
                self._exchange.cut()
            return
        if not self.stream:
            if not self._left:
                self._exchange.reply(
                    200, self._whole(), b"content-type: application/json\r\n" + self._headers
                )
            return
        data = choice.last(number, reason)
        if number == 1 and self.chat:
            data = self._role(choice) + data
        if self._left:
            self._exchange.write(data)
            return
        if self._include_usage:
            data += chunk(b'data: %b"choices":[],"usage":%b}\n\n' % (self._envelope, self._usage()))
        self._exchange.end(data + _DONE)

    def _role(self, choice: Choice) -> bytes:
        return chunk(
            b'data: %b"choices":[{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,'
            b'"finish_reason":null}]}\n\n' % (self._envelope, choice.index)
        )

    def _whole(self) -> bytes:
        parts = []
        for choice in self.choices:
            assert choice.sequence is not None
            ended = choice.sequence.ended
            assert ended is not None
            body = (
                b'"message":{"role":"assistant","content":"%b","tool_calls":[]}'
                if self.chat
                else b'"text":"%b"'
            ) % choice.text
            reason = quoted(ended.value)
            parts.append(b'{"index":%d,%b,"logprobs":null,"finish_reason":%b}' % (choice.index, body, reason))
        return b'%b"choices":[%b],"usage":%b}' % (self._envelope, b",".join(parts), self._usage())

    def _usage(self) -> bytes:
        prompt = completion = cached = 0
        for choice in self.choices:
            seq = choice.sequence
            assert seq is not None
            prompt += seq.work.prompt_tokens
            completion += seq.done_tokens
            cached += seq.cached_tokens
        return (
            b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,'
            b'"prompt_tokens_details":{"cached_tokens":%d}}'
            % (prompt, prompt + completion, completion, cached)
        )
