"""The configuration: what is read, what is overridden, and what is refused with which words."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.config import Config, LaneConfig, load, names
from streamserve.errors import ConfigError
from streamserve.signals import DepthMode
from streamserve.types import LaneId

TWO_LANES = "lanes:\n  - {id: a}\n  - {id: b, cores: 2}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "two.yaml").write_text(TWO_LANES)
    return tmp_path


def write(folder: Path, text: str) -> str:
    (folder / "own.yaml").write_text(text)
    return str(folder / "own.yaml")


class TestShipped:
    def test_there_are_some(self) -> None:
        assert {"cpu-pair", "cpu-two-pairs", "gpu-shared", "gpu-two-pairs", "unified"} <= set(names())

    @pytest.mark.parametrize("name", names())
    def test_each_loads_and_pairs_its_own_lanes(self, name: str) -> None:
        config = load(name)
        lanes = {lane.id for lane in config.lanes}
        assert {lane for pair in config.stream_pairs() for lane in pair} == lanes

    def test_unified_is_plain_vllm_on_every_core(self) -> None:
        config = load("unified")
        assert [lane.cores for lane in config.lanes] == [0]
        assert config.stream_pairs() == ((LaneId("lane-0"), LaneId("lane-0")),)


class TestLoad:
    def test_what_is_not_said_has_a_default(self, folder: Path) -> None:
        config = load("two", folder=folder)
        assert config == Config(lanes=[LaneConfig(id=LaneId("a")), LaneConfig(id=LaneId("b"), cores=2)])

    def test_a_file_is_read_by_its_path(self, folder: Path) -> None:
        assert load(str(folder / "two.yaml")) == load("two", folder=folder)

    def test_an_unknown_name_lists_the_known_ones(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="no configuration 'too': give a YAML file or one of two"):
            load("too", folder=folder)

    def test_a_file_that_is_not_there_is_named(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match=r"no configuration '.*absent\.yaml'"):
            load(str(folder / "absent.yaml"), folder=folder)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("lanes: [", "not valid YAML"),
            ("- a\n- b\n", "must be a mapping"),
            ("", "must be a mapping"),
            ("device: cpu\n", "missing required field `lanes`"),
        ],
    )
    def test_a_file_that_is_no_configuration(self, folder: Path, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load(write(folder, text))

    def test_a_file_that_is_no_text(self, folder: Path) -> None:
        file = folder / "latin.yaml"
        file.write_bytes(b"model: caf\xe9\n")
        with pytest.raises(ConfigError, match="is not UTF-8 text"):
            load(str(file))

    def test_without_pairs_every_lane_may_prefill_for_every_lane(self, folder: Path) -> None:
        assert load("two", folder=folder).stream_pairs() == (("a", "a"), ("a", "b"), ("b", "a"), ("b", "b"))

    def test_lanes_may_be_kept_to_themselves(self, folder: Path) -> None:
        assert load("two", ["pairs=own"], folder).stream_pairs() == (("a", "a"), ("b", "b"))

    def test_named_pairs_are_the_pairs(self, folder: Path) -> None:
        config = load("two", ["pairs=[[a, b], [b, b]]"], folder)
        assert config.stream_pairs() == (("a", "b"), ("b", "b"))


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("rooter=round_robin", "no key 'rooter'; did you mean 'router'?"),
            ("engine.max_runing=4", "no key 'max_runing' in engine; did you mean 'max_running'?"),
            ("scheduler.lane_wait=4", "no key 'lane_wait' in scheduler; did you mean 'lane_wait_s'?"),
            ("server.prot=80", "no key 'prot' in server; did you mean 'port'?"),
            ("lanes.1.core=1", "no key 'core' in lanes[1]; did you mean 'cores'?"),
        ],
    )
    def test_the_nearest_key_is_suggested(self, folder: Path, override: str, message: str) -> None:
        with pytest.raises(ConfigError) as refused:
            load("two", [override], folder)
        assert str(refused.value) == f"two: {message}"

    def test_without_a_near_one_the_known_are_listed(self, folder: Path) -> None:
        with pytest.raises(ConfigError) as refused:
            load("two", ["server.zzz=1"], folder)
        assert str(refused.value).startswith("two: no key 'zzz' in server; known: host, port, ")

    def test_a_wrong_type_is_named_with_its_place(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match=r"Expected `int`, got `str` - at `\$\.engine\.max_running`"):
            load("two", ["engine.max_running=many"], folder)


class TestOverrides:
    def test_values_are_yaml(self, folder: Path) -> None:
        overrides = ["model=org/name", "engine.max_model_len=512", "share_cores=true", "server.api_keys=[k1, k2]"]
        config = load("two", [*overrides, "engine.extra={seed: 7}", "server.tool_call_parser=null"], folder)
        assert (config.model, config.engine.max_model_len, config.share_cores) == ("org/name", 512, True)
        assert (config.server.api_keys, config.engine.extra) == (["k1", "k2"], {"seed": 7})
        assert config.server.tool_call_parser is None

    def test_off_is_a_word_and_only_true_and_false_are_booleans(self, folder: Path) -> None:
        assert load("two", ["speculation.mode=off"], folder).speculation.mode is DepthMode.OFF
        in_file = write(folder, f"{TWO_LANES}speculation: {{mode: off}}\nshare_cores: true\n")
        assert load(in_file).speculation.mode is DepthMode.OFF
        assert load(in_file).share_cores and not load(in_file, ["share_cores=False"]).share_cores
        words = load(in_file, ["server.extra={a: on, b: no, c: y, d: Yes, e: TRUE, f: tru}"]).server.extra
        assert words == {"a": "on", "b": "no", "c": "y", "d": "Yes", "e": True, "f": "tru"}
        with pytest.raises(ConfigError, match="Expected `bool`, got `str`"):
            load("two", ["share_cores=yes"], folder)

    def test_a_position_reaches_into_a_list(self, folder: Path) -> None:
        config = load("two", ["lanes.0.cores=3", "lanes.1={id: c, cores: [4, 5]}"], folder)
        assert [(lane.id, lane.cores) for lane in config.lanes] == [("a", 3), ("c", [4, 5])]

    def test_a_value_may_hold_an_equals_sign_and_dots(self, folder: Path) -> None:
        assert load("two", ["server.extra.chat-template=a=b.jinja"], folder).server.extra == {
            "chat-template": "a=b.jinja"
        }

    def test_the_last_override_of_a_key_wins(self, folder: Path) -> None:
        assert load("two", ["server.port=1", "server.port=2"], folder).server.port == 2

    @given(port=st.integers(0, 65535), running=st.integers(1, 10_000))
    def test_overrides_say_what_a_file_says(self, port: int, running: int) -> None:
        said = load("unified", [f"server.port={port}", f"engine.max_running={running}"])
        assert (said.server.port, said.engine.max_running) == (port, running)
        assert msgspec.structs.replace(said, server=Config(lanes=[]).server, engine=Config(lanes=[]).engine) == load(
            "unified"
        )

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("router", "write key=value"),
            ("=1", "write key=value"),
            ("engine..max_running=1", "write key=value"),
            ("engine=[", "not valid YAML"),
            ("model=2026-13-45", "not valid YAML"),
            ("lanes.².cores=1", "'²' must be a position from 0 to 1"),
            ("lanes.2.cores=1", "'2' must be a position from 0 to 1"),
            ("lanes.2=1", "'2' must be a position from 0 to 1"),
            ("lanes.-1.cores=1", "'-1' must be a position from 0 to 1"),
            ("lanes.a.cores=1", "'a' must be a position from 0 to 1"),
            ("lanes.0.id.x=1", "'id' is a value, it has no keys"),
            ("lanes.0.id.x.y=1", "'x' is below a value that has no keys"),
        ],
    )
    def test_an_override_that_leads_nowhere(self, folder: Path, override: str, message: str) -> None:
        with pytest.raises(ConfigError) as refused:
            load("two", [override], folder)
        assert str(refused.value).startswith(f"--set {override!r}: ")
        assert message in str(refused.value)


class TestImpossible:
    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("lanes=[]", "at least one lane"),
            ("lanes.1.id=a", "every lane needs its own id, got a, a"),
            ("lanes.0.id=a b", "id 'a b' may hold letters"),
            ("lanes.0.id=''", "id '' may hold letters"),
            ("pairs=[[a, c]]", "pairs: no lane 'c'; lanes are a, b"),
            ("lanes.0.tensor_parallel_size=0", "a: tensor_parallel_size must be at least 1"),
            ("engine.kv_cache_gib=0", "engine.kv_cache_gib must be above 0, got 0"),
            ("engine.max_running=0", "engine.max_running must be at least 1"),
            ("engine.max_step_tokens=-1", "engine.max_step_tokens must be at least 1, got -1"),
            ("engine.stall_s=0", "engine.stall_s must be above 0, got 0"),
            ("scheduler.max_dispatched=0", "scheduler.max_dispatched must be at least 1"),
            ("scheduler.max_attempts=0", "scheduler.max_attempts must be at least 1"),
            ("scheduler.restart_backoff_s=[]", "needs at least one pause"),
            ("server.max_body_bytes=0", "server.max_body_bytes must be at least 1"),
            ("server.port=-1", "server.port must be at least 0 and at most 65535, got -1"),
            ("server.port=65536", "server.port must be at least 0 and at most 65535, got 65536"),
            ("pairs=[]", "pairs: name at least one pair, or write all, or own"),
            ("server.api_keys=['']", "server.api_keys: a key is empty, so anyone would be let in"),
            ("server.admin_keys=[k, ' ']", "server.admin_keys: a key is empty"),
            ("pairs=none", "Invalid enum value 'none'"),
            ("lanes.0.cores=-1", "a: cores must be 0 (all) or more"),
            ("engine.kv_cache_gib=.nan", "engine.kv_cache_gib must be above 0, got nan"),
            ("scheduler.max_queued=-1", "scheduler.max_queued must be at least 0, got -1"),
            ("scheduler.restart_backoff_s=[-1]", "every pause must be at least 0"),
            ("scheduler.order=lifo", "Invalid enum value 'lifo'"),
            ("slo.ttft_s=0", "slo.ttft_s must be above 0, got 0"),
            ("speculation.target=1.5", "speculation.target must be at least 0 and at most 1, got 1.5"),
            ("speculation.price=.inf", "speculation.price must be at least 0, got inf"),
            ("speculation.lookup_tokens=[3, 2]", "write [shortest, longest]"),
            ("speculation.method=eagle", "needs the draft model's name in speculation.model"),
            ("device=tpu", "Invalid enum value 'tpu'"),
        ],
    )
    def test_it_is_refused_with_its_place(self, folder: Path, override: str, message: str) -> None:
        with pytest.raises(ConfigError) as refused:
            load("two", [override], folder)
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        ("lane", "message"),
        [
            ("{id: a}", r"a: name 1 GPU\(s\) in gpus.* got \[\]"),
            ("{id: a, gpus: [0], tensor_parallel_size: 2}", r"a: name 2 GPU\(s\)"),
            ("{id: a, gpus: [0], memory_fraction: 0}", "memory_fraction must be above 0 and at most 1, got 0"),
            ("{id: a, gpus: [0], memory_fraction: 1.1}", "memory_fraction must be above 0 and at most 1, got 1.1"),
        ],
    )
    def test_a_gpu_lane_names_its_devices_and_its_share(self, folder: Path, lane: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load(write(folder, f"device: gpu\nlanes: [{lane}]\n"))
