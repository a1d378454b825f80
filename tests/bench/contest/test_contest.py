"""The loop: order, capacity, starts, memory, pauses, and going on where it stopped; no server and no clock is real."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from streamserve.bench.contest.contest import CAPACITY_REQUESTS
from streamserve.bench.contest.folder import Folder
from streamserve.bench.contest.settings import Settings
from streamserve.errors import SetupError
from tests.bench.contest.hall import Hall, prompt_set


def asked(**changes: Any) -> Settings:
    made: dict[str, Any] = {"loads": (0.5, 0.8), "requests": 4, "repeats": 2, "plots": False, **changes}
    return Settings(**{"systems": ("streamserve", "vllm", "vllm-spec"), **made})


async def test_repeats_are_complete_and_systems_take_turns(tmp_path: Path) -> None:
    hall = Hall()
    kept = await hall.contest(asked(capacity={"*": 3.0}), Folder(tmp_path)).measure()
    assert len(kept) == 2 * 2 * 3
    assert hall.client.runs == [
        "streamserve", "vllm", "vllm-spec", "vllm", "vllm-spec", "streamserve",
        "vllm", "vllm-spec", "streamserve", "vllm-spec", "streamserve", "vllm",
    ]  # fmt: skip
    assert [each.run.cell.repeat for each in kept] == [0] * 6 + [1] * 6
    assert sorted({each.run.rate for each in kept}) == pytest.approx([1.5, 2.4])
    assert hall.expected[0] == 12


async def test_every_system_is_sent_the_same_at_the_same_seed(tmp_path: Path) -> None:
    hall = Hall()
    await hall.contest(asked(capacity={"mix": 3.0}), Folder(tmp_path)).measure()
    per_load = Counter((requests, rate, seed) for _, requests, rate, _, seed in hall.client.sent if rate != 1.0)
    assert set(per_load.values()) == {3}
    assert len(per_load) == 4


async def test_systems_start_once_a_repeat_and_none_is_left(tmp_path: Path) -> None:
    hall = Hall()
    await hall.contest(asked(capacity={"*": 3.0}), Folder(tmp_path)).measure()
    assert Counter(hall.ups) == {"streamserve": 2, "vllm": 2, "vllm-spec": 2}
    assert hall.now_up == {}


@pytest.mark.parametrize(("changes", "starts"), [({"keep": True}, 1), ({"apart": True}, 4)])
async def test_systems_stay_up_or_start_for_every_run(tmp_path: Path, changes: dict[str, Any], starts: int) -> None:
    hall = Hall()
    await hall.contest(asked(capacity={"*": 3.0}, **changes), Folder(tmp_path)).measure()
    assert set(Counter(hall.ups).values()) == {starts}
    assert hall.now_up == {}


async def test_where_memory_is_short_runs_start_their_system_and_that_is_said(tmp_path: Path) -> None:
    hall = Hall(free_gib=lambda up: 5.0 - 2.0 * up)
    kept = await hall.contest(asked(capacity={"*": 3.0}), Folder(tmp_path)).measure()
    assert len(kept) == 12
    assert [note for note in hall.notes if "as with --apart" in note] == [
        "1.0 GiB of memory are left and a system takes about 2.0: every run starts and stops its system from here on, "
        "as with --apart"
    ]
    assert len(hall.ups) == 2 + 12
    assert all(each.apart for each in kept)


async def test_a_server_that_was_started_for_one_run_has_seen_no_prompt(tmp_path: Path) -> None:
    sets = {"short": prompt_set("short", 4)}
    settings = asked(capacity={"*": 3.0}, repeats=1)
    up = await Hall().contest(settings, Folder(tmp_path / "up"), sets).measure()
    assert [(each.apart, each.seen) for each in up] == [(False, 0)] * 3 + [(False, 4)] * 3
    short = Hall(free_gib=lambda up: 5.0 - 2.0 * up)
    apart = await short.contest(settings, Folder(tmp_path / "apart"), sets).measure()
    assert [(each.apart, each.seen) for each in apart] == [(True, 0)] * 6


async def test_capacity_is_measured_on_the_first_system_and_its_server_stopped(tmp_path: Path) -> None:
    hall = Hall()
    folder = Folder(tmp_path)
    await hall.contest(asked(workloads=("short", "mix")), folder).measure()
    assert folder.capacities() == {"short": 3.2, "mix": 3.2}
    measured = [(name, len(requests)) for name, requests, *_ in hall.client.sent if len(requests) == CAPACITY_REQUESTS]
    assert measured == [("streamserve", CAPACITY_REQUESTS)] * 2
    assert hall.ups[:2] == ["streamserve", "streamserve"] and hall.downs[0] == "streamserve"


async def test_no_capacity_is_needed_with_a_rate_or_for_bursts(tmp_path: Path) -> None:
    cases: list[dict[str, Any]] = [{"rate": 2.0}, {"arrivals": ("burst", "alone")}]
    for number, changes in enumerate(cases):
        hall = Hall()
        await hall.contest(asked(**changes), Folder(tmp_path / str(number))).measure()
        assert CAPACITY_REQUESTS not in {len(requests) for _, requests, *_ in hall.client.sent}


async def test_one_at_a_time_sends_the_next_when_the_last_has_ended(tmp_path: Path) -> None:
    hall = Hall({"vllm": 3.0})
    kept = await hall.contest(asked(arrivals=("alone",), repeats=1), Folder(tmp_path)).measure()
    assert [len(each.run.samples) for each in kept] == [4, 4, 4]
    assert [each.begun_s for each in kept[0].run.samples] == [0.0, 10.0, 20.0, 30.0]
    assert [each.at_s for each in kept[0].run.watched] == [0.5, 10.5, 20.5, 30.5]
    assert kept[0].run.duration_s == 40.0


async def test_a_contest_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    settings = asked(capacity={"*": 3.0})
    whole = await Hall().contest(settings, folder).measure()
    (tmp_path / "cells" / "vllm_mix_poisson_0.8_1.json").unlink()
    hall = Hall()
    assert await hall.contest(settings, folder).measure() == whole
    assert hall.client.runs == ["vllm"]
    assert hall.ups == ["vllm"]
    assert hall.expected[0] == 1


async def test_more_repeats_keep_those_that_lie_there(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    await Hall().contest(asked(capacity={"*": 3.0}), folder).measure()
    hall = Hall()
    assert len(await hall.contest(asked(capacity={"*": 3.0}, repeats=3), folder).measure()) == 18
    assert len(hall.client.runs) == 6


async def test_a_run_over_a_pause_is_measured_again_at_the_next_start(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    settings = asked(capacity={"*": 3.0}, repeats=1)
    paused = Hall()
    paused.gap_s = 5.0
    kept = await paused.contest(settings, folder).measure()
    assert not any(each.sound for each in kept)
    assert "left out, the machine paused for 5.0 s" in paused.progress[0]
    hall = Hall()
    assert all(each.sound for each in await hall.contest(settings, folder).measure())
    assert len(hall.client.runs) == 6


async def test_a_second_server_of_the_first_system_shows_the_noise(tmp_path: Path) -> None:
    hall = Hall()
    kept = await hall.contest(asked(capacity={"*": 3.0}, aa=True, repeats=1), Folder(tmp_path)).measure()
    assert Counter(each.run.cell.system for each in kept)["streamserve again"] == 2
    assert Counter(hall.ups)["streamserve"] == 2


async def test_a_system_that_ended_is_started_again_and_that_is_said(tmp_path: Path) -> None:
    hall = Hall()

    def done(text: str, work_s: float) -> None:
        for serving in hall.now_up.values():
            if serving.system.name == "vllm" and not serving.stopped.done() and hall.ups.count("vllm") == 1:
                serving.stopped.set_result("vllm was ended by SIGKILL; the end of its log:\n  ...")

    hall.done = done  # type: ignore[method-assign]
    await hall.contest(asked(capacity={"*": 3.0}, repeats=1), Folder(tmp_path)).measure()
    assert hall.ups.count("vllm") == 2
    assert "vllm is started again, for it ended: vllm was ended by SIGKILL; the end of its log:" in hall.notes
    assert hall.now_up == {}


async def test_a_system_that_answers_nothing_ends_the_contest_with_all_systems_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hall = Hall()
    drive = hall.client.drive_watched

    async def refuse(serving: Any, *rest: Any) -> Any:
        duration_s, samples, watched = await drive(serving, *rest)
        lost = tuple(type(each)(0.0, 5, 0, None, None, (), "HTTP 500") for each in samples)
        return duration_s, lost if serving.system.name == "vllm" else samples, watched

    monkeypatch.setattr(hall.client, "drive_watched", refuse)
    with pytest.raises(SetupError, match=r"vllm answers nothing \(HTTP 500\)"):
        await hall.contest(asked(capacity={"*": 3.0}), Folder(tmp_path)).measure()
    assert hall.now_up == {}
