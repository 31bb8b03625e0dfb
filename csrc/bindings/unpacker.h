// Unpacker: what a record of the ring means, as the trainer's Python code wants it.
//
// One for each ring, used by one thread at a time, with the GIL. It makes a microbatch with few
// steps, because behind a training step each costs a fetch from memory; what is out of the ordinary
// it leaves to Python.

#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "bindings/microbatch.h"
#include "bindings/repeats.h"
#include "bindings/template.h"

namespace fkat {

class Unpacker {
 public:
  // What it makes things with.
  struct Makers {
    pybind11::object from_dlpack;   // (DLPack capsule) -> tensor
    pybind11::object asarray;       // (object with the buffer protocol) -> array
    pybind11::object decode;        // (structure: bytes, leaves) -> microbatch
    pybind11::object decode_plain;  // (structure: bytes, num_leaves) -> (tree, placeholders) | None
    pybind11::object load_event;    // (bytes) -> event
    pybind11::object load_end;      // (record that is no microbatch) -> exception
    pybind11::type mark;            // a named tuple: see python's _source/note.py
    pybind11::tuple ends;           // members of Ends by their numbers
  };

  explicit Unpacker(Makers makers) : makers_(std::move(makers)) {}

  // Of a Microbatch: ((microbatch, mark), or (event, None); bytes of its frame; whether it is a
  // private copy), its leaves views of its memory. Of another record it throws what load_end makes.
  // Throws CorruptSegment, and what the makers raise.
  pybind11::tuple open(const pybind11::object& record);

  // The first of these, of leaves that were made elsewhere. Throws the same.
  pybind11::tuple unpack(std::span<const std::byte> text, const pybind11::list& leaves);

 private:
  // A structure that came several times in a row. Never changed, and held while it is used:
  // whatever runs Python, a finalizer in a collection of garbage too, may come back to this object.
  struct Repeated {
    std::string structure;
    std::optional<Template> shape;
  };

  pybind11::object assemble(std::span<const std::byte> structure, const pybind11::list& leaves);
  std::shared_ptr<const Repeated> learn(std::string structure, std::size_t num_leaves) const;
  pybind11::object fill(const Repeated& repeated, const pybind11::list& leaves) const;

  Makers makers_;
  Repeats repeats_;
  std::shared_ptr<const Repeated> repeated_;
};

}  // namespace fkat
