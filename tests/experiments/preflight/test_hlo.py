"""Collectives, gathers and scatters of programs written by hand, with their bytes, groups, calls and places."""

import pytest

from experiments.preflight.hlo import ROOT, Access, Collective, Program

TABLES = f"""
FileNames
1 "{ROOT}/models/ops/nms.py"
2 "{ROOT}/.venv/lib/python3/site-packages/optax/update.py"
3 "/elsewhere/run.py"

FunctionNames
1 "suppress.<locals>.step"
2 "apply"

FileLocations
1 {{file_name_id=3 function_name_id=2 line=3 end_line=3 column=1 end_column=2}}
2 {{file_name_id=1 function_name_id=1 line=55 end_line=56 column=1 end_column=2}}
3 {{file_name_id=2 function_name_id=2 line=9 end_line=9 column=1 end_column=2}}

StackFrames
1 {{file_location_id=1 parent_frame_id=1}}
2 {{file_location_id=2 parent_frame_id=2}}
3 {{file_location_id=3 parent_frame_id=3}}
"""


def program(*lines: str, others: str = "") -> Program:
    body = "\n".join(f"  {line}" for line in lines)
    return Program(f"HloModule jit_step\n{TABLES}\n{others}\nENTRY %main.1 (p: f32[8]) -> f32[8] {{\n{body}\n}}\n")


@pytest.mark.parametrize(
    ("line", "kind", "size", "group", "sent"),
    [
        (
            "%a = f32[8]{0:T(128)S(1)} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add",
            *("all-reduce", 32, 4, 2 * 32 * 3 / 4),
        ),
        (
            "%a = (f32[8]{0:T(128)}, /*index=1*/bf16[4,4]{1,0}) all-reduce(%x, %y), replica_groups=[2,2]<=[4]",
            *("all-reduce", 32 + 32, 2, 64),
        ),
        (
            "%a = (f32[8]{0}, f32[8]{0}) all-reduce-start(%x, %y), replica_groups=[1,4]<=[2,2]T(1,0)",
            *("all-reduce", 64, 4, 96),
        ),
        (
            "%a = bf16[3,16]{1,0} all-gather(%x), replica_groups=mesh['axis_0'=2,'axis_1'=4,'b'=8], device_ids=([2,4,8]) "
            "{'axis_1','b'}, dimensions={1}",
            *("all-gather", 96, 32, 96 * 31 / 32),
        ),
        (
            "%a = (f32[4]{0}, f32[16]{0}) all-gather-start(%x), replica_groups={{0,1,2,3}}, dimensions={0}",
            *("all-gather", 64, 4, 48),
        ),
        ("ROOT %a = f32[4]{0} reduce-scatter(%x), replica_groups={{0,1}}", "reduce-scatter", 32, 2, 16),
        ("%a = pred[16]{0} all-to-all(%x), replica_groups={{0,1,2,3}}", "all-to-all", 16, 4, 12),
        (
            "%a = (s32[4]{0}, s32[4]{0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}",
            *("collective-permute", 16, 2, 16),
        ),
    ],
)
def test_a_collective_has_kind_bytes_and_group(line, kind, size, group, sent):
    (found,) = program(line).collectives()
    assert found == Collective(kind, size, group, 1) and found.sent == sent


def test_collectives_without_traffic_and_repeated_channels_are_left_out():
    found = program(
        "%a = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups={{0},{1}}",
        "%b = f32[8]{0} collective-permute(%x), channel_id=2, source_target_pairs={{0,0},{1,1}}",
        "%c = f32[8]{0} all-gather(%x), channel_id=3, replica_groups={{0,1}}",
        "%d = f32[8]{0} all-gather(%x), channel_id=3, replica_groups={{0,1}}",
        "%e = f32[8]{0} all-reduce-done(%c)",
    )
    assert found.collectives() == [Collective("all-gather", 32, 2, 1)]


def test_groups_of_an_unknown_format_raise_an_error():
    with pytest.raises(ValueError, match="the groups of a collective cannot be parsed"):
        program("%a = f32[8]{0} all-reduce(%x), replica_groups=new").collectives()


LOOP = """
%body (p: f32[8]) -> f32[8] {
  %inner = f32[8]{0} all-reduce(%p), replica_groups={{0,1}}
}

%condition (p: s32[]) -> pred[] {
  %p = s32[] parameter(0)
  %bound = s32[]{:T(128)} constant(7)
  ROOT %lt = pred[] compare(%p, %bound), direction=LT
}

%unknown (p: s32[]) -> pred[] {
  %p = s32[] parameter(0)
  ROOT %ne = pred[] compare(%p, %p), direction=NE
}

%never (p: f32[8]) -> f32[8] {
  %dead = f32[8]{0} all-reduce(%p), replica_groups={{0,1}}
}
"""


def test_loop_counts_as_often_as_it_runs():
    found = program("%w = f32[8]{0} while(%x), condition=%condition, body=%body", others=LOOP)
    assert found.collectives() == [Collective("all-reduce", 32, 2, 7)] and found.loops == 0


def test_a_loop_of_unknown_length_counts_once_and_is_reported():
    found = program("%w = f32[8]{0} while(%x), condition=%unknown, body=%body", others=LOOP)
    assert found.collectives() == [Collective("all-reduce", 32, 2, 1)] and found.loops == 1


def test_branches_and_fusions_are_counted():
    found = program(
        "%c = f32[8]{0} conditional(%i, %x, %x), branch_computations={%body, %body}",
        "%f = f32[8]{0} fusion(%x), kind=kLoop, calls=%body",
        others=LOOP,
    )
    assert found.collectives() == [Collective("all-reduce", 32, 2, 3)]


def test_gathers_and_scatters_have_slices_and_a_place():
    found = program(
        "%x = f32[100,4]{1,0:T(8,128)} parameter(0)",
        "%i = s32[50,1]{1,0} parameter(1)",
        "%u = f32[50,4]{1,0} parameter(2)",
        "%g = f32[50,4]{1,0:T(8,128)} gather(%x, %i), offset_dims={1}, collapsed_slice_dims={0}, start_index_map={0}, "
        'index_vector_dim=1, slice_sizes={1,4}, metadata={op_name="jit(step)/gather" stack_frame_id=3}',
        "%s = f32[100,4]{1,0} scatter(%x, %i, %u), update_window_dims={1}, inserted_window_dims={0}, "
        'to_apply=%add, metadata={op_name="jit(step)/scatter"}',
        "%t = (f32[100], f32[100]) scatter(%a, %b, %i, %v, %v), update_window_dims={}, to_apply=%add",
        "%v = f32[60]{0} parameter(3)",
    )
    assert found.accesses() == [
        Access("scatter", "unknown", 60, 1, 1),
        Access("gather", "models/ops/nms.py:55 (step)", 50, 4, 1),
        Access("scatter", "jit(step)/scatter", 50, 4, 1),
    ]


def test_a_gather_without_a_place_has_the_place_of_its_fusion():
    fused = """
%inside (p: f32[9]) -> f32[3] {
  ROOT %g = f32[3]{0} gather(%p, %i), slice_sizes={1}
}
"""
    found = program('%f = f32[3]{0} fusion(%x), calls=%inside, metadata={op_name="a" stack_frame_id=2}', others=fused)
    assert found.accesses() == [Access("gather", "models/ops/nms.py:55 (step)", 3, 1, 1)]
