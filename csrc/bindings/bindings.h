// What module.cpp puts together, one function a file.

#pragma once

#include <pybind11/pybind11.h>

namespace fkat {

void bind_build(pybind11::module_& module);
void bind_ring(pybind11::module_& module);
void bind_indices(pybind11::module_& module);
void bind_mark(pybind11::module_& module);
void bind_repeats(pybind11::module_& module);
void bind_gatherer(pybind11::module_& module);
void bind_unpacker(pybind11::module_& module);
void bind_producer(pybind11::module_& module);
void bind_consumer(pybind11::module_& module);
void bind_stager(pybind11::module_& module);  // where CUDA is built in

}  // namespace fkat
