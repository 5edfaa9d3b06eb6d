"""What a scrape shows, parsed as Prometheus parses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agentd.report.gauges import MOST_GAUGES, Condition
from agentd.report.metrics import Metrics
from tests.examples import LOOKS


@dataclass(frozen=True)
class Poll:
    """What a poller says of itself."""

    query: str
    last_contact: float | None = None
    error: str | None = None
    limited: str | None = None
    held: str | None = None
    alarming: bool = False
    answers: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


class Clock:
    """Unix seconds that move when told."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        """The present."""
        return self.now


def _metrics(*polls: Poll, clock: Clock | None = None) -> Metrics:
    return Metrics(lambda: polls, handlers=["tls", "ban"], events=["rotate"], clock=clock or Clock())


def _scrape(metrics: Metrics) -> dict[str, float]:
    """Sample -> value; a sample reads name{label,...} with the labels' values in order of their names."""
    return {
        sample.name
        + (
            f"{{{','.join(v for _, v in sorted(sample.labels.items()))}}}" if sample.labels else ""
        ): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_the_page_is_what_the_library_would_write() -> None:
    """Byte for byte, with labels that need escaping and with numbers of every size."""
    metrics = _metrics(Poll('key:a"b\\c\nd', answers=12_345_678), Poll("event", error="x", held="y"))
    metrics.outcome("tls", "applied")
    metrics.handled("tls", 0.003)
    metrics.publish("ban", "entries", 1e21)
    metrics.publish("ban", "ratio", float("nan"))
    metrics.publish("ban", "limit", float("inf"))
    ours = metrics.render().decode().splitlines()
    theirs = generate_latest(metrics._registry).decode().splitlines()

    volatile = ("process_cpu", "process_resident", "process_virtual", "process_open")
    assert [one for one in ours if not one.startswith(volatile)] == [
        one for one in theirs if not one.startswith(volatile)
    ]


def test_seconds_since_contact_are_worked_out_at_the_scrape() -> None:
    """The gauge grows while nothing comes, without anybody touching it."""
    clock = Clock()
    metrics = _metrics(Poll("event", last_contact=clock.now - 3), clock=clock)
    first = _scrape(metrics)["agentd_query_last_contact_seconds{event}"]

    clock.now += 60

    assert (first, _scrape(metrics)["agentd_query_last_contact_seconds{event}"]) == (3, 63)


def test_a_query_never_answered_counts_from_the_start() -> None:
    """An alert on the silence of a query must fire also if there was no first answer."""
    clock = Clock()
    metrics = _metrics(Poll("event"), clock=clock)

    clock.now += 10

    assert _scrape(metrics)["agentd_query_last_contact_seconds{event}"] == 10


def test_a_clock_set_back_makes_no_negative_silence() -> None:
    """Seconds since contact are never below 0."""
    clock = Clock()
    metrics = _metrics(Poll("event", last_contact=clock.now + 100), clock=clock)

    assert _scrape(metrics)["agentd_query_last_contact_seconds{event}"] == 0


def test_without_a_query_nothing_is_said_of_consul() -> None:
    """Nobody asked it: while the daemon is not ready, or if the configuration watches nothing."""
    assert "agentd_consul_up" not in _scrape(_metrics())


def test_the_condition_of_the_daemon_is_shown() -> None:
    """Ready, stuck threads, and whether there is an nginx."""
    condition = Condition(ready=False, stuck=2, nginx_missing=True)
    found = _scrape(Metrics(list, condition=lambda: condition))
    names = ("agentd_ready", "agentd_stuck_threads", "agentd_nginx_missing")
    assert [found[name] for name in names] == [0, 2, 1]


def test_the_time_until_a_change_is_live_is_a_histogram() -> None:
    """By handler, one that is not configured as other."""
    metrics = _metrics()
    metrics.applied("tls", 0.3)
    metrics.applied("gone", 3)
    found = _scrape(metrics)
    assert found["agentd_change_duration_seconds_sum{tls}"] == 0.3
    assert found["agentd_change_duration_seconds_count{other}"] == 1


@pytest.mark.parametrize(
    "polls,up",
    [
        ((Poll("event"),), 0),
        ((Poll("event", 1.0, error="connection refused"),), 0),
        ((Poll("event", 1.0, error="a 500"), Poll("key:a", 1.0)), 1),
    ],
)
def test_consul_is_up_while_one_query_gets_answers(polls: tuple[Poll, ...], up: int) -> None:
    """One query that fails is that query's trouble; all of them are Consul's."""
    assert _scrape(_metrics(*polls))["agentd_consul_up"] == up


def test_each_query_tells_how_it_fares() -> None:
    """Failing, held and answers are told by query."""
    sample = _scrape(
        _metrics(Poll("event", 1.0, answers=7), Poll("key:a", error="no", held="empty", alarming=True))
    )

    assert sample["agentd_query_answers_total{event}"] == 7
    assert (sample["agentd_query_failing{event}"], sample["agentd_query_held{event}"]) == (0, 0)
    assert (sample["agentd_query_failing{key:a}"], sample["agentd_query_held{key:a}"]) == (1, 1)


def test_a_key_that_never_was_there_alarms_nobody() -> None:
    """Its empty answer is not believed, which is as it should be."""
    assert _scrape(_metrics(Poll("key:a", 1.0, held="empty")))["agentd_query_held{key:a}"] == 0


@settings(max_examples=LOOKS or 30)
@given(st.lists(st.text(min_size=1), max_size=20))
def test_a_stranger_s_event_name_never_becomes_a_label(names: list[str]) -> None:
    """Whoever fires events chooses their names; all but the configured ones count as "other"."""
    metrics = _metrics()
    before = len(_scrape(metrics))
    for name in names:
        metrics.event_received(name)
        metrics.event_refused(name)

    after = _scrape(metrics)

    assert len(after) == before
    strangers = sum(name != "rotate" for name in names)
    assert after["agentd_events_received_total{other}"] == strangers
    assert after["agentd_events_refused_total{other}"] == strangers


def test_a_configured_event_counts_under_its_name() -> None:
    """Received, refused and missed are counted apart."""
    metrics = _metrics()
    metrics.event_received("rotate")
    metrics.event_received("rotate")
    metrics.event_refused("rotate")
    metrics.missed(44)

    sample = _scrape(metrics)

    assert sample["agentd_events_received_total{rotate}"] == 2
    assert sample["agentd_events_refused_total{rotate}"] == 1
    assert sample["agentd_events_missed_total"] == 44


def test_what_is_not_believed_is_counted_by_name_and_reason() -> None:
    """A name that is not configured counts as "other"."""
    metrics = _metrics()
    for name in ("rotate", "rotate", "stranger"):
        metrics.disbelieved(name, "unsigned")

    sample = _scrape(metrics)

    assert sample["agentd_fleet_refused_total{rotate,unsigned}"] == 2
    assert sample["agentd_fleet_refused_total{other,unsigned}"] == 1


def test_outcomes_count_by_handler_and_outcome() -> None:
    """Every outcome has its series; an unknown one, or an unknown handler, is "other"."""
    metrics = _metrics()
    metrics.outcome("tls", "applied")
    metrics.outcome("gone", "refused")
    metrics.outcome("tls", "dreamt")

    sample = _scrape(metrics)

    assert sample["agentd_outcomes_total{tls,applied}"] == 1
    assert sample["agentd_outcomes_total{other,refused}"] == 1
    assert sample["agentd_outcomes_total{tls,other}"] == 1


def test_what_did_not_happen_yet_is_shown_as_zero() -> None:
    """The rate of a series that begins at 1 would miss the first failure."""
    sample = _scrape(_metrics())

    assert sample["agentd_outcomes_total{ban,failed}"] == 0
    assert sample["agentd_reloads_total{failed}"] == 0
    assert sample["agentd_events_received_total{rotate}"] == 0


def test_a_new_configuration_brings_its_own_names() -> None:
    """After a SIGHUP the new handler and event count under their names."""
    metrics = _metrics()

    metrics.configure(handlers=["deploy"], events=["release"])
    metrics.event_received("release")
    metrics.outcome("deploy", "applied")

    sample = _scrape(metrics)
    assert sample["agentd_events_received_total{release}"] == 1
    assert sample["agentd_outcomes_total{deploy,applied}"] == 1


def test_durations_fall_into_buckets() -> None:
    """Attempts, commits, checks and reloads are histograms in seconds."""
    metrics = _metrics()
    metrics.handled("tls", 0.004)
    metrics.committed(0.02)
    metrics.checked(0.011)
    metrics.reloaded("proved", 0.13)

    sample = _scrape(metrics)

    assert sample["agentd_attempt_duration_seconds_bucket{tls,0.005}"] == 1
    assert sample["agentd_attempt_duration_seconds_bucket{tls,0.0025}"] == 0
    assert sample["agentd_commit_duration_seconds_sum"] == pytest.approx(0.02)
    assert sample["agentd_check_duration_seconds_count"] == 1
    assert sample["agentd_reload_duration_seconds_count"] == 1


def test_reloads_count_by_result() -> None:
    """An unknown result is "other"."""
    metrics = _metrics()
    for result in ("proved", "failed", "dreamt"):
        metrics.reloaded(result, 0.1)
    metrics.reloads_merged(9)
    metrics.rolled_back()
    metrics.retried("tls")

    sample = _scrape(metrics)

    assert [sample[f"agentd_reloads_total{{{r}}}"] for r in ("proved", "failed", "other")] == [1, 1, 1]
    assert sample["agentd_reload_duration_seconds_count"] == 3
    assert sample["agentd_reloads_merged_total"] == 9
    assert sample["agentd_rollbacks_total"] == 1
    assert sample["agentd_retries_total{tls}"] == 1


def test_the_generation_and_what_nginx_is_owed_are_gauges() -> None:
    """The present state, not a count."""
    metrics = _metrics()
    metrics.generation(42)
    metrics.reload_pending(pending=True)

    sample = _scrape(metrics)

    assert (sample["agentd_generation"], sample["agentd_reload_pending"]) == (42, 1)


def test_a_handler_publishes_its_own_gauge() -> None:
    """The value shows under agentd_handler_, labelled with the handler, and the last one counts."""
    metrics = _metrics()
    metrics.publish("ban", "entries", 3)
    metrics.publish("ban", "entries", 5)
    metrics.publish("tls", "entries", 1)

    sample = _scrape(metrics)

    assert sample["agentd_handler_entries{ban}"] == 5
    assert sample["agentd_handler_entries{tls}"] == 1


def test_a_time_that_a_handler_publishes_also_shows_its_age() -> None:
    """The age of the encrypting key grows from scrape to scrape."""
    clock = Clock()
    metrics = _metrics(clock=clock)
    metrics.publish("tls", "key_promoted_timestamp_seconds", clock.now - 60)

    clock.now += 40

    sample = _scrape(metrics)
    assert sample["agentd_handler_key_promoted_age_seconds{tls}"] == 100
    assert sample["agentd_handler_key_promoted_timestamp_seconds{tls}"] == 999_940


@pytest.mark.parametrize("name", ["", "Upper", "a-b", "a b", 'a"} 1\nforged 1', "9lives", "a" * 97, "ключ"])
def test_a_gauge_needs_a_name_that_prometheus_takes(name: str) -> None:
    """A bad name is refused and nothing of it is shown."""
    metrics = _metrics()

    with pytest.raises(ValueError, match="a gauge's name"):
        metrics.publish("tls", name, 1.0)

    assert not any(key.startswith("agentd_handler_") for key in _scrape(metrics))


def test_a_handler_cannot_publish_without_end() -> None:
    """One more than the most is refused; those that are there can still be set."""
    metrics = _metrics()
    for number in range(MOST_GAUGES):
        metrics.publish("tls", f"gauge_{number}", 0.0)

    with pytest.raises(ValueError, match="more than"):
        metrics.publish("tls", "one_more", 0.0)
    metrics.publish("tls", "gauge_0", 1.0)

    assert _scrape(metrics)["agentd_handler_gauge_0{tls}"] == 1


def test_gauges_of_a_verdict() -> None:
    """Each is published; one that no metric can be does not keep the others from it."""
    metrics = _metrics()

    metrics.gauged("ban", {"No Name": 1.0, "ipset_entries": 7.0})

    assert _scrape(metrics)["agentd_handler_ipset_entries{ban}"] == 7


def test_gauges_of_a_handler_that_is_gone_are_gone() -> None:
    """After a SIGHUP without the handler its values are no longer shown, nor taken."""
    metrics = _metrics()
    metrics.publish("tls", "entries", 1.0)

    metrics.configure(handlers=["ban"], events=[])
    metrics.publish("tls", "entries", 2.0)

    assert "agentd_handler_entries{tls}" not in _scrape(metrics)


def test_the_process_itself_is_shown() -> None:
    """Memory and processor time come with the page."""
    assert _scrape(_metrics())["process_resident_memory_bytes"] > 1_000_000
