"""Names of an API resource and the paths that it is found under."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resource:
    group: str
    """"" for the core group."""
    version: str
    plural: str
    kind: str

    def path(self, namespace: str | None = None, name: str = "") -> str:
        """Of the list in a namespace, or in all with None; with a name of the one object."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        space = f"/namespaces/{namespace}" if namespace is not None else ""
        return f"{root}{space}/{self.plural}" + (f"/{name}" if name else "")

    @property
    def api_version(self) -> str:
        """As an object's `apiVersion` has it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}/{self.version}" if self.group else f"{self.plural}/{self.version}"


PODS = Resource("", "v1", "pods", "Pod")
