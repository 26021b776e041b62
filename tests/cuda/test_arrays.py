"""Arrays on the device in and out, on the emulated device."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from cnngraph.errors import InvalidInputError, UsageError
from cnngraph.ir.types import DType
from cnngraph.ops import Conv
from cnngraph_cuda import arrays
from cnngraph_cuda.arrays import DeviceArray, DeviceRunner
from cnngraph_cuda.device import EmulatedDevice
from cnngraph_cuda.executor import CudaExecutor

from .support import Net, build


@pytest.fixture
def setup():
    net = Net(3, 4, 5)
    net.add_output("y", net.node(Conv((3, 3), (1, 1), (1,) * 4, (1, 1)), net.x, net.weights(6, 3, 3, 3), None))
    program, _ = build(net)
    device = EmulatedDevice()
    program._executor = CudaExecutor(program.data, lambda: device)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    return program, device, x, program.run({"x": x})["y"]


def on_device(device, array):
    out = DeviceArray(device, array.shape, DType.of(array))
    device.upload(out.address, array)
    return out


class Only:
    """Shows only one of an array's two protocols."""

    def __init__(self, array, protocol, **changes):
        self.owner = array
        if protocol == "interface":
            self.__cuda_array_interface__ = array.__cuda_array_interface__ | changes
        else:
            self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__


@pytest.mark.parametrize("protocol", ["interface", "dlpack", "numpy"])
def test_in_and_out(setup, protocol):
    program, device, x, expected = setup
    feed = x if protocol == "numpy" else Only(on_device(device, x), protocol)
    y = DeviceRunner(program).run({"x": feed})["y"]
    np.testing.assert_array_equal(y.numpy(), expected)
    again = Only(y, "dlpack")
    where, _ = arrays._from_dlpack(again, 0)
    assert (where.address, where.shape, where.dtype) == (y.address, (2, 6, 4, 5), "float32")


def test_exported_memory_lives_as_long_as_its_capsule(setup):
    _, device, x, _ = setup
    array = on_device(device, x)
    address = array.address
    capsule = array.__dlpack__()
    del array
    gc.collect()
    device._find(address)
    del capsule
    gc.collect()
    assert address not in device._memory


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"strides": (240, 80, 4, 20)}, "row-major"), ({"typestr": "<f8"}, "must be float32"), ({"shape": (2, 3, 5, 4)}, "must have shape")],
)
def test_unsuitable_arrays(setup, changes, message):
    program, device, x, _ = setup
    array = on_device(device, x)
    with pytest.raises(InvalidInputError, match=message):
        DeviceRunner(program).run({"x": Only(array, "interface", **changes)})


def test_names(setup):
    program, _, x, _ = setup
    with pytest.raises(InvalidInputError, match="no input is called"):
        DeviceRunner(program).run({"z": x})
    with pytest.raises(InvalidInputError, match="missing"):
        DeviceRunner(program).run({})
    with pytest.raises(InvalidInputError, match="no array"):
        DeviceRunner(program).run({"x": "text"})


def test_programs_of_other_backends(setup):
    program = setup[0]
    program._executor = None
    with pytest.raises(UsageError, match="not cuda"):
        DeviceRunner(program)
