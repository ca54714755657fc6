"""Meshes: what --mesh says, where parameters lie, and that every arm trains on every mesh as on one device."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

from suite import mesh as meshes
from suite import parts
from suite.counting import collectives
from suite.job import Job
from suite.measures import decode, gradient_reach, layout, path
from suite.model import backbone
from suite.training import rig
from suite.training.programs import Programs, is_shape

JOB = Job(task="text", width=16, depth=2, length=32, batch=8, steps=20, learning_rate=1e-3, test_examples=32)
MESHES = ("data:8", "data:2,fsdp:4", "data:2,fsdp:2,model:2", "context:4,data:2", "fsdp:2,context:2,model:2")
HYBRID = "mamba2+attention:window=6"  # of kinds that each mesh treats in its own way
# Several arms to a model: most of what these tests cost is compiling what is around the mixers.
STACKS = (
    *("lstm+gru:heads=2+mingru+mamba2", "gated_deltanet+rwkv7+attention"),
    "attention:window=6+attention:kv_heads=2,implementation=blocked+rglru",
)
STACKED = {parts.split(spec)[0] for stack in STACKS for spec in stack.split("+")}
OTHERS = [name for name in parts.names("suite.mixers") if name not in STACKED]
STACKS = (*STACKS, *("+".join(OTHERS[first : first + 4]) for first in range(0, len(OTHERS), 4)))


def slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


def losses(built: rig.Rig) -> tuple[list[float], int]:
    steps = [(float(metrics["loss"]), state) for _, state, metrics in built.train(built.state, 0, built.job.steps)]
    return [loss for loss, _ in steps], int(steps[-1][1].fingerprint)


def of_stack(stack: str) -> Job:
    return JOB.replace(mixer=stack, depth=len(stack.split("+")))


@pytest.mark.parametrize("stack", [HYBRID, *map(slow, STACKS)])
def test_every_mesh_trains_as_one_device_and_sends_nothing_in_a_loop_over_time(
    stack: str, devices: list, data_dir: Any
) -> None:
    def build(mesh: str, devices: list) -> rig.Rig:
        return rig.build(of_stack(stack), meshes.make(mesh, devices), data_dir=str(data_dir))

    one, one_print = losses(build("", devices[:1]))
    for mesh in MESHES:
        built = build(mesh, devices)
        many, many_print = losses(built)
        assert one_print == many_print
        np.testing.assert_allclose(many, one, rtol=1e-5, err_msg=mesh)
        found = collectives.of_program(built.step, built.mesh)
        assert [collective.name for collective in found if collective.in_time] == []
        if mesh == "data:2,fsdp:4":
            check_that_parameters_are_all_that_is_gathered(found, built.job)


def check_that_parameters_are_all_that_is_gathered(found: list[collectives.Collective], job: Job) -> None:
    gathered = [collective for collective in found if collective.operation == "all-gather"]
    assert {collective.axes for collective in gathered} == {("fsdp",)}
    bytes_of_all = 4 * backbone.count_parameters(backbone.shapes(job, 256))
    assert sum(collective.sent * (collective.calls or 0) for collective in gathered) < 2 * bytes_of_all
    assert {collective.operation for collective in found} == {"all-gather", "reduce-scatter", "all-reduce"}


def test_a_mesh_of_one_axis_trains_as_one_device(devices: list, data_dir: Any) -> None:
    one, _ = losses(rig.build(JOB, meshes.make("", devices[:1]), data_dir=str(data_dir)))
    for axis in meshes.AXES:
        many, _ = losses(rig.build(JOB, meshes.make(f"{axis}:2", devices[:2]), data_dir=str(data_dir)))
        np.testing.assert_allclose(many, one, rtol=1e-5)


# Where parameters lie.


def abstract(spec: str, n_devices: int = 8) -> Any:
    return meshes.make(spec, jax.devices()[:n_devices])


def lying(mesh: Any, mixer: str, **fields: Any) -> dict[str, str]:
    shapes = backbone.shapes(JOB.replace(mixer=mixer, **fields), 256)
    return meshes.describe(eqx.filter(shapes, is_shape), mesh)


def test_the_letters_of_a_name_say_where_a_parameter_lies(devices: list) -> None:
    mesh = abstract("data:2,fsdp:2,model:2")
    found = lying(mesh, "attention+lstm:heads=2+lstm", depth=3)
    assert found["embedding_VD"] == "fsdp along axis 1"
    # The first axis is that of stacked layers.
    assert found["pattern/0/gate_DF"] == "fsdp along axis 1, model along axis 2"
    assert found["pattern/0/down_FD"] == "model along axis 1, fsdp along axis 2"
    assert found["pattern/0/mixer/query_DF"] == "fsdp along axis 1, model along axis 2"
    assert found["pattern/1/mixer/recurrent_HKG"] == "model along axis 1, fsdp along axis 2"
    assert found["pattern/2/mixer/recurrent_HKG"] == "fsdp along axis 2"  # one head is whole over model
    assert found["pattern/1/mixer/bias_G"] == found["scale_D"] == "whole"


def test_an_array_without_letters_is_split_along_its_largest_axis_that_can_be(devices: list) -> None:
    tree = {"weights": jax.ShapeDtypeStruct((3, 12, 8), "float32"), "odd": jax.ShapeDtypeStruct((3, 5), "float32")}
    assert meshes.describe(tree, abstract("fsdp:4,data:2")) == {"weights": "fsdp along axis 1", "odd": "whole"}


def test_an_axis_of_one_device_takes_no_place_from_another(devices: list) -> None:
    # 12 channels cannot be divided by 8, and the 16 of the MLP can.
    found = lying(abstract("fsdp:8"), "lstm", width=12, hidden=16)
    assert found["pattern/0/gate_DF"] == "fsdp along axis 2"
    assert found["pattern/0/down_FD"] == "fsdp along axis 1"


def test_optimiser_state_lies_as_its_parameters_do(devices: list) -> None:
    mesh = abstract("data:2,fsdp:4")
    programs = Programs(JOB, mesh, 256)
    of_state = meshes.describe(programs.like, mesh)
    names = [name for name in of_state if name.endswith("query_DF")]
    assert len(names) == 3  # the parameter and Adam's two moments
    assert len({of_state[name] for name in names}) == 1
    whole = meshes.bytes_a_device(programs.like, abstract("", 1))
    parts_ = meshes.bytes_a_device(programs.like, mesh)
    assert sum(parts_) < 0.3 * sum(whole)


# What devices send.


@pytest.mark.parametrize("stack", ["lstm", "lstm:heads=2"])
def test_no_collective_runs_in_a_loop_over_time(stack: str, devices: list) -> None:
    mesh = abstract("fsdp:2,context:2,model:2")
    found = collectives.of_program(Programs(of_stack(stack), mesh, 256).lowered_step.compile(), mesh)
    assert found
    assert [collective.name for collective in found if collective.in_time] == []


@pytest.mark.parametrize(
    ("mixer", "grows"),
    [
        ("attention:implementation=ring", True),
        ("attention:implementation=blocked", True),
        ("attention:implementation=ring,window=6", False),  # passed on no further than the window reaches
        *(("lstm", False), ("mamba2", False), ("gated_deltanet", False)),
    ],
)
def test_over_context_attention_sends_more_for_longer_sequences_and_states_do_not_grow(
    mixer: str, grows: bool, devices: list
) -> None:
    mesh = abstract("context:8")
    sent = []
    for length in (1024, 4096):  # shards of one block of attention and of four
        job = JOB.replace(mixer=mixer, length=length)
        found = collectives.of_program(Programs(job, mesh, 256).lowered_step.compile(), mesh)
        assert all(collective.calls is not None for collective in found)
        sent.append(sum(collective.sent * (collective.calls or 0) for collective in found))
    assert sent[1] > 1.5 * sent[0] if grows else sent[1] == sent[0]


# What --mesh says.


@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        ("", (8, 1, 1, 1)),
        ("data:8", (8, 1, 1, 1)),
        ("fsdp:4,data:", (2, 4, 1, 1)),
        ("model:2,context:2,fsdp:2", (1, 2, 2, 2)),
        ("context:", (1, 1, 8, 1)),
    ],
)
def test_a_mesh_is_its_axes_with_at_most_one_size_left_out(spec: str, sizes: tuple[int, ...]) -> None:
    assert tuple(meshes.parse(spec, 8).values()) == sizes


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("data:4", "wants 4 devices and there are 8"),
        ("data:3,fsdp:", "wants a multiple of 3 devices and there are 8"),
        ("data:2,data:4", "names the axis data twice"),
        ("data:,fsdp:", "leaves the sizes of data and fsdp out"),
        ("tensor:8", "wanted axis:size with the axes data, fsdp, context, model"),
    ],
)
def test_a_mesh_that_does_not_fit_says_what_is_wrong(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        meshes.parse(spec, 8)


@pytest.mark.parametrize(
    ("spec", "fields", "words"),
    [
        ("data:2,fsdp:4", {"batch": 4}, "batch 4 is not a multiple of the 8 devices of mesh axes data and fsdp"),
        ("context:8", {"length": 20}, "length 20 is not a multiple of the 8 devices of mesh axis context"),
        ("model:8", {"mixer": "attention:heads=4"}, "heads 4 is not a multiple of the 8 devices of mesh axis model"),
        ("data:2,model:4", {"mixer": "attention:kv_heads=2"}, "heads 2 is not a multiple of the 4 devices"),
        ("data:2,model:4", {"mixer": "lstm:heads=2"}, "heads 2 is not a multiple of the 4 devices"),
    ],
)
def test_a_job_that_a_mesh_cannot_split_is_refused(spec: str, fields: Any, words: str, devices: list) -> None:
    with pytest.raises(ValueError, match=words):
        rig.check(JOB.replace(**fields), meshes.make(spec, devices), 256)


def test_the_measure_of_a_layout_says_where_each_parameter_lies_and_what_a_device_holds(devices: list) -> None:
    job = JOB.replace(mixer="lstm:heads=2")
    rows = list(layout.measure(rig.build(job, meshes.make("data:2,fsdp:2,model:2", devices))))
    by_name = {row["parameter"]: row for row in rows}
    recurrent = by_name["pattern/0/mixer/recurrent_HKG"]
    assert recurrent["split"] == "model along axis 1, fsdp along axis 2"
    assert recurrent["bytes_in_all"] == 4 * recurrent["bytes_a_device"]
    everything = by_name[layout.ALL]
    parameters = [row for row in rows if row["split"]]
    for column in ("bytes_in_all", "bytes_a_device"):
        assert everything[column] == sum(row[column] for row in parameters)
    whole = layout.measure(rig.build(job, meshes.make("", devices[:1])))
    assert all(row["bytes_in_all"] == row["bytes_a_device"] for row in whole)


def test_measures_of_one_device_take_the_whole_of_what_a_mesh_has_split(devices: list) -> None:
    job = JOB.replace(mixer="lstm:heads=2", length=8)
    one, many = (rig.build(job, meshes.make(spec, devices[:n])) for spec, n in (("", 1), ("data:2,fsdp:2,model:2", 8)))
    for module, knobs in ((path, {}), (gradient_reach, {"probes": 2})):
        rows, others = (list(module.measure(built, **knobs)) for built in (one, many))
        assert rows == others
    sizes: Any = {"shortest": 8, "longest": 8, "chunk": 8, "tokens": 2, "blocks": 1}
    assert {row["outcome"] for row in decode.measure(many, **sizes)} == {"ok"}
