#include "bindings/unpacker.h"

#include <string_view>
#include <utility>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/mark.h"

namespace py = pybind11;

namespace fkat {
namespace {

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// An instance of a named tuple's type: its constructor is a Python function.
template <typename... Items>
py::object named_tuple(const py::type& type, Items&&... items) {
  auto* const type_object = reinterpret_cast<PyTypeObject*>(type.ptr());
  PyObject* const tuple = type_object->tp_alloc(type_object, sizeof...(items));
  if (tuple == nullptr) throw py::error_already_set();
  Py_ssize_t i = 0;
  (PyTuple_SET_ITEM(tuple, i++, std::forward<Items>(items).release().ptr()), ...);
  return py::reinterpret_steal<py::object>(tuple);
}

}  // namespace

py::tuple Unpacker::open(const py::object& record) {
  if (!py::isinstance<Microbatch>(record)) {
    const py::object error = makers_.load_end(record);
    PyErr_SetObject(py::type::handle_of(error).ptr(), error.ptr());
    throw py::error_already_set();
  }
  const auto microbatch = record.cast<std::shared_ptr<Microbatch>>();
  const py::list leaves = leaves_of(microbatch, makers_.from_dlpack, makers_.asarray);
  return py::make_tuple(unpack(structure_of(*microbatch), leaves), microbatch->bytes.size(),
                        microbatch->is_copy);
}

py::tuple Unpacker::unpack(std::span<const std::byte> text, const py::list& leaves) {
  const MarkView mark(text);
  if (mark.is_event()) {
    return py::make_tuple(makers_.load_event(py::bytes(as_text(mark.rest))), py::none());
  }
  const MarkHeader& header = mark.header;
  if (header.ends >= makers_.ends.size()) throw CorruptSegment("a record's mark makes no sense");
  return py::make_tuple(
      assemble(mark.rest, leaves),
      named_tuple(makers_.mark, py::object(makers_.ends[header.ends]), py::int_(header.shard),
                  py::int_(header.offset), py::int_(header.digest), py::bytes(mark.inner),
                  py::int_(header.before), py::tuple()));
}

py::object Unpacker::assemble(std::span<const std::byte> structure, const py::list& leaves) {
  const auto known = repeated_;
  if (known && as_text(structure) == known->structure) return fill(*known, leaves);
  const py::bytes text(as_text(structure));  // in shared memory it might change
  const auto copy = static_cast<std::string_view>(text);
  if (!repeats_.is_due(copy)) return makers_.decode(text, leaves);
  const auto repeated = learn(std::string(copy), leaves.size());
  repeated_ = repeated;
  return fill(*repeated, leaves);
}

std::shared_ptr<const Unpacker::Repeated> Unpacker::learn(std::string structure,
                                                          std::size_t num_leaves) const {
  auto repeated = std::make_shared<Repeated>(std::move(structure));
  const py::object plain = makers_.decode_plain(py::bytes(repeated->structure), num_leaves);
  if (!plain.is_none()) {
    const auto [tree, placeholders] = plain.cast<std::pair<py::object, py::list>>();
    repeated->shape = Template::of(tree, placeholders);
  }
  return repeated;
}

py::object Unpacker::fill(const Repeated& repeated, const py::list& leaves) const {
  const auto& shape = repeated.shape;
  if (shape && shape->num_leaves() == leaves.size()) return shape->fill(leaves);
  return makers_.decode(py::bytes(repeated.structure), leaves);
}

void bind_unpacker(py::module_& module) {
  py::class_<Unpacker>(module, "Unpacker", py::is_final(),
                       "Makes of a record what it means. One for each ring.")
      .def(py::init([](py::object from_dlpack, py::object asarray, py::object decode,
                       py::object decode_plain, py::object load_event, py::object load_end,
                       py::type mark, py::tuple ends) {
             return Unpacker({std::move(from_dlpack), std::move(asarray), std::move(decode),
                              std::move(decode_plain), std::move(load_event), std::move(load_end),
                              std::move(mark), std::move(ends)});
           }),
           py::kw_only(), py::arg("from_dlpack"), py::arg("asarray"), py::arg("decode"),
           py::arg("decode_plain"), py::arg("load_event"), py::arg("load_end"), py::arg("mark"),
           py::arg("ends"))
      .def("open", &Unpacker::open, py::arg("record"),
           "((microbatch, mark) or (event, None), bytes of its frame, whether it is a private "
           "copy); raises what ends the pass.")
      .def(
          "unpack",
          [](Unpacker& unpacker, const py::bytes& structure, const py::list& leaves) {
            const auto text = static_cast<std::string_view>(structure);
            return unpacker.unpack(std::as_bytes(std::span(text)), leaves);
          },
          py::arg("structure"), py::arg("leaves"),
          "(microbatch, mark) or (event, None), of leaves that were made elsewhere.");
}

}  // namespace fkat
