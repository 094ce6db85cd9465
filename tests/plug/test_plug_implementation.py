"""What is registered: when weights are packed, what is refused, and that rows stand alone."""

import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from plug_modules import TOLERANCES, WIDTH, asked, error, made, ours
from torch import nn

from expertly import _native
from expertly.errors import InputError
from expertly.plug import implementation
from expertly.plug.implementation import Implementation


@pytest.fixture
def packs(monkeypatch) -> list[nn.Module]:
    """The modules that were packed, one entry a time."""
    done: list[nn.Module] = []
    real = implementation.pack

    def pack(module: nn.Module, dtype: str, threads: int) -> _native.Bank:
        done.append(module)
        return real(module, dtype, threads)

    monkeypatch.setattr(implementation, "pack", pack)
    return done


def run(plug: Implementation, module: nn.Module, num_tokens: int = 7) -> torch.Tensor:
    with torch.no_grad():
        return plug(module, *asked(num_tokens))


def agrees(plug: Implementation, module: nn.Module) -> bool:
    with torch.no_grad():
        return error(plug(module, *asked()), module(*asked())) < TOLERANCES["bf16"]


def test_weights_are_packed_at_the_first_call_and_kept(packs) -> None:
    module, plug = made(), ours()
    first, second = run(plug, module), run(plug, module)
    assert len(packs) == 1
    assert torch.equal(first, second)


def replaced(module: nn.Module) -> None:
    module.down_proj = nn.Parameter(module.down_proj.detach() * 2)


def changed_in_place(module: nn.Module) -> None:
    with torch.no_grad():
        module.gate_up_proj[1, 2, 3] += 10.0


def loaded(module: nn.Module) -> None:
    module.load_state_dict({k: v * 3 for k, v in module.state_dict().items()})


def moved(module: nn.Module) -> None:
    module.down_proj.data = module.down_proj.data * -1.0


@pytest.mark.parametrize("change", [replaced, changed_in_place, loaded, moved])
def test_changed_weights_are_noticed_and_packed_again(change, packs) -> None:
    module, plug = made(), ours()
    run(plug, module)
    change(module)
    assert agrees(plug, module)
    run(plug, module)
    assert len(packs) == 2


def test_another_parameter_at_the_address_of_one_that_went_is_not_taken_for_it() -> None:
    module = made()
    seen = implementation._Seen(module.down_proj)
    other = nn.Parameter(module.down_proj.detach())
    assert other.data_ptr() == module.down_proj.data_ptr()
    assert seen.is_still(module.down_proj) and not seen.is_still(other)


def test_modules_are_kept_apart_and_a_copy_is_a_module_of_its_own(packs) -> None:
    module, plug = made(), ours()
    run(plug, module)
    other = copy.deepcopy(module)
    changed_in_place(other)
    assert agrees(plug, other) and agrees(plug, module)
    assert packs == [module, other]


def test_nothing_is_stored_on_the_module() -> None:
    module = made()
    before = dict(vars(module)), list(module.state_dict())
    run(ours(), module)
    assert (dict(vars(module)), list(module.state_dict())) == before


def test_the_packed_copy_goes_when_the_module_does() -> None:
    module, plug = made(), ours()
    run(plug, module)
    packed = weakref.ref(plug._packed[module])
    del module
    gc.collect()
    assert packed() is None and len(plug._packed) == 0


def test_wanted_gradients_are_refused_with_what_to_do() -> None:
    module, plug = made(), ours()
    with pytest.raises(InputError, match="compute no gradients") as raised:
        plug(module, *asked())
    assert "torch.no_grad()" in raised.value.hint
    module.requires_grad_(False)
    plug(module, *asked())
    x_TD, ids_TK, weights_TK = asked()
    with pytest.raises(InputError, match="compute no gradients"):
        plug(module, x_TD.requires_grad_(), ids_TK, weights_TK)


def test_tensors_that_are_elsewhere_are_refused_by_their_place() -> None:
    with pytest.raises(InputError, match=r"not on meta\nhint: .*cpu"):
        run(ours(), made().to("meta"))


def test_experts_that_are_split_over_processes_are_refused() -> None:
    module = made()
    module._is_expert_parallel = True
    with pytest.raises(InputError, match="split over several processes"):
        run(ours(), module)


class Packed(torch.Tensor):
    """A stand-in for the tensors of quantisers and of distributed models."""


def test_tensors_with_a_layout_of_their_own_are_refused_by_their_kind() -> None:
    x_TD, ids_TK, weights_TK = asked()
    with torch.no_grad(), pytest.raises(InputError, match="plain tensors, not Packed"):
        ours()(made(), x_TD.as_subclass(Packed), ids_TK, weights_TK)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_come_back_in_the_type_that_they_came_in(dtype: torch.dtype) -> None:
    x_TD, ids_TK, weights_TK = asked()
    with torch.no_grad():
        found_TD = ours()(made(), x_TD.to(dtype), ids_TK, weights_TK.to(dtype))
    assert found_TD.dtype == dtype and found_TD.shape == x_TD.shape


def test_no_rows_are_no_rows() -> None:
    assert run(ours(), made(), num_tokens=0).shape == (0, WIDTH)


def test_rows_that_lie_apart_in_memory_are_read_where_they_are() -> None:
    module, plug = made(), ours()
    x_TD, ids_TK, weights_TK = asked()
    apart = (part.t().contiguous().t() for part in (x_TD, ids_TK, weights_TK))
    with torch.no_grad():
        assert torch.equal(plug(module, *apart), plug(module, x_TD, ids_TK, weights_TK))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("has_post_expert_norm", [False, True])
def test_a_row_alone_equals_the_row_in_a_batch_to_the_bit(dtype, has_post_expert_norm) -> None:
    module, plug = made(has_post_expert_norm=has_post_expert_norm), ours(dtype)
    x_TD, ids_TK, weights_TK = asked(9)
    with torch.no_grad():
        whole_TD = plug(module, x_TD, ids_TK, weights_TK)
        for t in range(9):
            row = slice(t, t + 1)
            assert torch.equal(
                plug(module, x_TD[row], ids_TK[row], weights_TK[row])[0], whole_TD[t]
            )


@pytest.mark.parametrize("kernels", _native.kernel_sets())
def test_every_instruction_set_of_this_processor_can_be_asked_for(kernels: str) -> None:
    assert agrees(ours(kernels=kernels), made())


def test_calls_from_many_threads_take_turns() -> None:
    modules, plug = [made(), made(has_bias=True)], ours(threads=2)
    right = [run(ours(), module) for module in modules]
    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(lambda i: run(plug, modules[i % 2]), range(40)))
    assert all(torch.equal(y_TD, right[i % 2]) for i, y_TD in enumerate(found))


def test_weights_made_in_inference_mode_run_too() -> None:
    with torch.inference_mode():
        module = made()
        assert agrees(ours(), module)
