"""Where the certificate comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from epp.extproc.certificates import from_directory, self_signed


def test_certificates_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    one, other = self_signed(), self_signed()
    (tmp_path / "tls.crt").write_bytes(one.certificate)
    (tmp_path / "tls.key").write_bytes(other.key)
    with pytest.raises(ValueError, match="does not belong"):
        from_directory(tmp_path)()
