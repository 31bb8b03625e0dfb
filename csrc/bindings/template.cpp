#include "bindings/template.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "bindings/checked.h"

namespace py = pybind11;

namespace fkat {
namespace {

constexpr int kMaxDepth = 100;

// What may be shared among microbatches: nobody can change it, nobody has made it special, and
// nobody can tell that it is the same. Not bytes (torch.frombuffer gives write access to them), and
// not NaN (which equals itself in a container, if it is the same object).
bool is_constant(PyObject* object) {
  return object == Py_None || PyBool_Check(object) || PyLong_CheckExact(object) ||
         PyUnicode_CheckExact(object) ||
         (PyFloat_CheckExact(object) && !std::isnan(PyFloat_AS_DOUBLE(object))) ||
         (PyTuple_CheckExact(object) && PyTuple_GET_SIZE(object) == 0);
}

std::uint64_t bits(PyObject* number) {
  return std::bit_cast<std::uint64_t>(PyFloat_AS_DOUBLE(number));
}

// Whether pickle would write the same. Of a constant and anything else; asks no class of the
// user's.
bool is_same(PyObject* constant, PyObject* object) {
  if (constant == object) return true;
  if (Py_TYPE(constant) != Py_TYPE(object)) return false;
  if (PyFloat_CheckExact(constant)) return bits(constant) == bits(object);  // 0.0 == -0.0
  const int is_equal = PyObject_RichCompareBool(constant, object, Py_EQ);
  if (is_equal < 0) PyErr_Clear();  // as deep as recursion may go: pickle will say so
  return is_equal == 1;
}

}  // namespace

class Template::Compiler {
 public:
  explicit Compiler(const py::list& placeholders) {
    for (std::size_t i = 0; i < placeholders.size(); ++i) {
      leaves_.emplace(PyList_GET_ITEM(placeholders.ptr(), static_cast<Py_ssize_t>(i)), i);
    }
  }

  std::optional<Node> compile(PyObject* object, int depth = 0) {
    if (const auto leaf = leaves_.find(object); leaf != leaves_.end()) {
      return Node{.kind = Kind::kLeaf, .leaf = leaf->second};
    }
    if (is_constant(object)) {
      return Node{.kind = Kind::kConstant, .constant = py::reinterpret_borrow<py::object>(object)};
    }
    if (depth == kMaxDepth || !seen_.insert(object).second) return std::nullopt;
    if (PyDict_CheckExact(object)) return compile_dict(object, depth);
    if (PyList_CheckExact(object)) {
      return compile_items(Kind::kList, PyList_GET_SIZE(object), depth,
                           [&](Py_ssize_t i) { return PyList_GET_ITEM(object, i); });
    }
    if (PyTuple_CheckExact(object)) {
      return compile_items(Kind::kTuple, PyTuple_GET_SIZE(object), depth,
                           [&](Py_ssize_t i) { return PyTuple_GET_ITEM(object, i); });
    }
    return std::nullopt;
  }

 private:
  std::optional<Node> compile_dict(PyObject* dict, int depth) {
    Node node{.kind = Kind::kDict};
    const py::tuple keys(static_cast<std::size_t>(PyDict_GET_SIZE(dict)));
    Py_ssize_t position = 0;
    PyObject *key = nullptr, *value = nullptr;
    while (PyDict_Next(dict, &position, &key, &value)) {
      auto child = compile(value, depth + 1);
      if (!child || !is_constant(key)) return std::nullopt;
      Py_INCREF(key);
      PyTuple_SET_ITEM(keys.ptr(), static_cast<Py_ssize_t>(node.children.size()), key);
      node.children.push_back(std::move(*child));
    }
    node.constant = keys;
    return node;
  }

  template <typename Item>
  std::optional<Node> compile_items(Kind kind, Py_ssize_t count, int depth, Item item) {
    Node node{.kind = kind};
    for (Py_ssize_t i = 0; i < count; ++i) {
      auto child = compile(item(i), depth + 1);
      if (!child) return std::nullopt;
      node.children.push_back(std::move(*child));
    }
    return node;
  }

  std::unordered_map<PyObject*, std::size_t> leaves_;
  std::unordered_set<PyObject*> seen_;  // containers
};

class Template::Matcher {
 public:
  explicit Matcher(std::size_t num_leaves) : leaves_(num_leaves) {}

  bool match(const Node& node, PyObject* object) {
    const auto size = static_cast<Py_ssize_t>(node.children.size());
    switch (node.kind) {
      case Kind::kLeaf:
        return match_leaf(node.leaf, object);
      case Kind::kConstant:
        return is_same(node.constant.ptr(), object);
      case Kind::kDict:
        return PyDict_CheckExact(object) && PyDict_GET_SIZE(object) == size &&
               match_dict(node, object);
      case Kind::kList:
        return PyList_CheckExact(object) && PyList_GET_SIZE(object) == size &&
               match_items(node, object, [&](Py_ssize_t i) { return PyList_GET_ITEM(object, i); });
      case Kind::kTuple:
        return PyTuple_CheckExact(object) && PyTuple_GET_SIZE(object) == size &&
               match_items(node, object, [&](Py_ssize_t i) { return PyTuple_GET_ITEM(object, i); });
    }
    return false;  // not reached
  }

  // None if one object stands where there were two.
  std::optional<py::list> leaves() {
    std::ranges::sort(seen_);
    if (std::ranges::adjacent_find(seen_) != seen_.end()) return std::nullopt;
    if (num_found_ != leaves_.size()) return std::nullopt;  // nobody pickles like that
    return std::move(leaves_);
  }

 private:
  bool match_leaf(std::size_t number, PyObject* object) {
    PyObject*& place = reinterpret_cast<PyListObject*>(leaves_.ptr())->ob_item[number];
    if (place != nullptr) return place == object;  // a leaf that stands in several places
    Py_INCREF(object);
    place = object;
    ++num_found_;
    seen_.push_back(object);
    return true;
  }

  bool match_dict(const Node& node, PyObject* dict) {
    seen_.push_back(dict);
    Py_ssize_t position = 0, i = 0;
    PyObject *key = nullptr, *value = nullptr;
    for (; PyDict_Next(dict, &position, &key, &value); ++i) {
      if (!is_same(PyTuple_GET_ITEM(node.constant.ptr(), i), key)) return false;
      if (!match(node.children[static_cast<std::size_t>(i)], value)) return false;
    }
    return true;
  }

  template <typename Item>
  bool match_items(const Node& node, PyObject* container, Item item) {
    seen_.push_back(container);
    for (std::size_t i = 0; i < node.children.size(); ++i) {
      if (!match(node.children[i], item(static_cast<Py_ssize_t>(i)))) return false;
    }
    return true;
  }

  py::list leaves_;
  std::size_t num_found_ = 0;
  std::vector<PyObject*> seen_;  // containers and leaves
};

std::optional<Template> Template::of(const py::object& tree, const py::list& placeholders) {
  auto root = Compiler(placeholders).compile(tree.ptr());
  if (!root) return std::nullopt;
  return Template(std::move(*root), placeholders.size());
}

py::object Template::fill(const py::list& leaves) const {
  return fill(root_, leaves);
}

std::optional<py::list> Template::match(const py::object& tree) const {
  Matcher matcher(num_leaves_);
  if (!matcher.match(root_, tree.ptr())) return std::nullopt;
  return matcher.leaves();
}

py::object Template::fill(const Node& node, const py::list& leaves) {
  const auto size = static_cast<Py_ssize_t>(node.children.size());
  switch (node.kind) {
    case Kind::kLeaf:
      return py::reinterpret_borrow<py::object>(
          PyList_GET_ITEM(leaves.ptr(), static_cast<Py_ssize_t>(node.leaf)));
    case Kind::kConstant:
      return node.constant;
    case Kind::kDict: {
      py::object dict = checked(PyDict_New());
      for (Py_ssize_t i = 0; i < size; ++i) {
        const py::object value = fill(node.children[static_cast<std::size_t>(i)], leaves);
        PyObject* const key = PyTuple_GET_ITEM(node.constant.ptr(), i);
        if (PyDict_SetItem(dict.ptr(), key, value.ptr()) != 0) throw py::error_already_set();
      }
      return dict;
    }
    case Kind::kList: {
      py::object list = checked(PyList_New(size));
      for (Py_ssize_t i = 0; i < size; ++i) {
        py::object value = fill(node.children[static_cast<std::size_t>(i)], leaves);
        PyList_SET_ITEM(list.ptr(), i, value.release().ptr());
      }
      return list;
    }
    case Kind::kTuple: {
      py::object tuple = checked(PyTuple_New(size));
      for (Py_ssize_t i = 0; i < size; ++i) {
        py::object value = fill(node.children[static_cast<std::size_t>(i)], leaves);
        PyTuple_SET_ITEM(tuple.ptr(), i, value.release().ptr());
      }
      return tuple;
    }
  }
  return py::none();  // not reached
}

}  // namespace fkat
