"""The simulated engine: continuous batching over a paged KV cache. No I/O, no clock of its own.

Whoever drives it (epp.sim.clock, epp.sim.realtime) calls `add` and `abort` when they happen and `advance`
whenever `due` has come. One step at a time is in flight; its batch is fixed when it begins and its
results appear when it ends, as in vLLM's scheduler (V1):

- every decoding sequence takes one token of the step's budget, then running prefills go on, then waiting
  requests are admitted in order, each with as large a chunk of its prompt as the budget still allows;
- a request finds the longest cached prefix of full blocks, but always computes its last token;
- when blocks run out, the sequence that was admitted last gives all of its blocks back and goes to the
  front of the queue, to be computed again;
- a request whose adapter does not fit into the LoRA slots is passed over until one is free.

A step costs time by its size and microseconds to simulate: decoding sequences are counted, not visited,
and come up only when they need a block or end.
"""

from __future__ import annotations

import math
import random
from collections import deque

from epp.sim.adapters import Adapters
from epp.sim.kvcache import KvCache
from epp.sim.profile import Profile
from epp.sim.sequence import Finish, Phase, Rejected, Sequence, Work
from epp.sim.step import Batch, Counters, Step

NEVER = math.inf


class Engine:
    """One model server's engine. Times in seconds, on any axis that the driver keeps to."""

    def __init__(
        self,
        profile: Profile,
        *,
        name: str = "engine",
        seed: int = 0,
        max_loras: int = 1,
        max_waiting: int = 1000,
    ) -> None:
        if profile.kv_blocks * profile.block_tokens < profile.max_model_len:
            raise ValueError(
                f"the KV cache ({profile.kv_blocks} blocks of {profile.block_tokens} tokens) "
                f"is smaller than one request may be (max_model_len {profile.max_model_len})"
            )
        if profile.max_num_batched_tokens < profile.max_num_seqs:
            raise ValueError("max_num_batched_tokens is below max_num_seqs")
        self.profile = profile
        self.name = name
        self.max_waiting = max_waiting
        self.slow = 1.0
        """Factor on the time of every step."""
        self.kv = KvCache(profile.kv_blocks)
        self.counters = Counters()
        self.due: float = NEVER
        """When `advance` must be called next; inf while there is nothing to do."""
        self.adapters = Adapters(max_loras)
        self._rng = random.Random(seed)
        self._arrivals = 0
        self._step = 0
        self._batch: Batch | None = None
        self._intake: deque[Sequence] = deque()
        """Not ready yet: still with the HTTP server and the tokeniser."""
        self._waiting: deque[Sequence] = deque()
        self._running: dict[Sequence, None] = {}
        """Admission order; the last one is preempted first."""
        self._prefilling: dict[Sequence, None] = {}
        self._decoding: dict[Sequence, None] = {}
        self._context = 0
        """KV tokens of all decoding sequences, as of the last begun step."""
        self._need_block: dict[int, list[Sequence]] = {}
        self._finish: dict[int, list[Sequence]] = {}

    # What it shows

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Ready and not in the batch, as of the last step's begin."""
        return len(self._waiting)

    @property
    def unfinished(self) -> int:
        """All that it has taken and not ended."""
        return len(self._running) + len(self._waiting) + len(self._intake)

    @property
    def context_tokens(self) -> int:
        """KV tokens that the decoding sequences attend to, the step in flight included."""
        return self._context

    def generated(self, seq: Sequence) -> int:
        """Tokens that a sequence has produced."""
        if seq.phase is Phase.DECODE:
            return seq.done_tokens + self._step - seq.start_step
        return seq.done_tokens

    # What happens to it

    def check(self, prompt_tokens: int, output_tokens: int) -> None:
        """Raises Rejected as `add` would."""
        limit = self.profile.max_model_len
        if prompt_tokens + output_tokens > limit:
            raise Rejected(
                400,
                f"This model's maximum context length is {limit} tokens. The request has "
                f"{prompt_tokens} prompt tokens and asks for {output_tokens} output tokens.",
            )
        if len(self._waiting) + len(self._intake) >= self.max_waiting:
            raise Rejected(429, f"The waiting queue is full ({self.max_waiting} requests).")

    def add(self, work: Work, now: float) -> Sequence:
        """Takes a request. Raises Rejected when it is too long or the queue is full."""
        if work.prompt_tokens < 1 or work.output_tokens < 1:
            raise Rejected(400, "The prompt and the answer need at least one token each.")
        self.check(work.prompt_tokens, work.output_tokens)
        seq = Sequence(work, self._arrivals, now, now + self.profile.intake_s)
        self._arrivals += 1
        self._intake.append(seq)
        self.adapters.wait(work.lora)
        if self._batch is None:
            self._begin(now)
        return seq

    def abort(self, seq: Sequence, now: float) -> None:
        """The client is gone: frees what the sequence holds. A no-op for one that has ended."""
        if seq.phase is Phase.DONE:
            return
        seq.done_tokens = self.generated(seq)
        if seq.phase is Phase.WAITING:
            (self._intake if seq in self._intake else self._waiting).remove(seq)
            self.adapters.go(seq.work.lora)
        else:
            if seq.phase is Phase.DECODE and self._batch is not None:
                self._context -= 1  # counted when the step in flight began
            self._leave(seq, self._step)
        seq.phase = Phase.DONE
        seq.ended = Finish.ABORT
        seq.finished_at = now
        if self._batch is None:
            self._begin(now)

    def advance(self) -> Step:
        """At `due`: ends the step in flight and begins the next one. Only when `due` is finite."""
        now = self.due
        batch = self._batch
        result = self._end(batch, now) if batch is not None else Step(now, now)
        self._begin(now)
        return result

    # A step

    def _begin(self, now: float) -> None:
        self._batch = None
        batch = Batch(now)
        intake = self._intake
        while intake and intake[0].ready_at <= now:
            self._waiting.append(intake.popleft())
        preempted = self._grow_decodes()
        batch.decodes = len(self._decoding)
        budget = self.profile.max_num_batched_tokens - batch.decodes
        for seq in list(self._prefilling):
            if budget <= 0:
                break
            if seq.phase is not Phase.PREFILL:
                continue  # preempted for the sake of an earlier one
            chunk = min(seq.target - seq.computed, budget)
            if not self._make_room(seq, self._blocks_needed(seq, chunk)):
                preempted = True
                break
            self._chunk(batch, seq, chunk)
            budget -= chunk
        if not preempted and self._waiting:
            self._admit(batch, budget, now)
        if not batch.prefills and not self._decoding:
            self.due = intake[0].ready_at if intake else NEVER
            return
        batch.decodes = len(self._decoding)
        p = self.profile
        self._context += batch.decodes
        took = (
            p.step_s
            + p.prefill_token_s * batch.prefill_tokens
            + p.decode_s * batch.decodes
            + p.context_token_s * self._context
        ) * self.slow
        if p.jitter:
            took *= min(1.7, max(0.3, self._rng.gauss(1.0, p.jitter)))
        self._batch = batch
        self.due = now + took

    def _end(self, batch: Batch, now: float) -> Step:
        self._step += 1
        step = self._step
        counters = self.counters
        counters.steps += 1
        tokens = list(self._decoding)
        decodes = len(tokens)
        first: list[Sequence] = []
        finished = self._finish.pop(step, [])
        for seq, _ in batch.prefills:
            if seq.phase is not Phase.PREFILL or seq.computed < seq.target:
                continue  # aborted or preempted meanwhile, or more chunks to come
            tokens.append(seq)
            if seq.first_token_at < 0:
                seq.first_token_at = now
                first.append(seq)
                counters.prompt_tokens += seq.work.prompt_tokens
            if self._enter_decode(seq, step):
                finished.append(seq)
        for seq in finished:
            seq.done_tokens = seq.work.output_tokens
            self._leave(seq, step)
            seq.phase = Phase.DONE
            seq.ended = seq.work.finish
            seq.finished_at = now
        counters.generation_tokens += len(tokens)
        return Step(batch.began_at, now, first, tokens, finished, batch.prefill_tokens, decodes)

    def _admit(self, batch: Batch, budget: int, now: float) -> None:
        waiting, running = self._waiting, self._running
        limit = self.profile.max_num_seqs
        passed: list[Sequence] = []
        while waiting and budget > 0 and len(running) < limit:
            seq = waiting[0]
            lora = seq.work.lora
            if not self.adapters.fits(lora):
                passed.append(waiting.popleft())
                continue
            chunk = self._start(seq, budget)
            if chunk == 0:
                break
            waiting.popleft()
            seq.phase = Phase.PREFILL
            running[seq] = None
            self._prefilling[seq] = None
            self.adapters.go(lora)
            self.adapters.run(lora)
            if seq.scheduled_at < 0:
                seq.scheduled_at = now
            self._chunk(batch, seq, chunk)
            budget -= chunk
        waiting.extendleft(reversed(passed))

    def _start(self, seq: Sequence, budget: int) -> int:
        """Holds the cached prefix and room for the first chunk; returns its tokens, 0 if it does not fit."""
        size = self.profile.block_tokens
        kv = self.kv
        hits = kv.match(seq.keys, (seq.target - 1) // size)
        computed = hits * size
        chunk = min(seq.target - computed, budget)
        need = -(-(computed + chunk) // size) - hits
        if need > kv.available - kv.idle_among(seq.keys, hits):
            return 0
        kv.hold(seq.keys, hits)
        seq.shared = seq.keys[:hits]
        seq.computed = computed
        if not seq.preemptions:
            seq.cached_tokens = computed
            self.counters.prefix_queries += seq.target
            self.counters.prefix_hits += computed
        kv.take(need)
        seq.private = need
        return chunk

    def _chunk(self, batch: Batch, seq: Sequence, chunk: int) -> None:
        """Counts a chunk as computed and publishes the blocks that it fills, at once, as vLLM does: later
        requests of the same batch may already share them."""
        size = self.profile.block_tokens
        before = seq.computed // size
        seq.computed += chunk
        for index in range(before, seq.computed // size):
            self._publish(seq, index)
        batch.prefills.append((seq, chunk))
        batch.prefill_tokens += chunk

    def _publish(self, seq: Sequence, index: int) -> None:
        key = seq.key(index, self.profile.block_tokens)
        if key is not None and self.kv.publish(key):
            seq.private -= 1
            seq.shared.append(key)

    def _enter_decode(self, seq: Sequence, step: int) -> bool:
        """The prefill has produced a token. True if it was the last one."""
        del self._prefilling[seq]
        seq.phase = Phase.DECODE
        seq.done_tokens += 1
        seq.start_step = step
        self._decoding[seq] = None
        self._context += seq.computed
        left = seq.work.output_tokens - seq.done_tokens
        if left == 0:
            return True
        seq.end_step = step + left
        self._finish.setdefault(seq.end_step, []).append(seq)
        # Step start + j writes the KV of token computed + j: a new block is needed where that begins one.
        seq.block_step = step + 1 + -seq.computed % self.profile.block_tokens
        self._need_block.setdefault(seq.block_step, []).append(seq)
        return False

    def _grow_decodes(self) -> bool:
        """Gives a block to each decoding sequence that needs one in the coming step. True if that cost
        another one its place."""
        coming = self._step + 1
        due = self._need_block.pop(coming, None)
        if due is None:
            return False
        size = self.profile.block_tokens
        before = self.counters.preemptions
        for seq in due:
            if seq.phase is not Phase.DECODE or seq.block_step != coming:
                continue
            computed = seq.computed + self._step - seq.start_step
            if computed and computed > seq.computed:
                self._publish(seq, computed // size - 1)
            if self._make_room(seq, 1):
                seq.block_step = coming + size
                self._need_block.setdefault(seq.block_step, []).append(seq)
        return self.counters.preemptions != before

    def _blocks_needed(self, seq: Sequence, chunk: int) -> int:
        return -(-(seq.computed + chunk) // self.profile.block_tokens) - len(seq.shared) - seq.private

    def _make_room(self, seq: Sequence, need: int) -> bool:
        """Takes blocks for a running sequence, preempting others. False if it had to go itself."""
        while self.kv.available < need:
            last = next(reversed(self._running))
            self._preempt(last)
            if last is seq:
                return False
        self.kv.take(need)
        seq.private += need
        return True

    def _preempt(self, seq: Sequence) -> None:
        seq.done_tokens = self.generated(seq)
        self._leave(seq, self._step)
        seq.phase = Phase.WAITING
        seq.preemptions += 1
        seq.computed = 0
        seq.target = seq.work.prompt_tokens + seq.done_tokens
        self.counters.preemptions += 1
        self._waiting.appendleft(seq)
        self.adapters.wait(seq.work.lora)

    def _leave(self, seq: Sequence, step: int) -> None:
        """Out of the batch; its blocks go back, full ones stay findable."""
        if seq.phase is Phase.DECODE:
            del self._decoding[seq]
            computed = seq.computed + step - seq.start_step
            self._context -= computed
            size = self.profile.block_tokens
            if computed % size == 0 and computed > seq.computed:
                self._publish(seq, computed // size - 1)
            ending = self._finish.get(seq.end_step)
            if ending is not None:  # it leaves before its end; nothing must keep it till then
                ending.remove(seq)
                if not ending:
                    del self._finish[seq.end_step]
        else:
            del self._prefilling[seq]
        del self._running[seq]
        self.adapters.end(seq.work.lora)
        self.kv.release(seq.shared, seq.private)
        seq.shared = []
        seq.private = 0
