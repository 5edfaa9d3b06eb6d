"""The options of one configured template handler: values only, no I/O."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from agentd.handler import Duration, HandlerOptions, Size

_OTHERS_READ = 0o044


def _absolute(source: Path) -> Path:
    if not source.is_absolute():
        raise ValueError(f"{source} is relative: give the whole path, such as /etc/agentd/templates/{source}")
    return source


class TemplateFile(HandlerOptions):
    """One file of the tree, and the template that makes it."""

    source: Annotated[Path, AfterValidator(_absolute)] | None = Field(
        None,
        description="The template's file, such as /etc/agentd/templates/hosts.map.j2. Only root and agentd's"
        " user may be able to write to it. It is read again when agentd is reloaded.",
    )
    text: str | None = Field(None, description="The template itself, instead of `source`.")
    path: str = Field(min_length=1, description="The file in the tree, such as maps/hosts.map.")
    mode: str | None = Field(
        None,
        pattern=r"^0?[0-7]{3}$",
        description='Mode of the file, in quotes. Unset: "0644", or "0600" for a secret.',
    )
    secret: bool = Field(
        False,  # noqa: FBT003 (pydantic's default)
        description="Whether the content is secret, as a key is: once it is replaced, no copy of it stays on"
        " the disk. A file that only its owner may read is always secret.",
    )
    escape: Literal["nginx", "none"] = Field(
        "nginx",
        description="nginx: a value that could end the directive that it is written in is refused, unless it"
        " passes through `| quote` or `| raw`. none: for files of another format, such as PEM or JSON.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> TemplateFile:
        if (self.source is None) == (self.text is None):
            raise ValueError("give either `source` or `text`")
        if self.secret and self.permissions & _OTHERS_READ:
            raise ValueError(
                f'a secret needs a mode that only its owner may read, such as "0600", not {self.mode}'
            )
        return self

    @property
    def permissions(self) -> int:
        """The mode as a number."""
        return int(self.mode or ("0600" if self.secret else "0644"), 8)

    @property
    def is_secret(self) -> bool:
        """Whether nothing of the content may be shown or kept."""
        return self.secret or not self.permissions & _OTHERS_READ

    @property
    def name(self) -> str:
        """How messages call the template."""
        return str(self.source or f"text of {self.path}")


class WaitOptions(HandlerOptions):
    """How long a burst of changes is gathered before it is rendered as one."""

    min: Duration = Field(0.0, description="Render only when nothing has changed for so long.")
    max: Duration | None = Field(
        None, description="Render so long after the first change at the latest. Unset: four times `min`."
    )

    @model_validator(mode="after")
    def _ordered(self) -> WaitOptions:
        if self.max is not None and self.max < self.min:
            raise ValueError("`max` must not be shorter than `min`")
        return self

    @property
    def longest(self) -> float:
        """The longest wait, in seconds."""
        return 4 * self.min if self.max is None else self.max


class RenderLimits(HandlerOptions):
    """What rendering may use: the values that a template works on come from outside."""

    cpu: Duration = Field(5.0, ge=1, le=60, description="Processor time, for all files together.")
    memory: Size = Field(256 << 20, ge=64 << 20, description="Memory, for all files together.")
    size: Size = Field(16 << 20, ge=1, le=256 << 20, description="Size of all files together.")


class TemplateOptions(HandlerOptions):
    """The options of one configured handler."""

    files: tuple[TemplateFile, ...] = Field(
        min_length=1, max_length=100, description="The files to render; all of them, or none, are replaced."
    )
    wait: WaitOptions = Field(WaitOptions(), description="How long a burst of changes is gathered.")
    limits: RenderLimits = Field(RenderLimits(), description="What rendering may use.")

    @model_validator(mode="after")
    def _apart(self) -> TemplateOptions:
        paths = [str(PurePosixPath(file.path)) for file in self.files]
        for path in paths:
            if paths.count(path) > 1:
                raise ValueError(f"two files have the path {path}")
            if above := [str(one) for one in PurePosixPath(path).parents if str(one) in paths]:
                raise ValueError(f"{above[0]} cannot be a file and the directory of {path}")
        return self
