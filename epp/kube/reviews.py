"""Who may read our pages, as the cluster says: a TokenReview, then a SubjectAccessReview for path and verb.

Answers are remembered as long as the reference picker's are; tokens only as keyed digests. Callers with one
token share one question. While the API cannot be asked, or strangers ask too much of it, those who were let
in shortly before still are.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from epp.domain.access import ALLOWED, Access
from epp.domain.views import Clock
from epp.kube.api import KubeError

TOKEN_S: Final = 60.0
"""A token that was taken back is believed so long at most; one that is not known is asked about again."""
ALLOWED_S: Final = 300.0
FORBIDDEN_S: Final = 30.0
STALE_S: Final = 600.0
"""A yes counts so much longer while nobody can be asked."""
ANSWER_S: Final = 5.0
"""A scrape has ten seconds by default."""
TOKEN_BYTES_MAX: Final = 16 << 10
REMEMBERED: Final = 1000
"""Tokens, and as many permissions; of more the one used longest ago is forgotten."""
AT_ONCE: Final = 16
QUESTIONS_PER_S: Final = 20.0
BURST: Final = 40.0
"""Whoever makes up tokens must not be able to load the API through us."""
IDENTITY_PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
PERMISSION_PATH: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Api(Protocol):
    """What is needed of `Kube`."""

    async def post(self, path: str, *, body: Any = None) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class _User:
    """As a TokenReview names it."""

    name: str
    spec: Mapping[str, Any]
    """Its part of a SubjectAccessReview."""
    key: bytes


class _Unavailable(Exception):  # noqa: N818 - never leaves this file
    """The API cannot be asked; the text says why."""


class _Memory(Generic[K, V]):
    """Answers and until when they count; of questions under way one each."""

    def __init__(self) -> None:
        self._answers: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self.asking: dict[K, asyncio.Task[V]] = {}

    def fresh(self, key: K, now: float) -> V | None:
        held = self._answers.get(key)
        if held is None or now >= held[1]:
            return None
        self._answers.move_to_end(key)
        return held[0]

    def stale(self, key: K, now: float) -> V | None:
        held = self._answers.get(key)
        return held[0] if held is not None and now < held[1] + STALE_S else None

    def put(self, key: K, answer: V, until: float) -> None:
        self._answers[key] = answer, until
        self._answers.move_to_end(key)
        if len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)


class Reviews:
    """A reviewer for the web listener. Belongs to the event loop."""

    def __init__(self, api: Api, *, clock: Clock = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._salt = secrets.token_bytes(32)
        self._users: _Memory[bytes, _User | str] = _Memory()
        """A text says why it is nobody's token."""
        self._permissions: _Memory[tuple[bytes, str, str], bool] = _Memory()
        self._left = BURST
        self._left_at = clock()
        self._blind = False
        """The API could not be asked last time; said once."""

    async def review(self, token: str, verb: str, path: str) -> Access:
        """`verb` in lower case, `path` without its query."""
        data = token.encode("utf-8", "surrogateescape")
        if not data or len(data) > TOKEN_BYTES_MAX:
            return Access(401, "a bearer token is needed")
        try:
            user = await self._user(token, self._digest(data))
            if isinstance(user, str):
                return Access(401, user)
            if await self._permitted(user, verb, path):
                return ALLOWED
        except _Unavailable as error:
            return Access(503, f"the cluster cannot be asked who may read this: {error}")
        words = "a ClusterRole with that verb on nonResourceURLs, bound to it, would let it"
        return Access(403, f"{user.name} may not {verb} {path}; {words}")

    async def _user(self, token: str, key: bytes) -> _User | str:
        users, now = self._users, self._clock()
        known = users.fresh(key, now)
        if known is not None:
            return known
        try:
            return await self._asked(users, key, lambda: self._ask_user(token, key))
        except _Unavailable:
            held = users.stale(key, now)
            if isinstance(held, _User):
                return held
            raise

    async def _permitted(self, user: _User, verb: str, path: str) -> bool:
        permissions, key, now = self._permissions, (user.key, verb, path), self._clock()
        known = permissions.fresh(key, now)
        if known is not None:
            return known
        try:
            return await self._asked(permissions, key, lambda: self._ask_permission(user, verb, path))
        except _Unavailable:
            if permissions.stale(key, now):
                return True
            raise

    async def _ask_user(self, token: str, key: bytes) -> _User | str:
        status = await self._post(
            IDENTITY_PATH, "tokenreviews.authentication.k8s.io",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}},
        )  # fmt: skip
        user = status.get("user")
        known: _User | str = "the cluster does not know this token, or it has expired"
        if status.get("authenticated") is True and isinstance(user, dict) and user.get("username"):
            fields = (("username", "user"), ("uid", "uid"), ("groups", "groups"), ("extra", "extra"))
            spec = {name: user[word] for word, name in fields if user.get(word)}
            known = _User(str(user["username"]), spec, self._digest(repr(sorted(spec.items())).encode()))
        self._users.put(key, known, self._clock() + TOKEN_S)
        return known

    async def _ask_permission(self, user: _User, verb: str, path: str) -> bool:
        spec = {**user.spec, "nonResourceAttributes": {"path": path, "verb": verb}}
        status = await self._post(
            PERMISSION_PATH, "subjectaccessreviews.authorization.k8s.io",
            {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec},
        )  # fmt: skip
        allowed = status.get("allowed") is True
        until = self._clock() + (ALLOWED_S if allowed else FORBIDDEN_S)
        self._permissions.put((user.key, verb, path), allowed, until)
        return allowed

    async def _asked(self, memory: _Memory[K, V], key: K, ask: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """The answer of a question that goes on, also when who asked first goes away."""
        task = memory.asking.get(key)
        if task is None:
            self._spend()
            task = memory.asking[key] = asyncio.get_running_loop().create_task(ask())
            task.add_done_callback(lambda done: _over(memory.asking, key, done))
        return await asyncio.shield(task)

    async def _post(self, path: str, resource: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._api.post(path, body=body)
        except TimeoutError:
            why = f"no answer in {ANSWER_S:g} s"
        except KubeError as error:
            why = f"{error.status or ''} {error.reason}".strip()
            if error.status in (401, 403):
                why = f"our own account may not create {resource}"
        else:
            if self._blind:
                self._blind = False
                _log.info("the cluster answers again who may read metrics and debug pages")
            status = answer.get("status")
            return status if isinstance(status, dict) else {}
        if not self._blind:
            self._blind = True
            _log.error("the cluster cannot be asked who may read metrics and debug pages: %s", why)
        raise _Unavailable(why)

    def _spend(self) -> None:
        """One question. Raises _Unavailable for one too many."""
        now = self._clock()
        self._left = min(BURST, self._left + (now - self._left_at) * QUESTIONS_PER_S)
        self._left_at = now
        under_way = len(self._users.asking) + len(self._permissions.asking)
        if self._left < 1.0 or under_way >= AT_ONCE:
            raise _Unavailable("too many tokens are asked about at once")
        self._left -= 1.0

    def _digest(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, key=self._salt, digest_size=16).digest()


def _over(asking: dict[K, asyncio.Task[V]], key: K, task: asyncio.Task[V]) -> None:
    asking.pop(key, None)
    if not task.cancelled():
        task.exception()  # told to those who wait, if there still are any
