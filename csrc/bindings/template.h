// Template: a structure that has come before, to be filled with other leaves, or found again.
//
// Microbatch after microbatch has the same structure, and most are made of dicts, lists and tuples.
// Unpickling that again costs some 10 us, and several times as much behind a training step, when
// nothing of pickle is in the caches any more; this copies the containers. No Python of ours runs,
// but before Python 3.12 a collection of garbage may run in between, and with it finalizers.

#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

namespace fkat {

class Template {
 public:
  // Of what pickle has made of the structure with `placeholders` for leaves. None where a copy of
  // it might differ from what pickle makes (a container of another type, or one that stands in two
  // places, or a value that must not be shared), and where it is nested deeply.
  static std::optional<Template> of(const pybind11::object& tree,
                                    const pybind11::list& placeholders);

  // How many placeholders there were.
  std::size_t num_leaves() const { return num_leaves_; }

  // New containers, around these leaves: as many as there were placeholders.
  pybind11::object fill(const pybind11::list& leaves) const;

  // The reverse: what stands in `tree` instead of the placeholders. None where anything else is
  // different, or what was one object is two, or two are one. Runs no Python while it looks.
  std::optional<pybind11::list> match(const pybind11::object& tree) const;

 private:
  enum class Kind { kLeaf, kConstant, kDict, kList, kTuple };

  struct Node {
    Kind kind;
    std::size_t leaf = 0;             // kLeaf: its number
    pybind11::object constant = {};   // kConstant; kDict: a tuple of its keys
    std::vector<Node> children = {};  // of a container, in order
  };

  class Compiler;
  class Matcher;

  Template(Node root, std::size_t num_leaves) : root_(std::move(root)), num_leaves_(num_leaves) {}
  static pybind11::object fill(const Node& node, const pybind11::list& leaves);

  Node root_;
  std::size_t num_leaves_;
};

}  // namespace fkat
