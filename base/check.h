#pragma once

#include <sstream>
#include <string>

// CHECK is for programmer errors: on in release builds, prints both values, aborts. Nothing that a
// request, a file or a peer sends may reach one: those are Status.

namespace skein::detail {

[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               const std::string& values);

template <typename A, typename B>
[[noreturn]] void check_op_failed(const char* file, int line, const char* condition, const A& a,
                                  const B& b) {
  std::ostringstream out;
  out << a << " against " << b;
  check_failed(file, line, condition, out.str());
}

}  // namespace skein::detail

#define CHECK(condition)                                                          \
  do {                                                                            \
    if (!(condition)) [[unlikely]]                                                \
      ::skein::detail::check_failed(__FILE__, __LINE__, #condition, "");          \
  } while (false)

#define CHECK_OP(a, op, b)                                                        \
  do {                                                                            \
    const auto& check_a = (a);                                                    \
    const auto& check_b = (b);                                                    \
    if (!(check_a op check_b)) [[unlikely]]                                       \
      ::skein::detail::check_op_failed(__FILE__, __LINE__, #a " " #op " " #b,     \
                                       check_a, check_b);                         \
  } while (false)

#define CHECK_EQ(a, b) CHECK_OP(a, ==, b)
#define CHECK_NE(a, b) CHECK_OP(a, !=, b)
#define CHECK_LT(a, b) CHECK_OP(a, <, b)
#define CHECK_LE(a, b) CHECK_OP(a, <=, b)
#define CHECK_GT(a, b) CHECK_OP(a, >, b)
#define CHECK_GE(a, b) CHECK_OP(a, >=, b)
