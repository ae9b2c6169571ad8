"""Upper bounds of every histogram, as the reference picker has them, so that existing queries go on."""

from __future__ import annotations

from typing import TypeAlias

Bounds: TypeAlias = tuple[float, ...]

REQUEST_S: Bounds = (
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60, 120,
    180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600,
)  # fmt: skip
TTFT_S: Bounds = REQUEST_S[: REQUEST_S.index(120) + 1]
TPOT_S: Bounds = (
    0.0005, 0.00205, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1,
    2,
)  # fmt: skip
LEGACY_TPOT_S: Bounds = (
    0.0005, 0.00205, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1,
    1.5, 2, 3, 4.5, 6, 12, 18, 24, 30, 36, 48, 60, 90, 120, 180, 270, 360,
)  # fmt: skip
ITL_S: Bounds = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2)
NTPOT_S: Bounds = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SCHEDULING_S: Bounds = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
REQUEST_PROCESSING_S: Bounds = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
)  # fmt: skip
ANSWER_PROCESSING_S: Bounds = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5,
)  # fmt: skip
STREAM_S: Bounds = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600)
QUEUED_S: Bounds = (
    0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
)  # fmt: skip
REVOKED_S: Bounds = QUEUED_S[QUEUED_S.index(0.005) : QUEUED_S.index(10) + 1]
HANDOFF_S: Bounds = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
RATIO: Bounds = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
HIT_BYTES: Bounds = (0, *(2.0**n for n in range(4, 17)))
REQUEST_BYTES: Bounds = tuple(2.0**n for n in range(6, 31))
# 32778 is no slip of ours: the reference's buckets have it, and buckets must agree to be summed.
ANSWER_BYTES: Bounds = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32778, 65536)
INPUT_TOKENS: Bounds = (*ANSWER_BYTES, 131072, 262144, 524288, 1048576)
OUTPUT_TOKENS: Bounds = ANSWER_BYTES[: ANSWER_BYTES.index(8192) + 1]
