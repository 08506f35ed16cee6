"""RFC 9457 problem documents."""

from typing import Any, Self

from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, model_validator

from peelbound.service.schemas.base import WireModel


class Problem(WireModel):
    """`application/problem+json`: what went wrong, where, and what to do."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = Field(examples=["/problems/checkpoint-shard-missing"])
    """Stable reference of the kind of problem: `/problems/{slug}`, served by the API."""
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    remedy: str = ""
    """What the caller can do."""
    pointer: str | None = None
    """JSON pointer to the field at fault, e.g. `/calibration/uri`."""
    instance: str | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _keep_members(cls, value: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        """A problem's further members are part of it, also where unknown fields are ignored (``extra="ignore"``)."""
        problem = read(value)
        if isinstance(value, dict) and problem.__pydantic_extra__ is None:
            further = {name: member for name, member in value.items() if name not in cls.model_fields}
            object.__setattr__(problem, "__pydantic_extra__", further)
        return problem

    @property
    def slug(self) -> str:
        """The last part of `type`."""
        return self.type.rsplit("/", 1)[-1]

    @classmethod
    def make(
        cls, slug: str, title: str, status: int, detail: str, remedy: str = "", pointer: str | None = None, **extra: Any
    ) -> "Problem":
        """Build a problem from its slug."""
        return cls(
            type=f"/problems/{slug}", title=title, status=status, detail=detail, remedy=remedy, pointer=pointer, **extra
        )
