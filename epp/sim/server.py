"""One simulated model server: the HTTP API of vLLM over one engine in real time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from epp.sim.answer import Answer, Choice
from epp.sim.engine import Engine
from epp.sim.exposition import CONTENT_TYPE, Exposition
from epp.sim.faults import Faults
from epp.sim.httpd import JSON_TYPE, Exchange, Incoming
from epp.sim.openai import Ask, Bodies
from epp.sim.profile import Profile
from epp.sim.realtime import RealTime
from epp.sim.sequence import Finish, Rejected, Sequence, Work
from epp.sim.step import Step
from epp.sim.tokens import TOKEN_BYTES, Speech, chain_all, count, root_of

VERSION: Final = "0.11.0"
"""The vLLM version whose behaviour is imitated; shown at /version."""
MODEL: Final = "meta-llama/Llama-3.1-8B-Instruct"
MAX_ADAPTERS: Final = 1024
MAX_REQUEST_ID: Final = 256
_TEXT: Final = b"content-type: text/plain; charset=utf-8\r\n"
_ERROR_TYPES: Final = {
    400: "BadRequestError",
    404: "NotFoundError",
    405: "MethodNotAllowed",
    429: "TooManyRequests",
    500: "InternalServerError",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the servers of one process have in common."""

    profile: Profile
    model: str = MODEL
    """As served; also in metrics."""
    loras: tuple[str, ...] = ()
    max_loras: int = 1
    max_waiting: int = 1000
    seed: int = 0
    """Of step times and faults; an engine adds its number. Answers depend on seed and prompt alone."""
    speed: float = 1.0
    namespace: str = "default"


class ModelServer:
    """Engine, API and faults. Listens nowhere by itself; see epp.sim.fleet."""

    def __init__(
        self, settings: Settings, number: int, name: str, port: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.settings = settings
        self.name = name
        self.faults = Faults()
        self.loras: dict[str, str] = dict.fromkeys(settings.loras, "")
        """Adapter to its path."""
        self._number = number
        self._loop = loop
        self._bodies = Bodies()
        self._speech = Speech(settings.seed)
        self._rng = random.Random(settings.seed * 1_000_003 + number)
        self.bound(port)
        self._started = int(time.time())
        self._routes: Mapping[tuple[str, str], Callable[[Incoming, Exchange], None]] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._completion,
            ("GET", "/v1/models"): self._models,
            ("POST", "/tokenize"): self._tokenize,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/health"): self._healthy,
            ("GET", "/ping"): self._healthy,
            ("GET", "/version"): self._version,
            ("POST", "/v1/load_lora_adapter"): self._load_lora,
            ("POST", "/v1/unload_lora_adapter"): self._unload_lora,
            ("POST", "/reset_prefix_cache"): self._reset_cache,
        }
        self._paths = {path for _, path in self._routes}
        self.reset()

    def reset(self) -> None:
        """A fresh process: empty cache, counters at zero."""
        s = self.settings
        self.engine = Engine(
            s.profile,
            name=self.name,
            seed=s.seed + self._number,
            max_loras=s.max_loras,
            max_waiting=s.max_waiting,
        )
        self.engine.slow = self.faults.slow
        self.exposition = Exposition(self.engine, s.model)
        self._answers: dict[Sequence, tuple[Answer, Choice]] = {}
        self.clock = RealTime(self.engine, self._stepped, self._loop, speed=s.speed)

    def bound(self, port: int) -> None:
        """The port that it listens on, and that its answers name."""
        self.port = port
        self._identity = (
            f"x-inference-pod: {self.name}\r\nx-inference-port: {port}\r\n"
            f"x-inference-namespace: {self.settings.namespace}\r\n"
        ).encode()

    def set_faults(self, faults: Faults) -> None:
        """All but `dead`, which the fleet sees to."""
        self.faults = faults
        self.engine.slow = faults.slow

    # Requests

    def handle(self, incoming: Incoming, exchange: Exchange) -> None:
        route = self._routes.get((incoming.method, incoming.path))
        if route is None:
            known = incoming.path in self._paths
            self._fail(exchange, 405 if known else 404, "Method Not Allowed" if known else "Not Found")
            return
        try:
            route(incoming, exchange)
        except Rejected as rejected:
            self._fail(exchange, rejected.status, rejected.message, rejected.param)

    def _chat(self, incoming: Incoming, exchange: Exchange) -> None:
        self._generate(incoming, exchange, self._bodies.chat)

    def _completion(self, incoming: Incoming, exchange: Exchange) -> None:
        self._generate(incoming, exchange, self._bodies.completion)

    def _generate(self, incoming: Incoming, exchange: Exchange, read: Callable[[bytes], Ask]) -> None:
        faults, rng = self.faults, self._rng
        if faults.error_rate and rng.random() < faults.error_rate:
            raise Rejected(500, "Injected fault.")
        if faults.hang_rate and rng.random() < faults.hang_rate:
            return
        ask = read(incoming.body)
        lora = self._adapter(ask.model)
        request_id = incoming.headers.get(b"x-request-id", b"")[:MAX_REQUEST_ID].decode("latin-1")
        if not request_id:
            request_id = f"{rng.getrandbits(128):032x}"
        works = [
            self._work(ask, prompt, f"{request_id}-{i}" if i else request_id, lora)
            for i, prompt in enumerate(ask.prompts)
        ]
        answer = Answer(
            exchange,
            answer_id=("chatcmpl-" if ask.chat else "cmpl-") + request_id,
            model=ask.model or self.settings.model,
            created=int(time.time()),
            headers=self._identity + b"x-request-id: %b\r\n" % request_id.encode("latin-1"),
            texts=[work.answer for work in works],
            chat=ask.chat,
            stream=ask.stream,
            include_usage=ask.include_usage,
        )
        sequences = self.clock.add_all(works)
        for seq, choice in zip(sequences, answer.choices, strict=True):
            choice.sequence = seq
            self._answers[seq] = (answer, choice)
        if faults.drop_rate and rng.random() < faults.drop_rate:
            answer.break_after = faults.drop_after
        elif faults.stall_rate and rng.random() < faults.stall_rate:
            answer.break_after = faults.drop_after
            answer.silently = True
        exchange.on_gone = lambda: self._abort(sequences)
        answer.begin()

    def _work(self, ask: Ask, prompt: bytes, work_id: str, lora: str) -> Work:
        profile = self.settings.profile
        tokens = count(prompt)
        self.engine.check(tokens, ask.max_tokens or 1)
        room = profile.max_model_len - tokens
        limit = room if ask.max_tokens is None else ask.max_tokens
        finish = Finish.LENGTH
        output = limit
        if not ask.ignore_eos:
            natural = max(self._speech.natural_length(prompt), ask.min_tokens)
            if natural <= limit:
                output, finish = natural, Finish.STOP
        size = profile.block_tokens
        return Work(
            id=work_id,
            prompt_tokens=tokens,
            output_tokens=output,
            blocks=chain_all(prompt, size, root_of(lora, ask.cache_salt)),
            tail=prompt[tokens // size * size * TOKEN_BYTES :],
            answer=self._speech.answer(prompt, output),
            lora=lora,
            finish=finish,
            max_tokens=ask.max_tokens,
        )

    def _adapter(self, model: str | None) -> str:
        """The adapter that a model name means, empty for the model itself."""
        if model is None or model == self.settings.model:
            return ""
        if model in self.loras:
            return model
        raise Rejected(404, f"The model `{model}` does not exist.", "model")

    def _abort(self, sequences: list[Sequence]) -> None:
        for seq in sequences:
            if self._answers.pop(seq, None) is not None:
                self.clock.abort(seq)
                self.exposition.aborted()

    # Tokens

    def _stepped(self, step: Step) -> None:
        self.exposition.step(step)
        answers = self._answers
        generated = self.engine.generated
        for seq in step.tokens:
            found = answers.get(seq)
            if found is None:
                continue  # its client left while this step was under way
            answer, choice = found
            if seq.ended is not None:
                del answers[seq]
                answer.finish(choice, seq.done_tokens, seq.ended.value)
            elif answer.stream:
                answer.token(choice, generated(seq))

    # The rest of the API

    def _models(self, incoming: Incoming, exchange: Exchange) -> None:
        s = self.settings

        def entry(name: str, root: str, parent: str | None) -> dict[str, object]:
            return {
                "id": name, "object": "model", "created": self._started, "owned_by": "vllm", "root": root,
                "parent": parent, "max_model_len": s.profile.max_model_len if parent is None else None,
            }  # fmt: skip

        models = [entry(s.model, s.model, None)]
        models += [entry(lora, path or lora, s.model) for lora, path in self.loras.items()]
        self._json(exchange, {"object": "list", "data": models})

    def _tokenize(self, incoming: Incoming, exchange: Exchange) -> None:
        packed = self._bodies.tokenize(incoming.body)
        ids = list(memoryview(packed).cast("I"))
        limit = self.settings.profile.max_model_len
        self._json(exchange, {"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": None})

    def _metrics(self, incoming: Incoming, exchange: Exchange) -> None:
        if not self.faults.stall_metrics:
            exchange.reply(200, self.exposition.render(time.time(), self.faults.lies), CONTENT_TYPE)

    def _healthy(self, incoming: Incoming, exchange: Exchange) -> None:
        exchange.reply(200, b"", self._identity)

    def _version(self, incoming: Incoming, exchange: Exchange) -> None:
        self._json(exchange, {"version": VERSION})

    def _load_lora(self, incoming: Incoming, exchange: Exchange) -> None:
        body = self._bodies.lora(incoming.body)
        if not body.lora_name or not body.lora_path:
            raise Rejected(400, "Both 'lora_name' and 'lora_path' must be provided.")
        if body.lora_name in self.loras or body.lora_name == self.settings.model:
            raise Rejected(400, f"The lora adapter '{body.lora_name}' has already been loaded.")
        if len(self.loras) >= MAX_ADAPTERS:
            raise Rejected(400, f"No more than {MAX_ADAPTERS} adapters.")
        self.loras[body.lora_name] = body.lora_path
        exchange.reply(200, f"Success: LoRA adapter '{body.lora_name}' added successfully.".encode(), _TEXT)

    def _unload_lora(self, incoming: Incoming, exchange: Exchange) -> None:
        body = self._bodies.lora(incoming.body)
        if body.lora_name not in self.loras:
            raise Rejected(404, f"The lora adapter '{body.lora_name}' cannot be found.")
        del self.loras[body.lora_name]
        exchange.reply(200, f"Success: LoRA adapter '{body.lora_name}' removed successfully.".encode(), _TEXT)

    def _reset_cache(self, incoming: Incoming, exchange: Exchange) -> None:
        self.engine.kv.clear()
        exchange.reply(200, b"", self._identity)

    def _json(self, exchange: Exchange, value: object) -> None:
        exchange.reply(200, msgspec.json.encode(value), JSON_TYPE + self._identity)

    def _fail(self, exchange: Exchange, status: int, message: str, param: str | None = None) -> None:
        error = {"message": message, "type": _ERROR_TYPES[status], "param": param, "code": status}
        exchange.reply(status, msgspec.json.encode({"error": error}), JSON_TYPE + self._identity)
