// The test harness: TEST(name) { ... }, CHECK, CHECK_EQ, CHECK_THROWS. Include it once per program.
//
// A failed check ends its test and fails the program; in a thread it ends the program. The optional
// argument is a part of a test's name, or a number: see check::rounds. Zero tests run is a failure.

#pragma once

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace fkat::check {

struct Failure {};

struct Test {
  const char* name;
  void (*body)();
};

inline std::vector<Test> tests;
inline long given_rounds = 0;

// How often to repeat: the program's argument, or `otherwise`.
inline long rounds(long otherwise) {
  return given_rounds > 0 ? given_rounds : otherwise;
}

struct Registration {
  Registration(const char* name, void (*body)()) { tests.push_back({name, body}); }
};

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
  throw Failure{};
}

template <typename T>
std::string show(const T& value) {
  std::ostringstream text;
  if constexpr (std::is_enum_v<T>) {
    text << +static_cast<std::underlying_type_t<T>>(value);
  } else if constexpr (requires { text << value; }) {
    text << value;
  } else {
    text << "?";
  }
  return text.str();
}

template <typename A, typename B>
bool equal(const A& a, const B& b) {
  // Plain == would warn of a literal's sign.
  constexpr bool numbers = std::is_integral_v<A> && std::is_integral_v<B> &&
                           !std::is_same_v<A, bool> && !std::is_same_v<B, bool>;
  if constexpr (numbers) {
    return std::cmp_equal(a, b);
  } else {
    return a == b;
  }
}

template <typename A, typename B>
void check_equal(const char* file, int line, const char* text, const A& a, const B& b) {
  if (!equal(a, b)) fail(file, line, std::string(text) + ": " + show(a) + " is not " + show(b));
}

template <typename Error, typename Body>
void check_throws(const char* file, int line, const char* text, const std::string& part,
                  const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    if (std::string(error.what()).find(part) != std::string::npos) return;
    fail(file, line,
         std::string(text) + " threw \"" + error.what() + "\", without \"" + part + '"');
  }
  fail(file, line, std::string(text) + " threw nothing");
}

inline bool passes(const Test& test) {
  try {
    test.body();
    return true;
  } catch (const Failure&) {
  } catch (const std::exception& error) {
    std::fprintf(stderr, "threw \"%s\"\n", error.what());
  }
  std::fprintf(stderr, "FAILED %s\n", test.name);
  return false;
}

inline int run(const std::string& argument) {
  given_rounds = std::atol(argument.c_str());
  const std::string part = given_rounds > 0 ? "" : argument;
  int num_run = 0;
  int num_failed = 0;
  for (const Test& test : tests) {
    if (std::string(test.name).find(part) == std::string::npos) continue;
    ++num_run;
    num_failed += passes(test) ? 0 : 1;
  }
  std::printf("%d tests, %d failed\n", num_run, num_failed);
  return num_run != 0 && num_failed == 0 ? 0 : 1;
}

}  // namespace fkat::check

#define TEST(name)                                                            \
  static void name();                                                         \
  static const fkat::check::Registration registration_of_##name(#name, name); \
  static void name()

#define CHECK(...) \
  ((__VA_ARGS__) ? void() : fkat::check::fail(__FILE__, __LINE__, "CHECK(" #__VA_ARGS__ ")"))
#define CHECK_EQ(a, b) fkat::check::check_equal(__FILE__, __LINE__, #a, (a), (b))
#define CHECK_THROWS(Error, expression, part)                             \
  fkat::check::check_throws<Error>(__FILE__, __LINE__, #expression, part, \
                                   [&] { static_cast<void>(expression); })

int main(int argc, char** argv) {
  return fkat::check::run(argc > 1 ? argv[1] : "");
}
