#include "bindings/mark.h"

#include <cstring>
#include <limits>
#include <string>

#include "base/bytes.h"
#include "base/error.h"
#include "bindings/bindings.h"

namespace py = pybind11;

namespace fkat {
namespace {

py::bytes pack_mark(std::uint8_t ends, std::int64_t shard, std::int64_t offset,
                    std::uint32_t digest, const py::bytes& inner, std::uint32_t before) {
  const auto text = static_cast<std::string_view>(inner);
  if (text.size() > std::numeric_limits<std::uint32_t>::max()) {
    throw ArgumentError("the state of a loader has " + format_nbytes(text.size()) +
                        ", more than the 4 GiB that a mark can carry");
  }
  const MarkHeader header{shard, offset, digest, before, static_cast<std::uint32_t>(text.size()),
                          ends,  {}};
  std::string packed(reinterpret_cast<const char*>(&header), sizeof header);
  packed += text;
  return packed;
}

}  // namespace

MarkView::MarkView(std::span<const std::byte> text) {
  if (text.size() < sizeof header) throw CorruptSegment("a record is shorter than its mark");
  std::memcpy(&header, text.data(), sizeof header);
  text = text.subspan(sizeof header);
  if (text.size() < header.inner_nbytes) throw CorruptSegment("a record's mark is cut short");
  inner = {reinterpret_cast<const char*>(text.data()), header.inner_nbytes};
  rest = text.subspan(header.inner_nbytes);
}

void bind_mark(py::module_& module) {
  module.attr("EVENT") = kEvent;
  module.def("pack_mark", &pack_mark, py::arg("ends"), py::arg("shard"), py::arg("offset"),
             py::arg("digest"), py::arg("inner"), py::arg("before"),
             "The bytes of a mark; with `shard` EVENT, those in front of an event.");
}

}  // namespace fkat
