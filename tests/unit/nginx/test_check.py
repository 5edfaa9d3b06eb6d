"""The verdict on a generation, with a program of three lines in nginx's place."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.errors import ConfigError, PermanentError, TemporaryError, TreeError
from agentd.nginx.check import NginxCheck
from agentd.options import NginxOptions
from tests.unit.tree.trees import everything

# Like nginx, it takes a generation unless a file in it says otherwise, and quotes the path it was given.
NGINX = """\
#!/bin/sh
conf=$4
dir=$(dirname "$conf")
[ -e {pid} ] || : > {pid}
[ -e "$dir/mime.types" ] || {{ echo "nginx: [emerg] no mime.types"; exit 1; }}
for file in "$dir/nginx.conf" "$dir"/{tree}/current/agentd.conf; do
    word=$(grep -E 'broken|agentd_probe' "$file") && {{
        echo "nginx: [warn] not this line"
        echo "2026/01/01 nginx: [emerg] unknown directive $word in $file:1"
        echo "nginx: configuration file $conf test failed"
        exit 1
    }}
done
exit 0
"""


class Place:
    """A configuration directory with a tree, and the stand-in for nginx."""

    def __init__(self, directory: Path, tree: str = "agentd") -> None:
        self.conf = directory / "nginx"
        self.tree = self.conf / tree
        self.pid = directory / "nginx.pid"
        self.binary = directory / "stand-in"
        (self.tree / "generations").mkdir(parents=True)
        (self.conf / "mime.types").touch()
        (self.conf / "nginx.conf").write_text(f"include {tree}/current/agentd.conf;\n")
        self.script(NGINX.format(pid=self.pid, tree=tree))
        self.check = NginxCheck(
            NginxOptions(binary=str(self.binary), conf=self.conf / "nginx.conf", pid=self.pid, timeout=60.0),
            self.tree,
        )

    def script(self, text: str) -> None:
        """Replace what stands in for nginx."""
        self.binary.write_text(text)
        self.binary.chmod(0o755)

    def generation(self, number: int, text: str) -> Path:
        """A generation whose agentd.conf is `text`."""
        made = self.tree / "generations" / f"{number:06d}"
        made.mkdir()
        (made / "agentd.conf").write_text(text)
        return made

    def flip(self, number: int) -> None:
        """Make it current."""
        (self.tree / "current").symlink_to(f"generations/{number:06d}")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A tree right below nginx.conf, with a good current generation."""
    place = Place(tmp_path)
    place.generation(1, "good\n")
    place.flip(1)
    return place


def test_a_good_candidate_passes(place: Place) -> None:
    """And nothing is left behind."""
    good = place.generation(2, "good\n")
    before = everything(place.conf)

    place.check(good)

    assert everything(place.conf) == before


def test_a_bad_candidate_is_refused_with_nginxs_own_words(place: Place) -> None:
    """The path is the generation's, not the shadow's; warnings are left out."""
    bad = place.generation(2, "broken\n")
    before = everything(place.conf)

    with pytest.raises(PermanentError) as raised:
        place.check(bad)

    assert str(raised.value) == (
        f"nginx -t rejects it: [emerg] unknown directive broken in {bad}/agentd.conf:1"
    )
    assert everything(place.conf) == before


def test_a_configuration_broken_elsewhere_is_the_operators(place: Place) -> None:
    """The change waits, and the message names the real file."""
    with (place.conf / "nginx.conf").open("a") as file:
        file.write("broken\n")

    with pytest.raises(TemporaryError, match=rf"elsewhere.*in {place.conf}/nginx\.conf:1"):
        place.check(place.generation(2, "good\n"))


def test_a_candidate_that_mends_the_configuration_passes(place: Place) -> None:
    """What is current is not looked at then."""
    (place.tree / "generations" / "000001" / "agentd.conf").write_text("broken\n")

    place.check(place.generation(2, "good\n"))


@pytest.mark.parametrize("dangling", [False, True])
def test_without_an_earlier_generation_nobody_can_be_blamed(tmp_path: Path, *, dangling: bool) -> None:
    """The change waits."""
    place = Place(tmp_path)
    if dangling:
        place.flip(7)

    with pytest.raises(TemporaryError, match="no earlier generation"):
        place.check(place.generation(1, "broken\n"))


def test_a_tree_nested_deeper_is_found(tmp_path: Path) -> None:
    """What lies beside it on the way is there as well."""
    place = Place(tmp_path, "lb/site/agentd")
    (place.conf / "lb" / "other.conf").touch()
    place.script(place.binary.read_text().replace("exit 0\n", '[ -e "$dir/lb/other.conf" ]\n'))
    place.generation(1, "good\n")
    place.flip(1)

    place.check(place.generation(2, "good\n"))
    with pytest.raises(PermanentError):
        place.check(place.generation(3, "broken\n"))


def test_a_tree_elsewhere_cannot_be_checked(place: Place, tmp_path: Path) -> None:
    """The configuration must say so, not nginx."""
    check = NginxCheck(NginxOptions(conf=place.conf / "nginx.conf"), tmp_path / "elsewhere")

    with pytest.raises(ConfigError, match="must be below"):
        check(place.generation(2, "good\n"))


def test_an_empty_pid_file_is_taken_away(place: Place) -> None:
    """`nginx -t` leaves one if there was none."""
    place.check(place.generation(2, "good\n"))

    assert not place.pid.exists()


@pytest.mark.parametrize("content", ["", "4711\n"])
def test_a_pid_file_that_was_there_stays(place: Place, content: str) -> None:
    """Even an empty one: it is not ours."""
    place.pid.write_text(content)

    place.check(place.generation(2, "good\n"))

    assert place.pid.read_text() == content


def test_a_pid_file_that_nginx_wrote_meanwhile_stays(place: Place) -> None:
    """An nginx that starts during the check has its pid in it."""
    place.script(f"#!/bin/sh\necho 4711 > {place.pid}\n")

    place.check(place.generation(2, "good\n"))

    assert place.pid.read_text() == "4711\n"


def test_a_missing_nginx_is_temporary(place: Place) -> None:
    """It may be installed, or mended, at any time."""
    place.binary.unlink()
    with pytest.raises(TemporaryError, match="install it"):
        place.check(place.generation(2, "good\n"))

    place.binary.write_text("")
    place.binary.chmod(0o644)
    with pytest.raises(TemporaryError, match="cannot be started"):
        place.check(place.generation(3, "good\n"))


def test_an_nginx_that_hangs_is_temporary(place: Place) -> None:
    """It is ended at the time limit, and the shadow is taken away."""
    place.script("#!/bin/sh\nexec sleep 30\n")
    options = NginxOptions(
        binary=str(place.binary), conf=place.conf / "nginx.conf", pid=place.pid, timeout=0.1
    )

    with pytest.raises(TemporaryError, match="timed out after"):
        NginxCheck(options, place.tree)(place.generation(2, "good\n"))

    assert list(place.tree.glob(".scratch-*")) == []


def test_an_nginx_that_is_killed_is_no_verdict(place: Place) -> None:
    """Out of memory is not the candidate's fault."""
    place.script("#!/bin/sh\nkill -9 $$\n")

    with pytest.raises(TemporaryError, match="SIGKILL"):
        place.check(place.generation(2, "good\n"))


def test_a_refusal_without_a_word_is_still_one(place: Place) -> None:
    """And a long one is cut."""
    place.script('#!/bin/sh\n[ -e "$(dirname "$4")/agentd/current/good" ]\n')
    (place.tree / "current" / "good").touch()
    with pytest.raises(PermanentError, match="it printed nothing"):
        place.check(place.generation(2, ""))

    place.script('#!/bin/sh\n[ -e "$(dirname "$4")/agentd/current/good" ] || { seq 5000; exit 1; }\n')
    with pytest.raises(PermanentError) as raised:
        place.check(place.generation(3, ""))
    assert len(str(raised.value)) < 1100


def test_a_shadow_that_cannot_be_made_is_an_error_of_the_tree(place: Place) -> None:
    """It is retried like a commit that cannot be written."""
    candidate = place.generation(2, "good\n")
    check = NginxCheck(NginxOptions(conf=place.conf / "nginx.conf"), place.conf / "nginx.conf" / "agentd")

    with pytest.raises(TreeError, match="shadow"):
        check(candidate)


def test_it_knows_whether_the_tree_is_included(place: Place) -> None:
    """Included relative to nginx.conf, that is; nothing is left behind."""
    before = everything(place.conf)
    assert place.check.included()
    assert everything(place.conf) == before

    place.script("#!/bin/sh\nexit 0\n")
    assert not place.check.included()


def test_inclusion_can_be_told_before_the_first_generation(tmp_path: Path) -> None:
    """The probe needs no current generation."""
    assert Place(tmp_path).check.included()


def test_inclusion_cannot_be_told_of_a_broken_configuration(place: Place) -> None:
    """Then nginx never comes to the probe."""
    (place.conf / "nginx.conf").write_text("broken\n")

    with pytest.raises(TemporaryError, match="broken"):
        place.check.included()
