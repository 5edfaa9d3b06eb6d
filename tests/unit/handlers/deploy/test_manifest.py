"""The format of Stretcher's manifests."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from handlers.deploy.manifest import (
    LARGEST,
    DeployManifest,
    LoadedManifest,
    RefusedManifestError,
    read_manifest,
)
from handlers.deploy.template import fill_in
from tests.timing import TIMES, growth

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


def read(text: str, **environment: str) -> LoadedManifest:
    """LoadedManifest a manifest."""
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


@pytest.mark.parametrize("null", ["~", "null", "Null", "NULL", ""])
def test_null_is_as_if_the_field_were_left_out(null: str) -> None:
    """Of whatever kind the field is; a line that is null is an empty one."""
    fields = DeployManifest.model_fields

    assert read("\n".join(f"{field}: {null}" for field in fields)).manifest == DeployManifest()
    assert read(f"commands:\n  pre:\n  - {null}\n  - x").manifest.commands.pre == ("", "x")
    assert read(f"dest_mode: 0700\ndest_mode: {null}").manifest.dest_mode == 0o755


@pytest.mark.parametrize("written", ["'null'", '"null"', "!!str null"])
def test_a_text_that_looks_like_null_is_a_text(written: str) -> None:
    """As it is to Stretcher."""
    assert read(f"exclude_from: {written}").manifest.exclude_from == "null"


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
        ("dest_mode: rwx", "dest_mode: give permissions such as 0755"),
        ("sync_strategy: cp", "sync_strategy"),
        ("exclude_from: ../etc/passwd", "exclude_from"),
        ("exclude_from: /etc/passwd", "exclude_from"),
        ("excludes: '*.pid'", "excludes"),
        ("commands: {pre: [[a]]}", r"commands\.pre"),
        ("commands: {pre: ls}", r"commands\.pre"),
        ('commands: {post: ["a\\0b"]}', r"commands\.post"),
        ("commands: [a]", "commands"),
        ("<<: src", "merge"),
        ("- src", "map"),
        ("[]", "map"),
        ("commands: []", "commands"),
        ("src", "map"),
        ("a: [", "not YAML"),
        ("[" * 1000, "not YAML"),  # deeper than the reader can recurse
        ("&a [*a]", "not YAML"),
        ("? [a]\n: b", "not YAML"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_reason(text: str, said: str) -> None:
    """The field at least."""
    with pytest.raises(RefusedManifestError, match=said):
        read(text)


def test_a_reason_quotes_no_value() -> None:
    """A manifest may hold what must not be logged."""
    with pytest.raises(RefusedManifestError, match="commands") as raised:
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


# ---------------------------------------------------------------------- YAML, as Stretcher reads it


INPUTS = Path(__file__).parents[3] / "inputs"


def commands(text: str, **environment: str) -> dict[str, tuple[str, ...]]:
    """The commands of a manifest, by stage, as far as it has any."""
    found = read(text, **environment).manifest.commands.model_dump()
    return {stage: lines for stage, lines in found.items() if lines}


def test_a_merge_key_brings_its_commands() -> None:
    """Nothing of it is dropped in silence."""
    text = (INPUTS / "manifest-merge.yml").read_text()

    assert commands(text) == {"pre": ("true",), "post": ("true",)}
    assert read(text).unknown == ("base",)


@pytest.mark.parametrize(
    "text,found",
    [
        ("<<: {commands: {pre: [a]}}\ncommands: {post: [b]}", {"pre": ("a",), "post": ("b",)}),
        ("<<: {commands: {pre: [a]}}\ncommands: {pre: [b]}", {"pre": ("b",)}),
        ("commands: {<<: [{pre: [a]}, {pre: [b], post: [b]}], post: [c]}", {"pre": ("a",), "post": ("c",)}),
        ("commands: {<<: {<<: {pre: [a]}, post: [b]}}", {"pre": ("a",), "post": ("b",)}),
        ("commands: {pre: [a], <<: {pre: [b]}}", {"pre": ("b",)}),  # yaml.v2 goes by the order
        ("commands: {pre: [a]}\ncommands: {post: [b]}", {"pre": ("a",), "post": ("b",)}),
        ("commands: {pre: [a]}\ncommands: ~", {}),
        ("commands: {'<<': {pre: [a]}}", {}),
        ("x: &x [a]\ncommands: {pre: *x, post: *x}", {"pre": ("a",), "post": ("a",)}),
    ],
)
def test_merge_keys_and_aliases_mean_what_they_mean_to_stretcher(
    text: str, found: dict[str, tuple[str, ...]]
) -> None:
    """At the top and nested, alone and as a list."""
    assert commands(text) == found


@pytest.mark.parametrize("text", ["", "~", "{}", "# nothing\n", "---\n", "null\n", "\ufeff"])
def test_an_empty_manifest_asks_for_nothing(text: str) -> None:
    """Stretcher reads the same into it."""
    assert read(text).manifest == DeployManifest()


def test_of_several_documents_the_first_counts() -> None:
    """It is said that there are more."""
    found = read("commands: {pre: [a]}\n---\ncommands: {pre: [b]}\n")

    assert found.manifest.commands.pre == ("a",)
    assert found.unknown == ("a second document",)


def test_what_is_given_twice_is_named() -> None:
    """The last one counts."""
    found = read("commands: {pre: [a], pre: [b]}")

    assert found.manifest.commands.pre == ("b",)
    assert found.twice == ("pre",)


@pytest.mark.parametrize(
    "text,said",
    [
        ("commands: {pre: !!python/object/apply:os.system [ls]}", "line 1.*tag"),
        ("src: !!binary aGk=", "line 1.*tag"),
        ("src: !mine x", "line 1.*tag"),
        ("? [a]\n: b", "line 1.*plain name"),
        ("? {a: b}\n: c", "line 1.*plain name"),
        ("x:\n  - &a [*a]", "line 2.*alias"),
        ("commands: &c {<<: *c}", "line 1.*alias"),
        ("src: *nowhere", "line 1.*alias"),
        ("commands: {<<: [a]}", "map.*line 1"),
        ("dest_mode: " + "7" * 5000, "dest_mode"),
        ("dest_mode: 0" + "7" * 5000, "dest_mode"),
        ("dest_mode: 2001-99-99", "dest_mode"),
        ("src: 'a\x07'", "not YAML"),
        ("a: &a " + "x" * 100_000 + "\nexcludes: [" + "*a," * 1000 + "]", "aliases included"),
        ("x" * (LARGEST + 1), "more than"),
        ('{{ env "A" }}' * 2000, "more than"),
    ],
)
def test_yaml_that_is_no_manifest_is_refused(text: str, said: str) -> None:
    """It says why."""
    with pytest.raises(RefusedManifestError, match=said):
        read(text, A="x" * 1000)


def bomb(each: str) -> str:
    """Maps that merge ten of those before them, twelve deep."""
    lines = [f"a0: &a0 {each}", *(f"a{n}: &a{n} {{<<: [{f'*a{n - 1},' * 10}]}}" for n in range(1, 13))]
    return "\n".join([*lines, "<<: *a12"])


def laughs() -> str:
    """Lists that hold ten of those before them, twelve deep."""
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{f'*a{n - 1},' * 10}]" for n in range(1, 13))]
    return "\n".join([*lines, "excludes: *a12"])


@pytest.mark.parametrize("text", [bomb("{dest: x}"), bomb("{}"), laughs()])
def test_what_repeats_itself_is_refused(text: str) -> None:
    """However much it would become."""
    with pytest.raises(RefusedManifestError):
        read(text)


def test_a_slow_manifest_is_refused() -> None:
    """It was, after a time that grew with the square of its size."""
    with pytest.raises(RefusedManifestError, match="not closed"):
        read((INPUTS / "manifest-slow.yml").read_text())


@pytest.mark.parametrize(
    "pattern",
    [
        "{", "{{ ", '{{ env "', '{{ env "a"', "{{ `", "{{/*", '{{"a"}}', "}}", "[", "{a: ", "- ", "? ", "a: ",
        "a,", "&a ", "*a ", "!a ", "'", '"', "`", "|\n", ">\n ", "# a\n", "a: b\n", "- a\n", "%YAML 1.1\n",
        "---\n", "\n", " ", "&a [", "<<: ", "<<: {}\n", "[],", "{{- ", " {{ `` -}}",
    ],
)  # fmt: skip
def test_any_text_is_read_in_a_time_that_grows_with_its_size(pattern: str) -> None:
    """And not with the square of it."""

    def work(text: bytes) -> None:
        with suppress(RefusedManifestError):
            read_manifest(text, {})

    less, more = ((pattern * size)[:size].encode() for size in (LARGEST // TIMES, LARGEST))

    assert growth(work, less, more).linear


def test_failure_commands_of_a_refused_manifest_are_known() -> None:
    """If they could be read themselves."""
    for text in (
        "src: x\ncommands: {failure: [tell]}",
        "commands: {failure: [tell], pre: 3}",
        "commands: {failure: [tell]}\n<<: 3",
    ):
        with pytest.raises(RefusedManifestError) as raised:
            read(text)
        assert raised.value.failure == ("tell",)
    with pytest.raises(RefusedManifestError) as raised:
        read("src: x\ncommands: {failure: tell}")
    assert raised.value.failure == ()


# ---------------------------------------------------------------------- the environment


def test_a_literal_brace_can_be_written() -> None:
    """As in Go's templates."""
    text = (INPUTS / "manifest-braces.yml").read_text()

    assert commands(text) == {"post": ('docker ps --format "{{.Names}}"',)}


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
        ('{{ "{{" }}x}}', "{{x}}"),
        ("{{`{{`}}x{{ `}}` }}", "{{x}}"),
        ('{{ "\\\\n\\t" }}', "\\n\t"),
        ("a \n{{- `b` -}}\n c", "abc"),
        ("a {{/* }} */}}b{{- /* */ -}} c", "a bc"),
        ("{{`-`}}  x", "-  x"),
        ("} }} {", "} }} {"),
    ],
)
def test_the_environment_is_filled_in(text: str, value: str) -> None:
    """By the rules of kayac/go-config, through which Stretcher reads its manifests."""
    assert fill_in(text, {"A": "1", "B": "2", "EMPTY": ""}, LARGEST) == value


@pytest.mark.parametrize(
    "text",
    [
        '{{ must_env "NO" }}', '{{ must_env "A" "B" }}', "{{ .A }}", '{{ env "A" | printf }}', "{{ env A }}",
        "{{}}", "{{{ `A` }}",
        '{{ "A" "B" }}', '{{ env"A" }}', "{{ -1 }}", "{{ `A`-}}", "{{ A }}", "{{ `A",
        "{{ env }}", '{{ env "A" ', '{{ env "A\\x41" }}', '{{ if env "A" }}x{{ end }}', '{{ env "A\n" }}',
    ],
)  # fmt: skip
def test_other_templates_are_refused(text: str) -> None:
    """What is not understood is not deployed."""
    with pytest.raises(ValueError, match=r"template|not set|one name|not closed"):
        fill_in(text, {"A": "1"}, LARGEST)


# ---------------------------------------------------------------------- any text at all


@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(alphabet="abc:[]{}&*!|>-#'\"\n \\%@`?,~<01", max_size=60).map(str.encode),
    )
)
def test_any_text_is_a_manifest_or_refused(data: bytes) -> None:
    """Nothing but a refusal comes out."""
    try:
        found = read_manifest(data, {})
    except RefusedManifestError:
        return
    assert isinstance(found.manifest, DeployManifest)


@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(FULL) - 1), st.text("&*<>{}[]|:-!%\"' \n\0a1", max_size=4)), max_size=4
    )
)
def test_a_changed_manifest_is_read_or_refused(changes: list[tuple[int, str]]) -> None:
    """Nothing else becomes of a good one."""
    text = FULL
    for at, what in changes:
        text = text[:at] + what + text[at + 1 :]
    with suppress(RefusedManifestError):
        assert isinstance(read(text).manifest, DeployManifest)


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
