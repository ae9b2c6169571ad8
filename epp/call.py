"""One request from its headers to its end: the only file that knows the order of the rooms.

parse -> rewrite -> candidates -> admit -> schedule -> ledger, then the answer's headers, pieces and end.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence

import msgspec

from epp.admission.ticket import Ticket
from epp.datalayer.inflight import Entry
from epp.datalayer.observation.due import Watch
from epp.datalayer.outliers import Fault, fault_of
from epp.domain.controls import Controls
from epp.domain.decision import Decision
from epp.domain.endpoint import Endpoint
from epp.domain.errors import Answer, Reason, Refused, answer_of
from epp.domain.request import AnswerView, Api, Body, Request, RequestHead, Scanned, Usage
from epp.domain.views import (
    Abort,
    AnswerHead,
    AnswerPlan,
    Ending,
    Report,
    Route,
    Verdict,
)
from epp.parsing.body import MODEL_HEADER, REWRITE_HEADERS, rewrite_target
from epp.parsing.rewrite import splice_model
from epp.queues import Place
from epp.rooms import Rooms
from epp.scheduling.contract import Cycle
from epp.telemetry.reasons import headline
from epp.telemetry.series import RequestMeter
from epp.telemetry.tracing import UNTRACED, Trace

log = logging.getLogger("epp.director")

REASONS_HEADER = "x-epp-decision"
_LENGTH_DIGITS = 16
_TOKEN_BYTES = 4
"""Of text in a token, as everywhere in the prefix estimate."""
MODEL_CHARS_MAX = 4096
"""Longest model name taken: a path is one, too. Names are kept with decisions and means."""
_NO_USAGE = Usage()
KEPT_BYTES_MAX = 64 << 20
"""Of prompts that are kept until the answer's headers tell who served them, all requests together. Further
ones are let go at once: where the gateway retried elsewhere, that endpoint's cache is not learned of."""


class RequestCall:
    """One request; see domain.views.Call for what each method means."""

    __slots__ = (
        "_abort", "_body", "_controls", "_d", "_decision", "_endpoint", "_entry", "_head", "_kept", "_meter",
        "_over", "_request", "_seed", "_status", "_streaming", "_subset", "_ticket", "_trace", "_watch",
    )  # fmt: skip

    def __init__(
        self, rooms: Rooms, head: RequestHead, controls: Controls, abort: Abort | None = None
    ) -> None:
        self._d = rooms
        self._head = head
        self._controls = controls
        self._abort = abort
        self._subset = head.subset
        self._request: Request | None = None
        self._seed: int | None = None
        """Drawn before the decision, where a rewrite needed chance."""
        self._decision: Decision | None = None
        """Until the answer begins: it holds a snapshot."""
        self._endpoint: Endpoint | None = None
        """Who serves the request, as far as we know."""
        self._body: Body = b""
        """While the request waits."""
        self._ticket: Ticket[Place] | None = None
        self._kept = 0
        self._entry: Entry | None = None
        self._meter: RequestMeter | None = None
        self._trace: Trace = UNTRACED
        self._watch: Watch | None = None
        """Where the gateway need not show the answer."""
        self._status = 0
        self._streaming = False
        self._over = False

    # --- request side -------------------------------------------------------------------------------------

    def allow(self, subset: tuple[str, ...]) -> None:
        self._subset = subset

    def refuse_early(self) -> Answer | None:
        queues, headers = self._d.queues, self._head.headers
        if queues is None:
            return None
        length = headers.get("content-length", "")
        known = length.isascii() and length.isdigit() and len(length) < _LENGTH_DIGITS
        controls = self._controls
        priority = self._d.priority(controls)
        refused = queues.early(priority, controls.fairness_id, int(length) if known else 0)
        return None if refused is None else self.refuse(refused)

    def refuse(self, refused: Refused) -> Answer:
        d, request = self._d, self._request
        d.metrics.refused(refused)
        if request is None:
            model, priority, flow = "", d.priority(self._controls), self._controls.fairness_id
            meter = d.metrics.request("", "", "", None)
        else:
            model, priority, flow = request.model, request.priority, request.fairness_id
            meter = d.metrics.request(
                request.model, request.target_model, request.fairness_id, request.priority
            )
        meter.error(refused.reason.canonical)
        waited_s = 0.0 if self._ticket is None else self._ticket.waited_s
        d.refusals.record(
            refused, self._head.request_id, model=model, priority=priority, fairness_id=flow,
            waited_s=waited_s,
        )  # fmt: skip
        self._trace.refused(refused)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("refused", extra={"request_id": self._head.request_id, "reason": refused.reason.name})
        return answer_of(refused, self._head.request_id)

    def decide(
        self, body: Body, *, truncated: bool = False, scanned: Scanned | None = None
    ) -> Verdict | Awaitable[Verdict]:
        try:
            request = self._parse(body, truncated, scanned)
            queues = self._d.queues
            if queues is None:
                return self._place(request, body)
            self._body = body
            controls = self._controls
            self._ticket, verdict = queues.enter(
                self,
                request,
                ttl_s=controls.ttl_s,
                ttft_slo_s=controls.ttft_slo_s,
                expected_output=self._expected_output(request),
            )
            return verdict
        except Refused as refused:
            return self.refuse(refused)
        except Exception:
            return self._failed()

    def go(self) -> Verdict:
        """There is room for the request, which waited for it."""
        body, self._body = self._body, b""
        try:
            assert self._request is not None
            return self._place(self._request, body)
        except Refused as refused:
            return self.refuse(refused)
        except Exception:
            return self._failed()

    def abort(self, refused: Refused) -> None:
        """More important work needs the capacity."""
        answer = self.refuse(refused)
        if self._abort is not None:
            self._abort(answer)

    def _failed(self) -> Answer:
        log.exception("request %s failed by a fault of ours", self._head.request_id)
        self._d.metrics.internal_error("request")
        return self.refuse(Refused(Reason.INTERNAL, "the endpoint picker failed; its log says why"))

    def _parse(self, body: Body, truncated: bool, scanned: Scanned | None) -> Request:
        d, head = self._d, self._head
        headers = head.headers
        trace = self._trace = d.tracer.request(head)
        traced = trace is not UNTRACED
        if traced:
            trace.enter("parse")
        rewrites = d.rewrites
        if rewrites.generic:
            head = msgspec.structs.replace(head, model_optional=True)
        request = self._request = d.parsers.parse(head, body, truncated=truncated, scanned=scanned)
        model = request.model
        target = rewrite_target(head) or model or headers.get(MODEL_HEADER, "")
        if rewrites and request.model_span is not None:
            target = self._by_rule(request, target)
        request.target_model = target
        if len(model) > MODEL_CHARS_MAX or len(target) > MODEL_CHARS_MAX:
            text = f"`model` is longer than {MODEL_CHARS_MAX} characters."
            raise Refused(Reason.MALFORMED, text, param="model")
        if traced:
            trace.parsed(request)
        self._streaming = request.stream  # should the answer's headers not be shown to us
        request.priority = d.priority(self._controls)
        request.fairness_id = self._controls.fairness_id
        if traced:
            trace.enter("admit")
        return request

    def _by_rule(self, request: Request, otherwise: str) -> str:
        """The target of the rule that is for the client's model; `otherwise` where there is none."""
        d, model = self._d, request.model
        if not model and request.api is Api.CONVERSATIONS:
            return otherwise  # an API without models, though its bodies have room for one
        seed = self._seed = d.seed()
        resolved = d.rewrites.resolve(model, self._head.headers, seed)
        if resolved is None:
            return otherwise
        if not resolved.model:
            text = f"The rewrite {resolved.rewrite!r} names no model to send the request to."
            raise Refused(Reason.MODEL_MISSING, text, param="model")
        request.rewrite = resolved.rewrite
        d.metrics.rewritten(resolved.rewrite, model, resolved.model)
        return resolved.model

    def _expected_output(self, request: Request) -> int:
        """Tokens that its answer will probably have."""
        expected = self._d.scheduler.expected_output(request)
        if expected is None:
            expected = self._d.outputs.expected(request.target_model, request.max_output_tokens)
        return expected

    def _place(self, request: Request, body: Body) -> Route:
        """Choose an endpoint, on the pool as it is now."""
        d, head, trace = self._d, self._head, self._trace
        headers = head.headers
        model, target = request.model, request.target_model
        traced = trace is not UNTRACED
        snapshot = d.store.snapshot
        now = d.clock()
        observation = d.observation
        if observation.heap:
            observation.settle(now)
        rows = d.candidates.of(snapshot, self._subset, request)
        if d.queues is None:
            d.gate.admit(request, snapshot, rows, now)
        if traced:
            trace.enter("schedule")
        seed = d.seed() if self._seed is None else self._seed
        try:
            cycle, decision = d.scheduler.schedule(request, snapshot, rows, now=now, seed=seed)
        except Refused:
            d.metrics.scheduled(d.clock() - now, target, None)
            raise
        decided_at = d.clock()
        endpoint = self._endpoint = decision.endpoint
        d.metrics.scheduled(decided_at - now, target, endpoint)
        self._decision = decision
        d.decisions.record(decision)
        if traced:
            trace.decided(decision)
        expected = self._expected_output(request)
        uncached = decision.uncached_tokens
        self._entry = d.ledger.start(endpoint.slot, prefill_tokens=uncached, decode_tokens=expected)
        d.scheduler.chosen(cycle, decision)
        self._count_prefix(cycle, decision)
        set_headers = list(d.scheduler.request_headers(cycle, decision))
        if headers:  # else they were not shown to us, and ours would overwrite what the client sent
            if not headers.get("x-request-id"):
                set_headers.append(("x-request-id", head.request_id))
            set_headers += trace.headers
        changed = None
        if target != model and request.model_span is not None:
            changed = splice_model(body, request.model_span, target)
            if request.rewrite and target.isascii():
                set_headers.append((REWRITE_HEADERS[0], target))
        restore = (target, model) if changed is not None and model else None
        watch = None
        if head.answer_view not in observation.whole or (uncached and not request.stream):
            watch = self._watch = observation.watch(
                request, self._entry, uncached=uncached, output=expected,
                rewritten=restore is not None, now=decided_at,
            )  # fmt: skip
            if head.answer_view is AnswerView.NEVER:
                restore = None
        meter = self._meter = d.metrics.request(model, target, request.fairness_id, request.priority)
        meter.started(request.size_bytes)
        if d.kept_bytes + request.size_bytes <= KEPT_BYTES_MAX:
            self._kept = request.size_bytes
            d.kept_bytes += self._kept
        else:
            request.prompts = ()
        if traced:
            trace.enter("answer")
        d.metrics.request_processing.observe(d.clock() - head.received_at)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("routed", extra={"request_id": head.request_id, "decision": headline(decision)})
        return Route(
            decision.destination,
            set_headers,
            self._controls.stripped,
            body=changed,
            scores=_scores(decision) if d.settings.emit_scores else None,
            skip_response=request.skip_response,
            answer=AnswerPlan(
                api=request.api,
                stream=request.stream,
                set=((REASONS_HEADER, headline(decision)),) if d.settings.reasons_header else (),
                restore=restore,
                ask=d.scheduler.asks_answers,
                observe=watch is None or watch.observe,
            ),
        )

    def _count_prefix(self, cycle: Cycle, decision: Decision) -> None:
        d = self._d
        for name, match in cycle.prefix.items():
            if match.total_blocks:
                matched = float(match.matched_blocks[decision.row])
                hit_bytes = matched * match.block_tokens * _TOKEN_BYTES
                ratio = matched / match.total_blocks
                d.metrics.prefix_lookup(name, d.scheduler.types[name], ratio, hit_bytes)

    # --- answer side --------------------------------------------------------------------------------------

    def answered(self, head: AnswerHead) -> Sequence[tuple[str, str]]:
        d, request, decision = self._d, self._request, self._decision
        self._status = head.status
        self._streaming = head.streamed or self._streaming
        if self._watch is not None:
            d.observation.begun(self._watch, streamed=self._streaming and head.status < 300)
        if request is None or decision is None:
            return ()
        self._believe(decision.endpoint, head)
        more = d.scheduler.answer_headers(request, decision, head.served)
        self._forget()
        return more

    def _forget(self) -> None:
        """An answer may take an hour: the prompt and the snapshot need not stay so long."""
        self._d.kept_bytes -= self._kept
        self._kept = 0
        self._decision = None
        assert self._request is not None
        self._request.prompts = ()

    def _believe(self, chosen: Endpoint, head: AnswerHead) -> None:
        """Account to the endpoint that really answered, and judge its health by the status."""
        served, status = head.served, head.status
        d = self._d
        own = chosen.authority
        answered = d.store.by_authority(served or own)
        if answered is not None and served and served != own:
            self._endpoint = answered
            if self._entry is not None:
                self._entry.move(answered.slot)
        elif answered is not None and answered.slot != chosen.slot:
            answered = None  # ours has left, and its address is another's by now
        if status >= 400 and self._meter is not None:
            self._meter.error("ModelServerError")
        outliers = d.outliers
        if outliers is None or answered is None or not status:
            return
        fault = fault_of(status)
        local = status >= 400 and head.local
        if fault is None:
            if not local:
                outliers.success(answered.slot)
            return
        if status == 503 and local:
            fault = Fault.CONNECT
        if outliers.failure(answered.slot, head.at, fault):
            d.metrics.ejected()
            if outliers.rounds(answered.slot) == 1:  # not again and again for one that stays ill
                words = "avoiding %s at %s, but for a request now and then, until it is well: it answered %d"
                log.warning(words, answered.key, answered.authority, status)

    def first_token(self, at: float) -> None:
        if self._entry is not None:
            self._entry.first_token()
        if self._watch is not None:
            self._d.observation.first_token(self._watch, at)
        if self._decision is not None:
            self._forget()
        if self._ticket is not None and self._d.queues is not None:
            self._d.queues.changed()  # a prompt is prefilled: that may make room

    def end(self, ending: Ending, report: Report) -> None:
        if self._over:
            return
        self._over = True
        d, request, endpoint = self._d, self._request, self._endpoint
        if self._entry is not None:
            self._entry.end()
        if self._decision is not None:
            self._forget()
        self._body = b""
        if self._ticket is not None and d.queues is not None:
            usage = report.usage or Usage()
            d.queues.ended(
                self._ticket, input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens
            )
        d.metrics.ended(ending)
        if request is not None and endpoint is not None:
            self._account(request, endpoint, report)
        if report.processing_s:
            d.metrics.answer_processing.observe(report.processing_s)
        if self._trace is not UNTRACED:
            self._trace.end(ending, status=self._status or None, usage=report.usage)

    def _account(self, request: Request, endpoint: Endpoint, report: Report) -> None:
        d, received_at, meter = self._d, self._head.received_at, self._meter
        usage = report.usage or _NO_USAGE
        watch = self._watch
        if watch is not None:
            d.observation.ended(watch, request, report, self._status, d.clock())
        elif report.observed:
            d.observation.seen += 1
        if usage.completion_tokens is not None:
            d.outputs.saw(request.target_model, usage.completion_tokens)
        if report.response_id and self._status < 300:
            d.homes.remember(report.response_id, endpoint.key)
        if meter is None:
            return
        if report.gaps:
            meter.itl.add_counts(report.gaps, report.gaps_s)
        meter.finished(
            d.clock() - received_at,
            streaming=self._streaming,
            ttft_s=report.first_at - received_at if report.first_at else None,
            response_bytes=report.body_bytes if self._status and self._looked_at(report) else None,
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
        )

    def _looked_at(self, report: Report) -> bool:
        """False where an answer may have had a body that nobody saw."""
        return report.observed or self._watch is None


def _scores(decision: Decision) -> dict[str, float]:
    """Totals of the primary profile by `ip:port`."""
    for run in decision.runs:
        if run.profile == decision.primary:
            endpoints = decision.snapshot.endpoints
            pairs = zip(run.rows.tolist(), run.totals.tolist(), strict=True)
            return {endpoints[row].authority: total for row, total in pairs}
    return {}
