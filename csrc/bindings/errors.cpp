#include "bindings/errors.h"

#include <string>

#include "base/error.h"

namespace py = pybind11;

namespace fkat {
namespace {

// Owned for the life of the process: exceptions may be raised until the interpreter is gone.
PyObject* corrupt_segment_error = nullptr;
PyObject* deadline_passed = nullptr;
PyObject* device_error = nullptr;
PyObject* producer_exited = nullptr;

PyObject* new_exception(py::module_& module, const char* name, PyObject* base, const char* doc) {
  const std::string qualified = "fkat.data._core." + std::string(name);
  PyObject* type = PyErr_NewExceptionWithDoc(qualified.c_str(), doc, base, nullptr);
  if (type == nullptr) throw py::error_already_set();
  module.add_object(name, type);
  Py_INCREF(type);
  return type;
}

void translate(std::exception_ptr error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const CorruptSegment& e) {
    PyErr_SetString(corrupt_segment_error, e.what());
  } catch (const OutOfMemory& e) {
    PyErr_SetString(PyExc_MemoryError, e.what());
  } catch (const ArgumentError& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  } catch (const DeviceError& e) {
    PyErr_SetString(device_error, e.what());
  } catch (const SystemError& e) {
    const py::tuple arguments = py::make_tuple(e.code().value(), e.what());
    PyErr_SetObject(PyExc_OSError, arguments.ptr());
  } catch (const PeerExited&) {
    PyErr_SetString(producer_exited, "the producer has exited");
  } catch (const DeadlinePassed& e) {
    PyErr_Format(deadline_passed, "nothing was published within %S s",
                 py::float_(e.timeout_s).ptr());
  }
}

}  // namespace

void register_errors(py::module_& module) {
  corrupt_segment_error =
      new_exception(module, "CorruptSegmentError", PyExc_RuntimeError,
                    "Bytes in shared memory are not what the ring's layout promises.");
  // Of its own, because user code raises TimeoutError too, and that travels here.
  deadline_passed = new_exception(module, "DeadlinePassedError", PyExc_TimeoutError,
                                  "Nothing was published before the caller's deadline.");
  device_error = new_exception(module, "DeviceError", PyExc_RuntimeError,
                               "A device cannot be used, or a copy to it failed.");
  producer_exited = new_exception(module, "ProducerExitedError", PyExc_RuntimeError,
                                  "The producer's process is gone and the ring is empty.");
  py::register_exception_translator(&translate);
}

}  // namespace fkat
