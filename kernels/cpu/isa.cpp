#include "kernels/cpu/isa.h"

#include <cpuid.h>

#include <cstdlib>
#include <string>

namespace skein {
namespace {

// clang 14's __builtin_cpu_supports does not know this one.
bool has_f16c() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

// __builtin_cpu_supports also asks whether the operating system saves the registers.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }

}  // namespace

Result<const IsaKernels*> choose_kernels() {
  if (!has_avx2()) {
    return unsupported(
        "this processor lacks AVX2, FMA or F16C, which Skein's CPU kernels need: run on an x86-64 "
        "processor of 2013 (Intel Haswell) or 2015 (AMD Excavator) or later");
  }
  const char* named = std::getenv("SKEIN_CPU_ISA");
  if (named == nullptr || *named == '\0') {
    return has_vnni() ? &vnni_kernels() : has_avx512() ? &avx512_kernels() : &avx2_kernels();
  }
  const std::string name = named;
  if (name == "avx2") return &avx2_kernels();
  if (name == "avx512" && has_avx512()) return &avx512_kernels();
  if (name == "vnni" && has_vnni()) return &vnni_kernels();
  if (name == "avx512" || name == "vnni") {
    return unsupported("SKEIN_CPU_ISA asks for " + name + ", which this processor lacks");
  }
  return invalid_argument("SKEIN_CPU_ISA is '" + name + "'; it can be avx2, avx512 or vnni");
}

}  // namespace skein
