"""A campaign: pieces that add up, can be interrupted, and end when there is enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.drills import campaign as campaign_module
from holdfast.drills.campaign import LONG_DRILLS, Campaign, LongDrill
from holdfast.drills.disturbances import check_faults
from holdfast.drills.results import results_page
from holdfast.drills.run import DrillResult
from holdfast.drills.settings import DrillSettings
from holdfast.drills.verdict import Validity, Verdict

DRILLS = (
    LongDrill("ours", "It holds.", DrillSettings(), {"ambiguous": 25}),
    LongDrill("others", "It breaks.", DrillSettings(subject="plain"), {"ambiguous": 5}, Validity.INVALID),
    LongDrill("served", "End to end.", DrillSettings(workload="http", subject="http"), {"ok": 1}, serves=True),
)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[DrillSettings]:
    """The settings of the drills that would have been run: each finds ten ambiguous commits, and `plain` denies three."""
    seen: list[DrillSettings] = []

    def run(settings: DrillSettings, *_: Any, **__: Any) -> DrillResult:
        seen.append(settings)
        settings.output.mkdir(parents=True)
        denied = 3 if settings.subject == "plain" else 0
        validity = Validity.INVALID if denied else Validity.VALID
        verdict = Verdict("fail-means-absent", validity, f"{denied} denied", {"wrong": denied, "looked_at": 40})
        late = Verdict("deadline-kept", Validity.VALID, "in time", {"overshoot_p999_s": settings.seed / 100})
        figures = {"operations": 50, "ok": 40, "ambiguous": 10, "ambiguous_applied": 4, "seed": settings.seed}
        return DrillResult(settings, settings.output, (verdict, late), figures)

    monkeypatch.setattr(campaign_module, "run", run)
    return seen


def test_pieces_are_run_until_there_is_enough(tmp_path: Path, ran: list[DrillSettings]) -> None:
    """Each piece has the next seed and a folder of its own, the drill that has come least far is next, and then it is over."""
    campaign = Campaign(tmp_path, DRILLS)
    while (piece := campaign.next_piece()) is not None:
        campaign.run(piece)
    assert [(settings.subject, settings.seed) for settings in ran] == [
        ("holdfast", 1),
        ("plain", 1),
        ("holdfast", 2),
        ("holdfast", 3),
    ]
    assert ran[-1].output == tmp_path / "ours" / "003"
    totals = campaign.totals(DRILLS[0])
    assert (totals.pieces, totals.figures["ambiguous"], totals.validity) == (3, 30, Validity.VALID)
    assert totals.worst["deadline-kept.overshoot_p999_s"] == 0.03
    assert campaign.totals(DRILLS[1]).wrong == ("others/001: fail-means-absent: 3 denied",)


def test_a_campaign_is_taken_up_again(tmp_path: Path, ran: list[DrillSettings]) -> None:
    """What counts is what is in the folder; what an interrupted piece left does not, and is removed."""
    first = Campaign(tmp_path, DRILLS[:1])
    piece = first.next_piece()
    assert piece is not None
    first.run(piece)
    (tmp_path / "ours" / "002").mkdir()
    (tmp_path / "ours" / "002" / "w1.jsonl").write_text("torn")
    second = Campaign(tmp_path, DRILLS[:1])
    piece = second.next_piece()
    assert piece is not None
    assert piece.number == 2
    second.run(piece)
    assert {path.name for path in (tmp_path / "ours" / "002").iterdir()} == {"summary.json"}


def test_a_summary_holds_what_adds_up(tmp_path: Path, ran: list[DrillSettings]) -> None:
    """It can be read without the history, and names no URL."""
    campaign = Campaign(tmp_path, [replace(DRILLS[0], settings=DrillSettings(database="sqlite:///secret.db"))])
    piece = campaign.next_piece()
    assert piece is not None
    campaign.run(piece)
    text = (tmp_path / "ours" / "001" / "summary.json").read_text()
    assert "secret" not in text
    assert set(json.loads(text)) == {"settings", "summary", "verdicts"}


def test_histories_are_judged_again(tmp_path: Path, ran: list[DrillSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    """When a checker has changed, what it says of a history that is here counts; where there is none, what was said stays."""
    campaign = Campaign(tmp_path, DRILLS[:1])
    for _ in range(2):
        piece = campaign.next_piece()
        assert piece is not None
        campaign.run(piece)
    (tmp_path / "ours" / "002" / "w1.jsonl").write_text("")
    verdict = Verdict("no-lost-ack", Validity.INVALID, "1 lost", {"wrong": 1})

    def judged(settings: DrillSettings, folder: Path, recovery_s: float | None) -> DrillResult:
        assert (settings.seed, settings.output, recovery_s) == (2, folder, None)
        return DrillResult(settings, folder, (verdict,), {"ambiguous": 10, "seed": 2})

    monkeypatch.setattr(campaign_module, "judged", judged)
    campaign.judge_again()
    assert campaign.totals(DRILLS[0]).wrong == ("ours/002: no-lost-ack: 1 lost",)
    assert campaign.totals(DRILLS[0]).pieces == 2


def test_what_is_kept_counts_where_the_histories_are_not(tmp_path: Path, ran: list[DrillSettings]) -> None:
    """Another machine goes on from the file, with the next seed; whoever has both counts each piece once."""
    kept = tmp_path / "pieces.jsonl"
    first = Campaign(tmp_path / "here", DRILLS[:1], kept=kept)
    piece = first.next_piece()
    assert piece is not None
    first.run(piece)
    first.keep()
    first.keep()
    assert first.totals(DRILLS[0]).pieces == 1
    assert "examples" not in kept.read_text()
    second = Campaign(tmp_path / "there", DRILLS[:1], kept=kept)
    assert second.totals(DRILLS[0]) == first.totals(DRILLS[0])
    piece = second.next_piece()
    assert piece is not None
    assert piece.number == 2
    second.run(piece)
    second.keep()
    assert Campaign(tmp_path / "nowhere", DRILLS[:1], kept=kept).totals(DRILLS[0]).pieces == 2


def test_a_service_is_needed_for_what_is_served(tmp_path: Path) -> None:
    """Without one, the drills of a service are left out."""
    assert [drill.name for drill in Campaign(tmp_path, DRILLS).drills] == ["ours", "others"]


def test_the_page_tells_both_sides(tmp_path: Path, ran: list[DrillSettings]) -> None:
    """Sums and bounds for Holdfast, and what the others do beside it."""
    campaign = Campaign(tmp_path, DRILLS)
    while (piece := campaign.next_piece()) is not None:
        campaign.run(piece)
    page = results_page(campaign, "make drill")
    assert (
        "**30 ambiguous COMMITs** were settled, of which at least 12 were carried out: 0 lost, 0 doubled, 0 denied"
        in page
    )
    assert "at most 1.0e-01 per ambiguous COMMIT" in page
    ours, others = (line for line in page.splitlines() if line.startswith(("| `ours`", "| `others`")))
    assert ours.endswith("| holds |")
    assert others.endswith("| **broken** |")
    assert ours.count("|") == others.count("|") == 18


def told_of(drill: str, piece: str, *verdicts: tuple[str, str], **figures: float) -> dict[str, Any]:
    found = [{"checker": name, "valid": valid, "reason": f"{name} {valid}", "counts": {}} for name, valid in verdicts]
    return {"drill": drill, "piece": piece, "summary": figures, "verdicts": found}


def kept_page(tmp_path: Path, *lines: dict[str, Any]) -> tuple[Campaign, str]:
    kept = tmp_path / "pieces.jsonl"
    kept.write_text("".join(json.dumps(line) + "\n" for line in lines))
    campaign = Campaign(tmp_path / "here", DRILLS[:1], kept=kept)
    return campaign, results_page(campaign, "make drill")


def test_a_drill_short_of_its_goal_holds_so_far(tmp_path: Path) -> None:
    """The page says how far it is, and "holds" alone only where there is enough."""
    _, page = kept_page(tmp_path, told_of("ours", "001", ("no-lost-ack", "valid"), ambiguous=11))
    assert "| holds so far (11 of 25 ambiguous COMMITs) |" in page
    _, page = kept_page(tmp_path, told_of("ours", "001", ("no-lost-ack", "valid"), ambiguous=25))
    assert "| holds |" in page


def test_unknown_answers_stand_in_the_row_and_in_the_list(tmp_path: Path) -> None:
    """Nobody reads "holds" where a question was not answered, and a drill that answered none holds nothing."""
    answers = [("coverage", "unknown"), ("no-lost-ack", "valid")]
    lines = [told_of("ours", f"00{n}", *answers, ambiguous=20) for n in (1, 2)]
    campaign, page = kept_page(tmp_path, *lines, told_of("ours", "003", ("coverage", "valid"), ambiguous=1))
    assert "| holds; unknown: coverage 2 of 3 |" in page
    assert "What could not be told:\n\n- ours/001: coverage: coverage unknown\n- ours/002:" in page
    assert campaign.totals(DRILLS[0]).validity is Validity.VALID
    campaign, page = kept_page(tmp_path, told_of("ours", "001", ("coverage", "unknown"), ambiguous=30))
    assert campaign.totals(DRILLS[0]).validity is Validity.UNKNOWN
    assert "| nothing could be told; unknown: coverage 1 of 1 |" in page


def test_what_an_earlier_page_said_is_not_done(tmp_path: Path, ran: list[DrillSettings]) -> None:
    """It is marked, its ratio weighs nothing, the drill is run again from its first piece, and that replaces it."""
    line = told_of("ours", "021", ("amplification", "valid"), ambiguous=300)
    line |= {"source": "kept from an earlier page", "pieces": 21}
    line["verdicts"][0]["counts"] = {"ratio": 0.34}
    campaign, page = kept_page(tmp_path, line)
    assert "| held, kept from an earlier page |" in page
    assert "| 0.34 |" in page
    assert "**1 row was not measured by this campaign:**" in page
    piece = campaign.next_piece()
    assert piece is not None
    assert piece.number == 1
    campaign.run(piece)
    assert campaign.totals(DRILLS[0]).pieces == 1
    campaign.keep()
    assert "source" not in (tmp_path / "pieces.jsonl").read_text()


def test_overloads_stand_side_by_side(tmp_path: Path) -> None:
    """What was done, how late, and how many were turned away, for each drill that met one."""
    line = told_of("ours", "001", ("overload", "valid"), ("recovery-time", "valid"), faults=1)
    line["verdicts"][0]["counts"] = {
        "overload_s": 30, "due": 1800, "due_per_s": 60.0, "goodput_per_s": 15.5, "done_p99_s": 1.25, "shed": 1200,
        "given_up": 120, "unknown": 15,
    }  # fmt: skip
    line["verdicts"][1]["counts"] = {"recovery_worst_s": 0.4}
    _, page = kept_page(tmp_path, line)
    assert "| `ours` | 60.0/s | 15.5/s | 1.250 s | 40.0/s | 4.0/s | 0.5/s |  | 0.400 s |" in page
    assert "## Overload" not in kept_page(tmp_path, told_of("ours", "001", ("coverage", "valid")))[1]


def test_an_empty_page_promises_nothing(tmp_path: Path) -> None:
    """Where nothing was run, nothing holds."""
    page = results_page(Campaign(tmp_path, DRILLS), "make drill")
    assert "| holds" not in page
    assert "nothing yet" in page


@pytest.mark.parametrize("drill", LONG_DRILLS, ids=lambda drill: drill.name)
def test_every_long_drill_can_be_run(drill: LongDrill) -> None:
    """Its faults exist and can happen where it takes place, and its goal is a figure that there is."""
    check_faults(drill.settings)
    assert drill.enough
    assert set(drill.enough) <= {"operations", "ok", "faults", "ambiguous", "killed"}


def test_what_a_long_drill_promises_is_judged(tmp_path: Path, ran: list[DrillSettings], monkeypatch: Any) -> None:
    """A drill whose sentence names a time hands it to the checker."""
    asked: list[float | None] = []
    run: Callable[..., DrillResult] = vars(campaign_module)["run"]

    def limited(settings: DrillSettings, *args: Any, recovery_s: float | None, **given: Any) -> DrillResult:
        asked.append(recovery_s)
        return run(settings, *args, **given)

    monkeypatch.setattr(campaign_module, "run", limited)
    campaign = Campaign(tmp_path, [replace(DRILLS[0], recovery_s=1.0)])
    piece = campaign.next_piece()
    assert piece is not None
    campaign.run(piece)
    assert asked == [1.0]
    promised = {drill.name: drill.recovery_s for drill in LONG_DRILLS if drill.recovery_s}
    assert promised.pop("outage-mysql") == 1.0
    assert promised.pop("overload-mysql-limit-on") == 2.0
    assert promised.pop("galera-nodes") == 10.0


def test_the_long_drills_are_enough() -> None:
    """Over all flavours at least 10,000 ambiguous COMMITs are settled, and each drill has a name of its own."""
    commits = [drill for drill in LONG_DRILLS if drill.name.startswith("commits-")]
    assert sum(drill.enough["ambiguous"] for drill in commits) >= 10_000
    assert {drill.settings.server for drill in commits} == {"sqlite", "mariadb", "mysql", "postgresql"}
    assert len({drill.name for drill in LONG_DRILLS}) == len(LONG_DRILLS)
