// fkat.data._core: table of contents.

#include <pybind11/pybind11.h>

#include "bindings/bindings.h"
#include "bindings/errors.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The shared-memory microbatch ring.";
  fkat::register_errors(module);
  fkat::bind_build(module);
  fkat::bind_ring(module);
  fkat::bind_producer(module);
  fkat::bind_consumer(module);
  fkat::bind_indices(module);
  fkat::bind_mark(module);
  fkat::bind_repeats(module);
  fkat::bind_gatherer(module);
  fkat::bind_unpacker(module);
#ifdef FKAT_HAS_CUDA
  fkat::bind_stager(module);
#endif
}
