"""The format of Stretcher's manifests."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from handlers.deploy.manifest import Manifest, Read, read_manifest
from handlers.deploy.template import fill_in

FULL = """\
src: s3://example.com/app.tar.gz
checksum: e0840daaa97cd2cf2175f9e5d133ffb3324a2b93
dest: /home/www/app
dest_mode: 0711
commands:
  pre:
    - echo 'starting'
  post:
    - echo $HOME ${HOME}
  success: [echo success]
  failure:
    - echo 'failed!!'
    - cat >> /path/to/failure.log
excludes:
  - "*.pid"
  - "*.socket"
exclude_from: exclude.list
sync_strategy: mv
"""
SHORT = "src: http://h/a.tar\nchecksum: {checksum}\ndest: {dest}\n"


def read(text: str, **environment: str) -> Read:
    """Read a manifest."""
    return read_manifest(text.encode(), environment)


def test_every_field_is_read() -> None:
    """As Stretcher reads it; what a command says to the shell is left to the shell."""
    manifest = read(FULL).manifest

    assert manifest.src == "s3://example.com/app.tar.gz"
    assert manifest.digest == "sha1:e0840daaa97cd2cf2175f9e5d133ffb3324a2b93"
    assert manifest.target == "/home/www/app"
    assert manifest.dest_mode == 0o711
    assert manifest.commands.pre == ("echo 'starting'",)
    assert manifest.commands.post == ("echo $HOME ${HOME}",)
    assert manifest.commands.success == ("echo success",)
    assert manifest.commands.failure == ("echo 'failed!!'", "cat >> /path/to/failure.log")
    assert manifest.excludes == ("*.pid", "*.socket")
    assert manifest.exclude_from == "exclude.list"
    assert manifest.sync_strategy == "mv"


def test_what_is_left_out_has_its_default() -> None:
    """Empty lists and maps may stand there without a value, too."""
    text = SHORT.format(checksum="0" * 64, dest="/srv//app/.") + "commands:\nexcludes: ~\n"

    manifest = read(text).manifest

    assert (manifest.dest_mode, manifest.sync_strategy, manifest.commands.every) == (0o755, "", ())
    assert manifest.target == "/srv/app"
    assert read("commands: {pre: null, post: [x]}").manifest.commands.every == ("x",)


@pytest.mark.parametrize("checksum", ["1" * 32, "12345678e1" * 4, "0" * 64, "A" * 128])
def test_a_checksum_of_digits_is_no_number(checksum: str) -> None:
    """YAML would read some of these as integers, octal numbers or floats."""
    manifest = read(SHORT.format(checksum=checksum, dest="/srv/app")).manifest

    assert manifest.digest.endswith(f":{checksum.lower()}")


@pytest.mark.parametrize(
    "written,mode", [("0755", 0o755), ("0o711", 0o711), ("511", 0o777), ("0", 0), ("'0700'", 0o700)]
)
def test_the_mode_is_octal_if_it_begins_with_a_zero(written: str, mode: int) -> None:
    """As in YAML 1.1 and in Go."""
    assert read(f"dest_mode: {written}").manifest.dest_mode == mode


@pytest.mark.parametrize(
    "text,said",
    [
        ("src: http://h/a\nchecksum: abc\ndest: /srv/app", "checksum"),
        ("src: http://h/a\ndest: /srv/app", "checksum"),
        (SHORT.format(checksum="g" * 32, dest="/srv/app"), "checksum"),
        (SHORT.format(checksum="0" * 32, dest="srv/app"), "dest"),
        (SHORT.format(checksum="0" * 32, dest="/srv/../etc"), "dest"),
        (SHORT.format(checksum="0" * 32, dest="/"), "dest"),
        (SHORT.format(checksum="0" * 32, dest='"/srv/a\\0b"'), "dest"),
        (SHORT.format(checksum="0" * 32, dest=""), "dest"),
        ("dest_mode: 01777", "dest_mode"),
        ("dest_mode: rwx", "dest_mode"),
        ("sync_strategy: cp", "sync_strategy"),
        ("exclude_from: ../etc/passwd", "exclude_from"),
        ("exclude_from: /etc/passwd", "exclude_from"),
        ("excludes: '*.pid'", "excludes"),
        ("commands: {pre: [[a]]}", r"commands\.pre"),
        ("commands: {pre: ls}", r"commands\.pre"),
        ('commands: {post: ["a\\0b"]}', r"commands\.post"),
        ("commands: [a]", "commands"),
        ("<<: {src: x}", "merge"),
        ("- src", "map"),
        ("", "map"),
        ("a: [", "no YAML"),
        ("[" * 5000, "no YAML"),
        ("&a [*a]", "no YAML"),
        ("? [a]\n: b", "no YAML"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_reason(text: str, said: str) -> None:
    """The field at least."""
    with pytest.raises(ValueError, match=said):
        read(text)


def test_a_reason_quotes_no_value() -> None:
    """A manifest may hold what must not be logged."""
    with pytest.raises(ValueError, match="commands") as raised:
        read("commands: {pre: {token: s3cret}}")

    assert "s3cret" not in str(raised.value)


def test_unknown_fields_are_named() -> None:
    """They change nothing."""
    assert read("dest_mode: 0700\nexclude: x\n").unknown == ("exclude",)


def test_the_digest_is_that_of_what_the_manifest_says() -> None:
    """Another environment makes it another manifest."""
    text = 'exclude_from: {{ env "LIST" }}'

    assert read(text, LIST="a").digest != read(text, LIST="b").digest
    assert read(text, LIST="a") == read(text, LIST="a")


# ---------------------------------------------------------------------- the environment


@pytest.mark.parametrize(
    "text,value",
    [
        ('{{ env "A" }}', "1"),
        ('{{env "A" "default"}}', "1"),
        ('{{ env "NONE" "default" }}', "default"),
        ('{{ env "EMPTY" "B" }}', "2"),
        ("{{ env `A` }}", "1"),
        ('{{ env "NONE" "say \\"hi\\"\\n" }}', 'say "hi"\n'),
        ('{{ must_env "A" }}-{{ must_env "EMPTY" }}.', "1-."),
        ('{{ env "NONE" }}', "NONE"),
        ("$A ${A} {A}", "$A ${A} {A}"),
    ],
)
def test_the_environment_is_filled_in(text: str, value: str) -> None:
    """By the rules of kayac/go-config, through which Stretcher reads its manifests."""
    assert fill_in(text, {"A": "1", "B": "2", "EMPTY": ""}) == value


@pytest.mark.parametrize(
    "text",
    [
        '{{ must_env "NO" }}', '{{ must_env "A" "B" }}', "{{ .A }}", '{{ env "A" | printf }}', "{{ env A }}",
        "{{ env }}", '{{ env "A" ', '{{ env "A\\x41" }}', '{{ if env "A" }}x{{ end }}', '{{ env "A\n" }}',
    ],
)  # fmt: skip
def test_other_templates_are_refused(text: str) -> None:
    """What is not understood is not deployed."""
    with pytest.raises(ValueError, match=r"template|not set|one name|without"):
        fill_in(text, {"A": "1"})


# ---------------------------------------------------------------------- any text at all


@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(alphabet="abc:[]{}&*!|>-#'\"\n \\%@`?,~<01", max_size=60).map(str.encode),
    )
)
def test_any_text_is_a_manifest_or_refused(data: bytes) -> None:
    """Nothing but ValueError comes out."""
    try:
        found = read_manifest(data, {})
    except ValueError:
        return
    assert isinstance(found.manifest, Manifest)


_lines = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="{\0", exclude_categories=["Cs"]), min_size=1),
    max_size=3,
)


@given(pre=_lines, failure=_lines, excludes=_lines)
def test_what_is_written_is_what_is_read(pre: list[str], failure: list[str], excludes: list[str]) -> None:
    """Every line comes back as it is, whatever is in it."""
    text = yaml.safe_dump({"commands": {"pre": pre, "failure": failure}, "excludes": excludes})

    manifest = read(text).manifest

    assert manifest.commands.pre == tuple(pre)
    assert manifest.commands.failure == tuple(failure)
    assert manifest.excludes == tuple(excludes)
