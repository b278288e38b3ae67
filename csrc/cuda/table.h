#pragma once
// The kernels by name, filled in by the files that define them when the library is loaded.

namespace stmixer {
namespace cuda {

struct TableEntry {
  TableEntry(const char* name, const void* kernel);
};

}  // namespace cuda
}  // namespace stmixer

#define STMIXER_ENTER(name) \
  static const stmixer::cuda::TableEntry name##_entry(#name, reinterpret_cast<const void*>(&name));
