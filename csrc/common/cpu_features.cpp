#include "common/cpu_features.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace stmixer {

bool isa_supported(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return true;
#ifdef STMIXER_X86
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    default:
      return false;
  }
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    default:
      return "scalar";
  }
}

Isa current_isa() {
  const char* forced = std::getenv("STMIXER_CPU_ISA");
  if (forced == nullptr || *forced == '\0') {
    if (isa_supported(Isa::avx512)) return Isa::avx512;
    return isa_supported(Isa::avx2) ? Isa::avx2 : Isa::scalar;
  }
  const std::string name = forced;
  for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (name != isa_name(isa)) continue;
    if (!isa_supported(isa))
      throw std::runtime_error("STMIXER_CPU_ISA=" + name + ": this machine does not have it");
    return isa;
  }
  throw std::runtime_error("STMIXER_CPU_ISA must be scalar, avx2 or avx512, not '" + name + "'");
}

}  // namespace stmixer
