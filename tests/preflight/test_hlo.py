"""Texts of compiled programs: what runs in loops, and what a TPU does in pieces."""

import pytest

from vl_ltr_jax.preflight.hlo import Collective, collectives, cycles

PROGRAM = """
%body.1 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %g = f32[4,8]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %x)
}

ENTRY %main.2 (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %w = (s32[], f32[8]{0}) while(%t), condition=%c, body=%body.1, KNOWN
  %s = (bf16[16]{0}, bf16[16]{0}) all-reduce-start(%b), replica_groups={{0,1},{2,3}}
  %r = f32[4]{0} reduce-scatter(%a), replica_groups=mesh['x'=4,'y'=2] {'y'}, to_apply=%f
  ROOT %e = f32[8]{0} all-gather(%r), replica_groups=mesh['x'=4,'y'=2], d=1 {'x','y'}
}
"""
KNOWN = 'backend_config={"known_trip_count":{"n":"5"}}'


# As the TPU compiler writes: a loop ends at the constant of its condition, and one
# gather starts in a fusion, goes on in a second beside a product, and ends in a third.
TPU = """
%cond (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(3)
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = f32[8]{0} fusion(%p), kind=kLoop, calls=%inner, b={"estimated_cycles":"10"}
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %x)
}

%inner (p: f32[8]) -> f32[8] {
  ROOT %y = f32[8]{0} add(%p, %p), b={"estimated_cycles":"1000"}
}

%start (p: f32[8]) -> (f32[8], f32[16]) {
  %g1 = f32[16]{0} all-gather(%p), replica_groups={{0,1}}, dimensions={0}
  ROOT %c = (f32[8], f32[9]) custom-call(%g1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.7 (p: f32[8]) -> (f32[8], f32[16]) {
  %g2 = f32[16]{0} all-gather(%p), replica_groups={{0,1}}, dimensions={0}
  ROOT %t2 = (f32[8], f32[16]) tuple(%p, %g2)
}

%end (p: f32[8]) -> f32[16] {
  %g3 = f32[16]{0} all-gather(%p), replica_groups={{0,1}}, dimensions={0}
  ROOT %c3 = f32[16] custom-call(%g3), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %s = (f32[8], f32[16]) fusion(%a), calls=%start, b={"estimated_cycles":"2"}
  %u = (f32[8], f32[16]) fusion(%s), calls=%async_collective_fusion.7
  %e = f32[16] fusion(%u), calls=%end
  ROOT %w = f32[8]{0} while(%t), condition=%cond, body=%body
}
"""


def test_collectives_are_counted_through_loops_and_by_any_notation():
    """Breaks if a loop's body counts once, or a group's size is read wrongly."""
    assert collectives(PROGRAM.replace("KNOWN", KNOWN)) == {
        # Five times 128 bytes from groups of four, once 32 bytes from a group of eight.
        "all-gather": Collective(6, 5 * 128 + 32, 5 * 128 * 3 / 4 + 32 * 7 / 8),
        "all-reduce": Collective(1, 32, 2 * 32 / 2, 2 * 32 / 2),
        "reduce-scatter": Collective(1, 16, 16),
    }


def test_a_loop_of_unknown_length_is_not_guessed():
    with pytest.raises(ValueError, match="unknown length"):
        collectives(PROGRAM.replace("KNOWN", ""))


def test_a_collective_of_a_tpu_counts_once_and_a_loop_each_pass():
    """Breaks if each piece counts, a fusion's inside counts, or a loop counts once."""
    assert collectives(TPU) == {"all-gather": Collective(1, 64, 32, 32)}
    assert cycles(TPU) == 2 + 3 * 10


def test_a_loop_counts_without_a_sign_too():
    """Breaks if a product cut into pieces, beside what it sends on, counts once."""
    unsigned = TPU.replace("%limit = s32[]", "%limit = u32[]")
    assert unsigned != TPU
    assert cycles(unsigned) == 2 + 3 * 10
